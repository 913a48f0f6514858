-- Shared by the scripts that write a room's log; they are sent to redis with this text in front of them.
--
-- A room's meta hash:
--   k kind: d(irect) | g(roup) | o(pen)      c created, unix milliseconds        n members (groups)
--   h head: the last seq                     f first: the oldest seq kept        o time of the oldest entry, about
--   e epoch in force                         p its transitions, oldest first: "epoch:base,epoch:base"
--   r the master's replication id at the last append
--   g the newest dedupe generation, named by the unix milliseconds of its beginning: even and odd ones take turns with
--     the two hashes                         q 1: the generation before it holds something
--   w for how long its marks count, ms; "own:before" where it is another time for those of the generation before it
-- What is left of a deleted room for a while is one field: d its last epoch.
--
-- Replies are numbers and strings only. An answer begins with one of these:
local NEW, REPEATED, UNCHANGED = 0, 1, 2
local NO_ROOM, NOT_A_MEMBER, FORBIDDEN, FULL, OTHER_KIND = 10, 11, 12, 13, 14
local DIRECT, OPEN, SYSTEM = 1, 2, 4
local MAX_TRANSITIONS = 32
-- An epoch is redis' time in milliseconds and, in its last digits, a part of the master's id: two masters whose clocks
-- show the same do not give the same epoch. Stays below 2^53 until the year 2109.
local EPOCHS_PER_MS = 2048

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local stamp = string.format('%d', now)

-- Asked once per call, and inside it: which master this is cannot change between the answer and the append.
local master_id
local function master()
  if not master_id then
    local info = redis.call('INFO', 'replication')
    local _, before = string.find(info, 'master_replid:', 1, true)
    if not before then error('this redis shows no master_replid: a failover would not be noticed', 0) end
    master_id = string.sub(info, before + 1, before + 40)
  end
  return master_id
end

local function digits(number)
  return string.format('%d', number)
end

local function load_room(meta)
  local m = redis.call('HMGET', meta, 'k', 'h', 'e', 'r', 'f', 'o', 'g', 'q', 'w')
  return {
    meta = meta,
    kind = m[1],
    head = tonumber(m[2] or 0),
    epoch = tonumber(m[3] or 0),
    master = m[4],
    first = tonumber(m[5] or 1),
    oldest = tonumber(m[6] or 0),
    generation = tonumber(m[7] or 0),
    before = m[8] == '1',
    windows = m[9],
    changed = {},
  }
end

