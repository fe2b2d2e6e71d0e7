-- What every script begins with. All keys start with the same word: one Redis holds one deployment.

local function key(...) return table.concat({'tts', ...}, ':') end

local function micro()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

local function now() return math.floor(micro() / 1000) end

local function number(value) return tonumber(value or '') or 0 end

-- Metrics: a field for each row of the page that Prometheus reads, under its own words; a hash for each name.
-- What cannot be counted keeps nothing from being written.
local function count(row, by) redis.pcall('HINCRBYFLOAT', key('metrics', string.match(row, '^[^{]+')), row, by or 1) end

-- How a tenant is called there: the first hundred by their names, all others together.
local function label(tenant)
  if redis.call('SISMEMBER', key('labelled'), tenant) == 1 then return tenant end
  if redis.call('SCARD', key('labelled')) >= 100 then return 'other' end
  redis.call('SADD', key('labelled'), tenant)
  return tenant
end

-- A job that ends without a worker.
local function count_end(job, state, stop)
  count(string.format('tts_jobs_ended_total{tenant="%s",strategy="%s",state="%s",stop="%s"}', label(job.tenant),
    job.strategy or '', state, stop))
end

-- Followers of one job listen to its own channel; that it has ended is told to all.
local function tell(id) redis.call('PUBLISH', key('news', id), '') end

-- A tenant's turn: whoever was served longest ago is next. Those at their limit of running jobs have none.
local function take_a_seat(tenant)
  local queued = redis.call('LLEN', key('queue', tenant))
  local limit = tonumber(redis.call('HGET', key('tenant', tenant), 'running') or '')
  local running = number(redis.call('HGET', key('count', tenant), 'running'))
  if queued == 0 or (limit and running >= limit) then
    redis.call('ZREM', key('turns'), tenant)
  else
    redis.call('ZADD', key('turns'), 'NX', redis.call('INCR', key('turn')), tenant)
  end
end

local function forget(id, tenant)
  redis.call('DEL', key('job', id), key('journal', id), key('live', id))
  redis.call('ZREM', key('jobs', tenant), id)
end

-- Give back what a tenant, and a batch, had set aside for a job, and book what it cost: all that its journal says was
-- spent and, where it was interrupted, its open holds, which may have been. Dollars are kept in billionths, so that sums
-- are exact.
local function settle(job)
  local account = key('spend', job.tenant, job.window)
  local cost = {}
  for _, unit in ipairs({'tokens', 'usd', 'flops'}) do
    cost[unit] = number(job['spent_' .. unit]) + number(job['open_' .. unit])
  end
  local batch = job.batch and key('batch', job.batch)
  local holds = function(unit) return number(redis.call('HGET', batch, 'hold_' .. unit)) end
  redis.call('HINCRBY', account, 'jobs', 1)
  for _, unit in ipairs({'tokens', 'usd'}) do
    local given = number(job['hold_' .. unit])
    if batch then given = holds(unit) > 0 and cost[unit] or 0 end
    redis.call('HINCRBY', account, unit, cost[unit])
    redis.call('HINCRBY', account, 'held_' .. unit, -given)
  end
  if not batch then return end
  if not job.started then redis.call('HINCRBY', batch, 'started', 1) end -- it wants no share any more
  for unit, spent in pairs(cost) do
    redis.call('HINCRBYFLOAT', batch, 'spent_' .. unit, spent)
    redis.call('HINCRBYFLOAT', batch, 'held_' .. unit, -number(job['share_' .. unit]))
  end
  if redis.call('HINCRBY', batch, 'ended', 1) < number(redis.call('HGET', batch, 'size')) then return end
  for _, unit in ipairs({'tokens', 'usd'}) do -- what nobody needed
    local left = holds(unit) - number(redis.call('HGET', batch, 'spent_' .. unit))
    if holds(unit) > 0 then redis.call('HINCRBY', account, 'held_' .. unit, -math.floor(left)) end
  end
end

local FIELDS = {'tenant', 'window', 'state', 'hold_tokens', 'hold_usd', 'batch', 'share_tokens', 'share_usd',
  'share_flops', 'spent_tokens', 'spent_usd', 'spent_flops', 'open_tokens', 'open_usd', 'open_flops', 'store', 'purge',
  'retain', 'fence', 'started', 'strategy'}

local function read(id)
  local values, job = redis.call('HMGET', key('job', id), unpack(FIELDS)), {}
  for i, name in ipairs(FIELDS) do job[name] = values[i] or nil end
  return job
end

-- A job is over: in this order, so that whoever hears of it finds all of it.
local function close(id, job, state, fields)
  settle(job)
  redis.call('HINCRBY', key('count', job.tenant), job.state == 'running' and 'running' or 'queued', -1)
  redis.call('ZREM', key('leases'), id)
  take_a_seat(job.tenant)
  redis.call('HSET', key('job', id), 'state', state, 'ended', now(), unpack(fields))
  redis.call('DEL', key('live', id))
  if job.purge then
    forget(id, job.tenant)
  else
    if job.store == '0' then
      redis.call('DEL', key('journal', id))
      redis.call('HDEL', key('job', id), 'spec')
    end
    redis.call('PEXPIRE', key('job', id), job.retain)
    redis.call('PEXPIRE', key('journal', id), job.retain)
  end
  tell(id)
  redis.call('PUBLISH', key('ended'), id)
end

-- Keep the name of a job that nobody could bring to its end, for as long as the job itself is kept.
local function bury(id, retain)
  redis.call('ZADD', key('dead'), now(), id)
  redis.call('ZREMRANGEBYSCORE', key('dead'), '-inf', now() - number(retain))
end

-- Back to the front of its queue, out of reach of whoever had it.
local function requeue(id, job)
  redis.call('HSET', key('job', id), 'state', 'queued', 'waiting', now())
  redis.call('HINCRBY', key('job', id), 'fence', 1)
  redis.call('HINCRBY', key('count', job.tenant), 'running', -1)
  redis.call('HINCRBY', key('count', job.tenant), 'queued', 1)
  redis.call('ZREM', key('leases'), id)
  redis.call('LPUSH', key('queue', job.tenant), id)
  take_a_seat(job.tenant)
  tell(id)
end
