-- How many. The newest dead letters: id, tenant, when, why.
local found = {}
for _, id in ipairs(redis.call('ZREVRANGE', key('dead'), 0, ARGV[1] - 1)) do
  local job = redis.call('HMGET', key('job', id), 'tenant', 'ended', 'error')
  if job[1] then found[#found + 1] = {id, job[1], job[2], job[3]} end
end
return found
