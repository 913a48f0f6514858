-- Changes one membership of a group and stores the entry that tells the room, in one step. The last owner may leave:
-- the group lives on, and whoever has the right of a backend can make another.
--
-- KEYS  meta, log, members (user -> "role:joined"), order (the users, sorted by bytes), read positions
-- ARGV  1 entries kept   2 how many more before a trim   3 age kept ms   4 members at most
--       5 '1': publish here; '0': the caller publishes   6 channel
--       7 access   8 who does it   9 whose membership   10 role: o(wner) | a(dmin) | m(ember); '': none any more
--       11 time   12 entry
-- Reply {NEW, epoch, seq, 0} | {UNCHANGED} | {refusal}
local meta, log, members, order, reads = unpack(KEYS)
local max_entries, slack, max_age = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local max_members, publishing, channel = tonumber(ARGV[4]), ARGV[5] == '1', ARGV[6]
local system, actor, user, role = tonumber(ARGV[7]) >= SYSTEM, ARGV[8], ARGV[9], ARGV[10]
local entry = ARGV[12]

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
if publishing then
  publish(channel, room.epoch, seq, entry)
  say()
end
return { NEW, room.epoch, digits(seq), 0 }
