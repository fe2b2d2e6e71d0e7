-- All that was counted, as rows and amounts; then how things stand: dead letters, milliseconds that the job has waited which
-- waits longest, and of each tenant with a name of its own: name, queued, running, milliseconds its window has left, what it
-- has spent and set aside in it (tokens, billionths of dollars), and its limits, '' where it has none.
local t, oldest, tenants = now(), 0, {}
for _, tenant in ipairs(redis.call('SMEMBERS', key('labelled'))) do
  local limit = redis.call('HMGET', key('tenant', tenant), 'period', 'tokens', 'usd')
  local period = number(limit[1]) > 0 and number(limit[1]) or 86400000
  local window = math.floor(t / period)
  local spent = redis.call('HMGET', key('spend', tenant, window), 'tokens', 'usd', 'held_tokens', 'held_usd')
  local jobs = redis.call('HMGET', key('count', tenant), 'queued', 'running')
  local first = redis.call('LINDEX', key('queue', tenant), 0)
  if first then
    local since = redis.call('HMGET', key('job', first), 'waiting', 'created')
    oldest = math.max(oldest, t - (tonumber(since[1] or '') or math.floor(number(since[2]) / 1000)))
  end
  tenants[#tenants + 1] = {tenant, number(jobs[1]), number(jobs[2]), (window + 1) * period - t, number(spent[1]),
    number(spent[2]), number(spent[3]), number(spent[4]), limit[2] or '', limit[3] or ''}
end
return {redis.call('HGETALL', key('metrics')), redis.call('ZCARD', key('dead')), oldest, tenants}
