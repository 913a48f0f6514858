-- Changes one membership of a group and stores the entry that tells the room, in one step. The last owner may leave:
-- the group lives on, and whoever has the right of a backend can make another.
--
-- KEYS  meta, log, members (user -> "role:joined"), order (the users, sorted by bytes), read positions
-- ARGV  1 entries kept   2 how many more before a trim   3 age kept ms   4 how long an abandoned room is kept ms
--       5 members at most   6 '1': publish here; '0': the caller publishes   7 channel
--       8 access   9 who does it   10 whose membership   11 role: o(wner) | a(dmin) | m(ember); '': none any more
--       12 time   13 entry
-- Reply {NEW, epoch, seq, 0} | {UNCHANGED} | {refusal}
local meta, log, members, order, reads = unpack(KEYS)
local max_entries, slack, max_age = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ends_after, max_members, publishing, channel = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1', ARGV[7]
local system, actor, user, role = tonumber(ARGV[8]) >= SYSTEM, ARGV[9], ARGV[10], ARGV[11]
local entry = ARGV[13]

local function role_of(name)
  local member = redis.call('HGET', members, name)
  return member and string.sub(member, 1, 1), member
end

local function refusal(room)
  if not room.kind then return NO_ROOM end
  if room.kind ~= 'g' then return OTHER_KIND end
  if system then return nil end
  local rank = role_of(actor)
  if not rank then return NOT_A_MEMBER end
  if role == '' and actor == user then return nil end
  if rank == 'm' then return FORBIDDEN end
  -- An owner is made and unmade by owners only.
  if rank == 'a' and (role == 'o' or role_of(user) == 'o') then return FORBIDDEN end
end

local room = load_room(meta)
local refused = refusal(room)
if refused then return { refused } end
local had, member = role_of(user)
if (had or '') == role then
  -- WAIT counts from this connection's own last write: see append.lua.
  if not publishing then redis.call('HSET', meta, 'h', digits(room.head)) end
  return { UNCHANGED }
end
if not had and redis.call('HLEN', members) >= max_members then return { FULL } end

room.members = members
note_emptied(room, log)
local seq = append(room, log, entry)
if role == '' then
  redis.call('HDEL', members, user)
  redis.call('ZREM', order, user)
  redis.call('HDEL', reads, user)
else
  local joined = member and string.sub(member, 3) or digits(seq)
  redis.call('HSET', members, user, role .. ':' .. joined)
  redis.call('ZADD', order, 0, user)
end
trim(room, log, max_entries, slack, max_age)
write_back(room)
settle_ends(room, log, reads, math.max(now, generation_ends(room)), max_age, ends_after)
if publishing then
  publish(channel, room.epoch, seq, entry)
  say()
end
return { NEW, room.epoch, digits(seq), 0 }
