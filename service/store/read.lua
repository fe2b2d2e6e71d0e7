-- id. The entries of its journal, what is kept of unsettled calls in the order in which it came, and how many entries
-- metrics have counted.
local kept, values = redis.call('HKEYS', key('live', ARGV[1])), {}
table.sort(kept)
for i, name in ipairs(kept) do values[i] = redis.call('HGET', key('live', ARGV[1]), name) end
return {redis.call('LRANGE', key('journal', ARGV[1]), 0, -1), values, number(redis.call('HGET', key('job', ARGV[1]), 'counted'))}
