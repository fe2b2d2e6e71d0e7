-- tenant, id, start. How its job stands, for whoever follows it: state, fence, and its journal from there on. Nil where
-- there is no such job of this tenant. One look, so that of a job that is over all entries are there.
local job = redis.call('HMGET', key('job', ARGV[2]), 'tenant', 'state', 'fence')
if job[1] ~= ARGV[1] then return nil end
return {job[2], tonumber(job[3]), redis.call('LRANGE', key('journal', ARGV[2]), ARGV[3], -1)}
