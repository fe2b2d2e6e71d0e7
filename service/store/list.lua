-- tenant, newest time, how many. Id and fields of its jobs, without the large ones; those that have expired are dropped.
local found = {}
local names = {'tenant', 'state', 'created', 'started', 'ended', 'batch', 'fence', 'spent_tokens', 'spent_usd', 'cancel',
  'error', 'worker', 'model', 'strategy'}
local newest, most, seen = ARGV[2], tonumber(ARGV[3]), 0
repeat
  -- Those that were found stay where they are; those that have expired make room for the next.
  local ids = redis.call('ZREVRANGEBYSCORE', key('jobs', ARGV[1]), newest, '-inf', 'LIMIT', #found, most - #found)
  seen = #ids
  for _, id in ipairs(ids) do
    local values, fields = redis.call('HMGET', key('job', id), unpack(names)), {}
    for i, name in ipairs(names) do
      if values[i] then
        fields[#fields + 1] = name
        fields[#fields + 1] = values[i]
      end
    end
    if values[1] then found[#found + 1] = {id, fields} else redis.call('ZREM', key('jobs', ARGV[1]), id) end
  end
until seen == 0 or #found == most
return found
