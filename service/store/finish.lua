-- id, fence, state, result, error ('' where there is none), then rows of metrics and amounts. 'ok' or 'stale'.
local id, job = ARGV[1], read(ARGV[1])
if job.fence ~= ARGV[2] then return 'stale' end
if job.state ~= 'running' then return 'ok' end -- it was heard the first time
local fields = {'result', ARGV[4]}
if ARGV[5] ~= '' then fields = {'result', ARGV[4], 'error', ARGV[5]} end
if ARGV[3] == 'dead' then bury(id, job.retain) end
close(id, job, ARGV[3], fields)
for i = 6, #ARGV, 2 do count(ARGV[i], ARGV[i + 1]) end
return 'ok'
