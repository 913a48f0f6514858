-- Creates a room, or says whether the one that is there is the same.
--
-- KEYS  meta, members, order
-- ARGV  1 kind: d | g | o   2 time   3 members at most   4 how long an abandoned room is kept ms
--       then user, role, user, role, ...
-- Reply 1 created | 0 the same was there | OTHER_KIND | FULL | FORBIDDEN: a group with other members
local meta, members, order = unpack(KEYS)
local kind, time, max_members, ends_after = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local HEADER = 4
local count = (#ARGV - HEADER) / 2

local function same_members()
  if redis.call('HLEN', members) ~= count then return false end
  for at = HEADER + 1, #ARGV, 2 do
    local member = redis.call('HGET', members, ARGV[at])
    if not member or string.sub(member, 1, 1) ~= ARGV[at + 1] then return false end
  end
  return true
end

local room = load_room(meta)
if room.kind then
  -- WAIT counts from this connection's own last write: see append.lua.
  redis.call('HSET', meta, 'h', digits(room.head))
  if room.kind ~= kind then return OTHER_KIND end
  return (kind ~= 'g' or same_members()) and 0 or FORBIDDEN
end
if count > max_members then return FULL end
create_room(room, kind, time)
settle_epoch(room)
room.touched = true
write_back(room)
for at = HEADER + 1, #ARGV, 2 do
  redis.call('HSET', members, ARGV[at], ARGV[at + 1] .. ':0')
  redis.call('ZADD', order, 0, ARGV[at])
end
room.members = members
if ends_after > 0 and may_end(room) then end_at(meta, now + ends_after) end
return 1
