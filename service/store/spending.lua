-- tenant. What it has spent and set aside in this window, its limits, its jobs, and how long the window lasts.
local period = number(redis.call('HGET', key('tenant', ARGV[1]), 'period'))
if period == 0 then period = 86400000 end
local t = now()
local window = math.floor(t / period)
return {redis.call('HGETALL', key('spend', ARGV[1], window)), redis.call('HGETALL', key('tenant', ARGV[1])),
  redis.call('HGETALL', key('count', ARGV[1])), (window + 1) * period - t}
