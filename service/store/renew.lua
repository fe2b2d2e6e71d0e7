-- worker, lease in ms, what the worker says of itself, then id and fence of the jobs it has. Renews their leases, and
-- takes those that expired away from whoever had them. {stale ids, cancelled ids, number requeued}.
local t, lease = now(), tonumber(ARGV[2])
redis.call('HSET', key('workers'), ARGV[1], cjson.encode({at = t, about = ARGV[3]}))
local stale, cancelled, requeued = {}, {}, 0
for i = 4, #ARGV, 2 do
  local held = redis.call('HMGET', key('job', ARGV[i]), 'fence', 'state', 'cancel')
  if held[1] ~= ARGV[i + 1] or held[2] ~= 'running' then
    stale[#stale + 1] = ARGV[i]
  else
    redis.call('ZADD', key('leases'), t + lease, ARGV[i])
    if held[3] then cancelled[#cancelled + 1] = ARGV[i] end
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('leases'), '-inf', t, 'LIMIT', 0, 100)) do
  local job = read(id)
  if job.state == 'running' then
    requeue(id, job)
    count('tts_jobs_requeued_total')
    requeued = requeued + 1
  else
    redis.call('ZREM', key('leases'), id)
  end
end
return {stale, cancelled, requeued}
