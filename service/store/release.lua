-- id and fence of jobs that a worker hands back. How many went.
local handed = 0
for i = 1, #ARGV, 2 do
  local job = read(ARGV[i])
  if job.fence == ARGV[i + 1] and job.state == 'running' then
    requeue(ARGV[i], job)
    redis.call('HINCRBY', key('job', ARGV[i]), 'attempts', -1)
    handed = handed + 1
  end
end
return handed
