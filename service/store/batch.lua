-- id. All fields of a batch, and its jobs.
return {redis.call('HGETALL', key('batch', ARGV[1])), redis.call('LRANGE', key('batch', ARGV[1], 'jobs'), 0, -1)}
