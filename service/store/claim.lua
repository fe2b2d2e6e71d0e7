-- worker, how many, lease in ms, most attempts. The jobs whose turn it is: {id, fence, tenant, specification, share,
-- how metrics call the tenant, milliseconds in which it was queued before its first start}.
-- Then how many are still queued by those whose turn it is next, at least.
local worker, wanted, lease, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local t, claimed = now(), {}

-- A job of a batch gets an equal share of what the batch has left: what one does not need, the later ones have. Where
-- that is less than anything costs, it gets the least there is, and finds so for itself.
local function share(id, batch)
  local b = redis.call('HMGET', key('batch', batch), 'budget', 'size', 'started', 'first')
  local budget, left, mine = cjson.decode(b[1]), tonumber(b[2]) - tonumber(b[3]), {}
  for _, unit in ipairs({'tokens', 'usd', 'flops'}) do
    if budget[unit] then
      local used = redis.call('HMGET', key('batch', batch), 'spent_' .. unit, 'held_' .. unit)
      local free = budget[unit] - number(used[1]) - number(used[2])
      mine[unit] = math.max(1, unit == 'flops' and free / left or math.floor(free / left))
      redis.call('HINCRBYFLOAT', key('batch', batch), 'held_' .. unit, mine[unit])
      redis.call('HSET', key('job', id), 'share_' .. unit, mine[unit])
    end
  end
  if budget.seconds then
    local first = b[4] or t
    redis.call('HSETNX', key('batch', batch), 'first', t)
    mine.seconds = math.max(0.001, budget.seconds - (t - first) / 1000)
  end
  redis.call('HINCRBY', key('batch', batch), 'started', 1)
  local parts = {}
  for unit, amount in pairs(mine) do parts[#parts + 1] = string.format('"%s":%.17g', unit, amount) end
  local encoded = '{' .. table.concat(parts, ',') .. '}' -- cjson would round
  redis.call('HSET', key('job', id), 'share', encoded)
  return encoded
end

while #claimed < wanted do
  local tenant = redis.call('ZRANGE', key('turns'), 0, 0)[1]
  if not tenant then break end
  redis.call('ZREM', key('turns'), tenant)
  local id = redis.call('LPOP', key('queue', tenant))
  local job = id and redis.call('HMGET', key('job', id), 'state', 'spec', 'attempts', 'mark', 'batch', 'share', 'progress', 'retain', 'created')
  if job and job[1] == 'queued' then
    local progress = number(job[7])
    local attempts = (job[4] and progress > tonumber(job[4])) and 1 or tonumber(job[3]) + 1
    if attempts > most then
      local poison = read(id)
      close(id, poison, 'dead', {'error', cjson.encode({code = 'poison',
        detail = 'its worker died ' .. most .. ' times in a row before it got any further'})})
      bury(id, job[8])
      count_end(poison, 'dead', 'error')
    else
      local fence = redis.call('HINCRBY', key('job', id), 'fence', 1)
      redis.call('HSET', key('job', id), 'state', 'running', 'worker', worker, 'attempts', attempts, 'mark', progress)
      redis.call('HSETNX', key('job', id), 'started', t)
      redis.call('ZADD', key('leases'), t + lease, id)
      redis.call('HINCRBY', key('count', tenant), 'queued', -1)
      redis.call('HINCRBY', key('count', tenant), 'running', 1)
      local mine = job[6] or (job[5] and share(id, job[5])) or ''
      claimed[#claimed + 1] = {id, fence, tenant, job[2], mine, label(tenant), t - math.floor(job[9] / 1000)}
      tell(id)
    end
  end
  take_a_seat(tenant)
end
return {claimed, redis.call('ZCARD', key('turns'))}
