-- Stores messages: access, dedupe, seq, log and (where no replica is waited for) publish, one step for each.
--
-- KEYS  per room: meta, log, members, dedupe even, dedupe odd
-- ARGV  1 dedupe window ms   2 entries kept   3 how many more before a trim   4 age kept ms (0: any)
--       5 '1': publish here; '0': the caller publishes after replicas have confirmed
--       then per room: its channel
--       then per message: room (1 is the first), access (DIRECT + OPEN + SYSTEM), user, dedupe field, id, time, entry
-- Reply per message: {NEW, epoch, seq, created} | {REPEATED, epoch, seq, id, time, entry where the caller publishes}
--       | {refusal} | an error
local ROOM_KEYS, MESSAGE_ARGS, HEADER = 5, 7, 5
local window, max_entries, slack = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local max_age, publishing = tonumber(ARGV[4]), ARGV[5] == '1'
local room_count = #KEYS / ROOM_KEYS

local function refusal(room, access, user, time)
  local direct, open, system = access % 2 == 1, access % 4 >= OPEN, access >= SYSTEM
  if not room.kind then
    if direct then
      create_room(room, 'd', time)
    elseif open then
      create_room(room, 'o', time)
    else
      return NO_ROOM
    end
    room.created = true
  elseif system then
    return nil
  elseif room.kind == 'd' then
    return not direct and FORBIDDEN or nil
  elseif room.kind == 'o' then
    return not open and FORBIDDEN or nil
  elseif not redis.call('HGET', room.members, user) then
    return NOT_A_MEMBER
  end
end

-- Two hashes take turns, each for one window; what is in either is known. A retry is known for one window at least.
local function turn_dedupe(room)
  room.turn = math.max(math.floor(now / window), room.generation)
  room.current = room.dedupe[room.turn % 2 + 1]
  room.previous = room.dedupe[(room.turn + 1) % 2 + 1]
  room.turned = room.turn > room.generation
  if room.turned then room.before = room.turn == room.generation + 1 end
end

-- Before the first mark of a new generation: what still has its name is two windows old or older.
local function begin_generation(room)
  redis.call('UNLINK', room.current)
  if not room.before then redis.call('UNLINK', room.previous) end
  set(room, 'g', digits(room.turn))
  set(room, 'q', room.before and '1' or '0')
  room.turned = false
  room.expires = true
end

local rooms = {}
local function room_of(number)
  local room = rooms[number]
  if room then return room end
  local place = tonumber(number)
  local key = (place - 1) * ROOM_KEYS
  room = load_room(KEYS[key + 1])
  room.log, room.members = KEYS[key + 2], KEYS[key + 3]
  room.dedupe = { KEYS[key + 4], KEYS[key + 5] }
  room.channel = ARGV[HEADER + place]
  rooms[number] = room
  return room
end

local function repeated(room, mark)
  local seq, time, id = string.match(mark, '^(%d+) (%d+) (.*)$')
  local place = seq .. '-0'
  local found = redis.call('XRANGE', room.log, place, place)[1]
  local entry = found and found[2][4] or ''
  if publishing then
    if found then publish(room.channel, room.epoch, tonumber(seq), entry) end
    return { REPEATED, room.epoch, seq, id, time, '' }
  end
  -- WAIT counts from this connection's own last write: without one it would confirm what it has not seen.
  room.touched = true
  return { REPEATED, room.epoch, seq, id, time, entry }
end

local function store(number, access, user, field, id, time, entry)
  local room = room_of(number)
  local refused = refusal(room, tonumber(access), user, time)
  if refused then return { refused } end
  if not room.current then turn_dedupe(room) end
  local mark = room.before and redis.call('HGET', room.previous, field)
  if mark then return repeated(room, mark) end
  if room.turned then begin_generation(room) end
  mark = digits(room.head + 1) .. ' ' .. time .. ' ' .. id
  if redis.call('HSETNX', room.current, field, mark) == 0 then
    return repeated(room, redis.call('HGET', room.current, field))
  end
  local done, seq, place = pcall(append, room, room.log, entry, time)
  if not done then
    -- The mark must not outlive what it stands for.
    redis.call('HDEL', room.current, field)
    error(seq, 0)
  end
  room.newest = time
  if publishing then publish(room.channel, room.epoch, seq, entry) end
  local created = room.created and 1 or 0
  room.created = nil
  return { NEW, room.epoch, place, created }
end

local replies = {}
for at = HEADER + room_count + 1, #ARGV, MESSAGE_ARGS do
  local done, reply = pcall(store, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5],
    ARGV[at + 6])
  if not done then
    reply = type(reply) == 'table' and reply or redis.error_reply('ERR ' .. tostring(reply))
  end
  replies[#replies + 1] = reply
end
for _, room in pairs(rooms) do
  if room.expires then redis.call('PEXPIRE', room.current, 2 * window) end
  if room.newest then trim(room, room.log, max_entries, slack, max_age, tonumber(room.newest)) end
  write_back(room)
end
say()
return replies
