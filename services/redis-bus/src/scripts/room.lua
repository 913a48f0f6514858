-- Shared by the scripts that write a room's log; they are sent to redis with this text in front of them.
--
-- A room's meta hash:
--   k kind: d(irect) | g(roup) | o(pen)      c created, unix milliseconds        n members (groups)
--   h head: the last seq                     f first: the oldest seq kept        o time of the oldest entry, about
--   e epoch in force                         p its transitions, oldest first: "epoch:base,epoch:base"
--   r the master's replication id at the last append
--   g the newest dedupe generation           q 1: the generation before it holds something
--
-- Replies are numbers and strings only. An answer begins with one of these:
local NEW, REPEATED, UNCHANGED = 0, 1, 2
local NO_ROOM, NOT_A_MEMBER, FORBIDDEN, FULL, OTHER_KIND = 10, 11, 12, 13, 14
local DIRECT, OPEN, SYSTEM = 1, 2, 4
local MAX_TRANSITIONS = 32

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Asked once per call, and inside it: which master this is cannot change between the answer and the append.
local master_id
local function master()
  if not master_id then
    local info = redis.call('INFO', 'replication')
    local _, before = string.find(info, 'master_replid:', 1, true)
    master_id = before and string.sub(info, before + 1, before + 40) or ''
  end
  return master_id
end

local function digits(number)
  return string.format('%d', number)
end

local function load_room(meta)
  local m = redis.call('HMGET', meta, 'k', 'h', 'e', 'r', 'f', 'o', 'g', 'q')
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
    changed = {},
  }
end

local function set(room, field, value)
  room.changed[#room.changed + 1] = field
  room.changed[#room.changed + 1] = value
end

-- The epoch moves on with the first append on another master: its log may lack what the last one had.
local function settle_epoch(room)
  if room.master == master() then return end
  room.epoch = math.max(room.epoch + 1, now)
  room.master = master()
  local transitions = {}
  for one in string.gmatch(redis.call('HGET', room.meta, 'p') or '', '[^,]+') do
    transitions[#transitions + 1] = one
  end
  transitions[#transitions + 1] = digits(room.epoch) .. ':' .. digits(room.head)
  local from = math.max(1, #transitions - MAX_TRANSITIONS + 1)
  set(room, 'e', digits(room.epoch))
  set(room, 'r', room.master)
  set(room, 'p', table.concat(transitions, ',', from))
end

local function create_room(room, kind, time)
  room.kind = kind
  set(room, 'k', kind)
  set(room, 'c', time)
end

-- Removes what retention no longer keeps. By age a piece at a time: the rest goes with the next appends.
local function trim(room, log, max_entries, slack, max_age, time)
  if room.head - room.first + 1 > max_entries + slack then
    room.first = room.first + redis.call('XTRIM', log, 'MAXLEN', '=', max_entries)
    set(room, 'f', digits(room.first))
  end
  if max_age == 0 or time - room.oldest <= max_age then return end
  local piece = redis.call('XRANGE', log, '-', '+', 'COUNT', 128)
  local keep = room.first
  for _, entry in ipairs(piece) do
    room.oldest = tonumber(entry[2][2])
    if time - room.oldest <= max_age then break end
    keep = keep + 1
  end
  if keep > room.first then
    redis.call('XTRIM', log, 'MINID', '=', digits(keep) .. '-0')
    room.first = keep
    set(room, 'f', digits(keep))
  end
  set(room, 'o', digits(room.oldest))
end

-- Gives the next seq, as the number and as its digits. `t` stands first in the entry: see trim.
local function append(room, log, entry, time)
  settle_epoch(room)
  local seq = room.head + 1
  local place = digits(seq)
  redis.call('XADD', log, place .. '-0', 't', time, 'e', entry)
  room.head = seq
  room.touched = true
  if room.oldest == 0 then
    room.oldest = tonumber(time)
    set(room, 'o', time)
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