local function set(room, field, value)
  room.changed[#room.changed + 1] = field
  room.changed[#room.changed + 1] = value
end

local function next_epoch(last)
  local mark = tonumber(string.sub(master(), 1, 3), 16) % EPOCHS_PER_MS
  return math.max(now, math.floor(last / EPOCHS_PER_MS) + 1) * EPOCHS_PER_MS + mark
end

-- Those that are kept, and the new one. What falls off the list leaves its base with the oldest that is kept, where that
-- is smaller: what it took back stays taken back.
local function transitions_with(list, epoch, base)
  local transitions = {}
  for one in string.gmatch(list, '[^,]+') do
    transitions[#transitions + 1] = one
  end
  transitions[#transitions + 1] = digits(epoch) .. ':' .. digits(base)
  local from = math.max(1, #transitions - MAX_TRANSITIONS + 1)
  if from > 1 then
    local least = base
    for at = 1, from do
      least = math.min(least, tonumber(string.match(transitions[at], ':(%d+)')) or 0)
    end
    transitions[from] = string.match(transitions[from], '^%d+') .. ':' .. digits(least)
  end
  return table.concat(transitions, ',', from)
end

-- The epoch moves on with the first append on another master: its log may lack what the last one had.
local function settle_epoch(room)
  if room.master == master() then return end
  room.epoch = next_epoch(room.epoch)
  room.master = master()
  set(room, 'e', digits(room.epoch))
  set(room, 'r', room.master)
  set(room, 'p', transitions_with(redis.call('HGET', room.meta, 'p') or '', room.epoch, room.head))
end

-- One that takes the id of a deleted room has a greater epoch: whoever has a position in that one is told.
local function create_room(room, kind, time)
  local last = redis.call('HGET', room.meta, 'd')
  if last then
    room.epoch = tonumber(last)
    redis.call('UNLINK', room.meta)
  end
  room.kind = kind
  set(room, 'k', kind)
  set(room, 'c', time)
end

-- Removes what retention no longer keeps. By age a piece at a time: the rest goes with the next appends. Age counts from
-- when redis got an entry, by its own clock: no other process' clock removes anything.
local function trim(room, log, max_entries, slack, max_age)
  if room.head - room.first + 1 > max_entries + slack then
    room.first = room.first + redis.call('XTRIM', log, 'MAXLEN', '=', max_entries)
    set(room, 'f', digits(room.first))
  end
  if max_age == 0 or now - room.oldest <= max_age then return end
  local piece = redis.call('XRANGE', log, '-', '+', 'COUNT', 128)
  local keep = room.first
  for _, entry in ipairs(piece) do
    -- What something else has put there has no time: it goes when its turn comes.
    room.oldest = tonumber(entry[2][2]) or 0
    if now - room.oldest <= max_age then break end
    keep = keep + 1
  end
  if keep > room.first then
    redis.call('XTRIM', log, 'MINID', '=', digits(keep) .. '-0')
    room.first = keep
    set(room, 'f', digits(keep))
  end
  set(room, 'o', digits(room.oldest))
end

-- What retention by age had not removed has gone with the log's own end, see settle_ends.
local function note_emptied(room, log)
  if room.first > room.head or redis.call('EXISTS', log) == 1 then return end
  room.first, room.oldest = room.head + 1, 0
  set(room, 'f', digits(room.first))
  set(room, 'o', '0')
end

-- Until when messages may come without a new dedupe generation beginning.
local function generation_ends(room)
  local own, before = string.match(room.windows or '', '^(%d+):?(%d*)$')
  if not own then return 0 end
  return room.generation + math.max(tonumber(own), tonumber(before) or 0)
end

local function end_at(key, time)
  if time then
    redis.call('PEXPIREAT', key, digits(time))
  else
    redis.call('PERSIST', key)
  end
end

local function may_end(room)
  return room.kind == 'o' or (room.kind == 'g' and redis.call('HLEN', room.members) == 0)
end

-- What nobody uses any more goes by itself: the log of a room that is idle for as long as messages are kept, and all of an
-- open room that is idle, or of a group without members, after `ends_after` (ms; 0: never). Called after write_back, and
-- again before `last`, or before the first message after it. All keys of a room that ends have the same time, so that none
-- is found without the others.
local function settle_ends(room, log, reads, last, max_age, ends_after)
  local room_ends = ends_after > 0 and may_end(room) and last + ends_after
  local log_ends = max_age > 0 and last + max_age
  if room_ends then log_ends = math.min(room_ends, log_ends or room_ends) end
  end_at(room.meta, room_ends)
  end_at(reads, room_ends)
  end_at(log, log_ends)
end

-- Gives the next seq, as the number and as its digits. `t` (when redis got it) stands first in the entry: see trim.
local function append(room, log, entry)
  settle_epoch(room)
  local seq = room.head + 1
  local place = digits(seq)
  redis.call('XADD', log, place .. '-0', 't', stamp, 'e', entry)
  room.head = seq
  room.touched = true
  if room.oldest == 0 then
    room.oldest = now
    set(room, 'o', stamp)
  end
  return seq, place
end

-- What goes over the channels: see envelope.rs. Said last, when everything is written, and to this server's subscribers
-- only: replicas have the entries themselves, and nobody listens there.
local sayings = {}
local function publish(channel, epoch, seq, entry)
  sayings[#sayings + 1] = channel
  sayings[#sayings + 1] = struct.pack('>BBI8I8', 1, 1, epoch, seq) .. entry
end

local function say()
  if #sayings == 0 then return end
  redis.set_repl(redis.REPL_NONE)
  for at = 1, #sayings, 2 do
    redis.call('SPUBLISH', sayings[at], sayings[at + 1])
  end
  redis.set_repl(redis.REPL_ALL)
end

-- Always called, also when an operation failed half way: the log and its head must agree.
local function write_back(room)
  if room.touched then set(room, 'h', digits(room.head)) end
  if #room.changed > 0 then redis.call('HSET', room.meta, unpack(room.changed)) end
end
