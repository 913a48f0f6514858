-- Stores messages: access, dedupe, seq, log and (where no replica is waited for) publish, one step for each.
--
-- KEYS  per room: meta, log, members, read positions, dedupe even, dedupe odd
-- ARGV  1 dedupe window ms   2 entries kept   3 how many more before a trim   4 age kept ms (0: any)
--       5 how long an abandoned room is kept ms (0: for ever)
--       6 '1': publish here; '0': the caller publishes after replicas have confirmed
--       then per room: its channel
--       then per message: room (1 is the first), access (DIRECT + OPEN + SYSTEM), user, dedupe field, id, time, entry
-- Reply per message: {NEW, epoch, seq, created} | {REPEATED, epoch, seq, id, time, entry where the caller publishes}
--       | {refusal} | an error
local ROOM_KEYS, MESSAGE_ARGS, HEADER = 6, 7, 6
local window, max_entries, slack = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local max_age, ends_after, publishing = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
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

-- Two hashes take turns; what is in either is known. A generation is named by the millisecond of its beginning, and lasts
-- for the longest window under which anything was stored in it or in the one before: whatever windows are in force, one
-- after the other or at once, a mark counts for the one that it was stored under at least. A release that named them by
-- their number since 1970 goes on with the hash whose turn it was.
local NAMED_BY_NUMBER = 1e11

local function named(time, turn)
  return time % 2 == turn and time or time + 1
end

local function windows_of(room)
  return room.own == room.earlier and digits(room.own) or digits(room.own) .. ':' .. digits(room.earlier)
end

local function turn_dedupe(room)
  local own, before = window, window
  local is_usual = room.windows == ARGV[1]
  if room.windows and not is_usual then
    local first, second = string.match(room.windows, '^(%d+):?(%d*)$')
    own = math.max(tonumber(first), window)
    before = tonumber(second) or tonumber(first)
  end
  local begun = room.generation
  if begun > 0 and begun < NAMED_BY_NUMBER then begun = named(now, begun % 2) end
  local over = now - begun - math.max(own, before)
  if begun == 0 or over >= 0 then
    room.turned = true
    -- The newest mark of the generation that ends is not older than `over`.
    room.before = begun > 0 and over < own
    before, own = own, window
    begun = named(now, 1 - begun % 2)
  end
  room.own, room.earlier = own, before
  room.changes = begun ~= room.generation or not is_usual and windows_of(room) ~= room.windows
  room.begun = begun
  room.current = room.dedupe[begun % 2 + 1]
  room.previous = room.dedupe[(begun + 1) % 2 + 1]
end

-- Before the first mark of a new generation: what still has its name is older than any window.
local function begin_generation(room)
  redis.call('UNLINK', room.current)
  if not room.before then redis.call('UNLINK', room.previous) end
  note_emptied(room, room.log)
  room.turned = false
end

local function live_until(key, time)
  local left = redis.call('PTTL', key)
  if left == -1 or (left >= 0 and now + left < time) then redis.call('PEXPIREAT', key, digits(time)) end
end

-- Whatever became of the keys' ends (another window, another release, a copy of the data), they get them again: when
-- anything about the generation changes, and now and then. Returns when the generation ends, where that was done.
local CHECKED = 64

local function keep_generation(room)
  if room.changes then
    set(room, 'g', digits(room.begun))
    set(room, 'q', room.before and '1' or '0')
    set(room, 'w', windows_of(room))
  elseif math.floor(room.head / CHECKED) == math.floor(room.loaded / CHECKED) then
    return
  end
  local ends = room.begun + math.max(room.own, room.earlier)
  live_until(room.current, ends + room.own)
  if room.before then live_until(room.previous, ends) end
  return ends
end

local rooms = {}
local function room_of(number)
  local room = rooms[number]
  if room then return room end
  local place = tonumber(number)
  local key = (place - 1) * ROOM_KEYS
  room = load_room(KEYS[key + 1])
  room.log, room.members, room.reads = KEYS[key + 2], KEYS[key + 3], KEYS[key + 4]
  room.dedupe = { KEYS[key + 5], KEYS[key + 6] }
  room.channel = ARGV[HEADER + place]
  room.loaded = room.head
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
  local done, seq, place = pcall(append, room, room.log, entry)
  if not done then
    -- The mark must not outlive what it stands for.
    redis.call('HDEL', room.current, field)
    error(seq, 0)
  end
  room.stored = true
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
  local last
  if room.stored then
    last = keep_generation(room)
    trim(room, room.log, max_entries, slack, max_age)
  end
  write_back(room)
  if last then settle_ends(room, room.log, room.reads, last, max_age, ends_after) end
end
say()
return replies
