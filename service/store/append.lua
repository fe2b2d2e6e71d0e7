-- id, fence, position, how much further this is, six amounts (spent and open: tokens, usd, flops), number of entries,
-- entries, number of checkpoints to drop, their names, number of rows of metrics and, unless it is 0, how many entries
-- are counted with them, rows and amounts; then name and value of checkpoints to keep. Returns 'ok', 'cancel' (written, and the caller wants the job to end), or 'stale'.
local id, position, more = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[11])
local held = redis.call('HMGET', key('job', id), 'fence', 'cancel')
if held[1] ~= ARGV[2] then return 'stale' end
local answer = held[2] and 'cancel' or 'ok'
-- Nobody else writes under this fence, so what is longer already was heard the first time. What is shorter has not heard
-- what its worker said before: that worker has let go of the job, and nothing may come after a gap.
local length = redis.call('LLEN', key('journal', id))
if more > 0 and length > position then return answer end
if more > 0 and length < position then return 'stale' end
for i = 12, 11 + more do redis.call('RPUSH', key('journal', id), ARGV[i]) end
for i, name in ipairs({'spent_tokens', 'spent_usd', 'spent_flops', 'open_tokens', 'open_usd', 'open_flops'}) do
  local command = i % 3 == 0 and 'HINCRBYFLOAT' or 'HINCRBY' -- FLOPs outgrow whole numbers
  if tonumber(ARGV[4 + i]) ~= 0 then redis.call(command, key('job', id), name, ARGV[4 + i]) end
end
if ARGV[4] ~= '0' then redis.call('HINCRBY', key('job', id), 'progress', ARGV[4]) end
local at = 12 + more
local dropped = tonumber(ARGV[at])
for i = at + 1, at + dropped do redis.call('HDEL', key('live', id), ARGV[i]) end
at = at + dropped + 1
local rows = tonumber(ARGV[at])
if rows > 0 then
  at = at + 1
  redis.call('HSET', key('job', id), 'counted', ARGV[at])
end
for i = at + 1, at + 2 * rows, 2 do count(ARGV[i], ARGV[i + 1]) end
for i = at + 2 * rows + 1, #ARGV, 2 do redis.call('HSET', key('live', id), ARGV[i], ARGV[i + 1]) end
tell(id)
return answer
