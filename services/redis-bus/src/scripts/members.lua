-- A group's members in order of user id.
--
-- KEYS  meta, members, order
-- ARGV  1 from behind this user; '': from the first   2 members at most
-- Reply {kind or '', user, "role:joined", user, "role:joined", ...}
local meta, members, order = unpack(KEYS)
local after = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local reply = { redis.call('HGET', meta, 'k') or '' }
for _, user in ipairs(redis.call('ZRANGEBYLEX', order, after, '+', 'LIMIT', 0, ARGV[2])) do
  reply[#reply + 1] = user
  reply[#reply + 1] = redis.call('HGET', members, user) or 'm:0'
end
return reply
