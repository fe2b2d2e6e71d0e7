-- ask (JSON), then id, model, strategy and specification of each job. Nothing is changed unless all of it is accepted.
-- Returns {'accepted' | 'same', id} or {reason, milliseconds to wait | other job, what is left}.
local ask = cjson.decode(ARGV[1])
local tenant, size, t = ask.tenant, (#ARGV - 1) / 4, now()
local owner = ask.batch and key('batch', ask.batch) or key('job', ARGV[2])
local name = ask.batch or ARGV[2]
if redis.call('EXISTS', owner) == 1 then return {'accepted', name} end -- it was heard the first time

local same = ask.idempotency and key('same', tenant, ask.idempotency)
if same then
  local known = redis.call('HMGET', same, 'digest', 'id')
  -- Of a job that was purged nothing is left, its key neither.
  local there = known[2] and redis.call('EXISTS', key('job', known[2]), key('batch', known[2])) == 1
  if there then return {known[1] == ask.digest and 'same' or 'conflict', known[2]} end
end

local function refuse(reason, wait, about)
  count(string.format('tts_jobs_refused_total{tenant="%s",reason="%s"}', label(tenant), reason), size)
  return {reason, wait, about}
end

local limits = {}
local flat = redis.call('HGETALL', key('tenant', tenant))
for i = 1, #flat, 2 do limits[flat[i]] = tonumber(flat[i + 1]) end
local queued = number(redis.call('HGET', key('count', tenant), 'queued'))
if size > (limits.queued or ask.most_queued) then return refuse('size', 0, limits.queued or ask.most_queued) end
if queued + size > (limits.queued or ask.most_queued) then return refuse('queue', 1000, queued) end

-- Generic cell rate: the theoretical arrival time of the next job may not lie further ahead than the burst.
local arrival
if limits.rate then
  local every = 60000 / limits.rate
  arrival = math.max(t, number(redis.call('GET', key('rate', tenant)))) + every * size
  local early = arrival - t - math.max(limits.rate, size) * every
  if early > 0 then return refuse('rate', math.ceil(early), limits.rate) end
end

local period = limits.period or 86400000
local window = math.floor(t / period)
local account = key('spend', tenant, window)
for _, unit in ipairs({'tokens', 'usd'}) do
  if limits[unit] then
    local spent = redis.call('HMGET', account, unit, 'held_' .. unit)
    local free = limits[unit] - number(spent[1]) - number(spent[2])
    if not ask[unit] then return refuse('unbounded', 0, unit) end
    if ask[unit] > free then return refuse('budget', (window + 1) * period - t, unit .. ' ' .. free) end
  end
end

redis.call('HINCRBY', account, 'held_tokens', ask.tokens or 0)
redis.call('HINCRBY', account, 'held_usd', ask.usd or 0)
redis.call('PEXPIRE', account, 2 * period + 86400000 * 32)
if arrival then redis.call('SET', key('rate', tenant), arrival, 'PX', math.ceil(arrival - t)) end
if same then
  redis.call('HSET', same, 'digest', ask.digest, 'id', name)
  redis.call('PEXPIRE', same, ask.retain)
end
-- Jobs are listed by when they came, in microseconds. No two of a tenant came at once: a page can end after any of them.
local listed = key('jobs', tenant)
redis.call('ZREMRANGEBYSCORE', listed, '-inf', micro() - 2000 * ask.retain) -- expired, and nobody ever looked
local created = math.max(micro(), number(redis.call('ZREVRANGE', listed, 0, 0, 'WITHSCORES')[2]) + 1)
local common = {'tenant', tenant, 'window', window, 'state', 'queued', 'fence', 0, 'attempts', 0,
  'store', ask.store and '1' or '0', 'retain', ask.store and ask.retain or ask.linger}
if ask.batch then
  redis.call('HSET', owner, 'tenant', tenant, 'created', t, 'size', size, 'ended', 0, 'started', 0,
    'hold_tokens', ask.tokens or 0, 'hold_usd', ask.usd or 0, 'budget', ask.budget)
  redis.call('PEXPIRE', owner, ask.retain + 86400000)
  common[#common + 1] = 'batch'
  common[#common + 1] = ask.batch
else
  for _, unit in ipairs({'tokens', 'usd'}) do
    common[#common + 1] = 'hold_' .. unit
    common[#common + 1] = ask[unit] or 0
  end
end
for i = 2, #ARGV, 4 do
  local id = ARGV[i]
  redis.call('HSET', key('job', id), 'model', ARGV[i + 1], 'strategy', ARGV[i + 2], 'spec', ARGV[i + 3],
    'created', created, unpack(common))
  redis.call('RPUSH', key('queue', tenant), id)
  redis.call('ZADD', listed, created, id)
  created = created + 1
end
for _, id in ipairs(ask.listed or {}) do redis.call('RPUSH', key('batch', ask.batch, 'jobs'), id) end
if ask.batch then redis.call('PEXPIRE', key('batch', ask.batch, 'jobs'), ask.retain + 86400000) end
redis.call('PEXPIRE', listed, 2 * ask.retain)
redis.call('HINCRBY', key('count', tenant), 'queued', size)
count(string.format('tts_jobs_submitted_total{tenant="%s"}', label(tenant)), size)
take_a_seat(tenant)
return {'accepted', name}
