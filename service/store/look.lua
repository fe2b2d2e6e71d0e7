-- id. All fields of a job.
return redis.call('HGETALL', key('job', ARGV[1]))
