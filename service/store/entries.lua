-- id, start. Its journal from there on.
return redis.call('LRANGE', key('journal', ARGV[1]), ARGV[2], -1)
