-- lease in ms. The workers heard of lately, and what they say of themselves; the others are forgotten.
local alive, flat = {}, redis.call('HGETALL', key('workers'))
for i = 1, #flat, 2 do
  local said = cjson.decode(flat[i + 1])
  if said.at + number(ARGV[1]) < now() then
    redis.call('HDEL', key('workers'), flat[i])
  else
    alive[#alive + 1] = flat[i]
    alive[#alive + 1] = said.about
  end
end
return alive
