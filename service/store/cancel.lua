-- tenant, id, purge. The state it had; nil where there is no such job of this tenant. One that was interrupted keeps its
-- place: whoever claims it finds what it had come to.
local tenant, id = ARGV[1], ARGV[2]
local job = read(id)
if job.tenant ~= tenant then return nil end
if ARGV[3] == '1' then redis.call('HSET', key('job', id), 'purge', 1) job.purge = '1' end
if job.state == 'queued' and redis.call('EXISTS', key('journal', id)) == 0 then
  redis.call('LREM', key('queue', tenant), 1, id)
  close(id, job, 'cancelled', {'cancel', 1})
  count_end(job, 'cancelled', 'cancelled')
elseif job.state == 'queued' or job.state == 'running' then
  redis.call('HSET', key('job', id), 'cancel', 1)
  redis.call('PUBLISH', key('orders'), id)
elseif job.purge then
  forget(id, tenant)
end
return job.state
