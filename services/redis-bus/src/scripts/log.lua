-- Reads a part of a room's log and, in the same step, what is needed to judge a position in it.
--
-- KEYS  meta, log
-- ARGV  1 'after' | 'before' | 'latest'   2 seq   3 entries at most   4 bytes at most (one entry is always given)
-- Reply {} where there is no such room, or {head, first, epoch, transitions, seq, entry, seq, entry, ...}: ascending
--       after, descending before and latest
local meta, log = unpack(KEYS)
local way, seq, limit, max_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- The first piece is small, as nobody knows yet how large entries are here; the next ones are as large as will be given.
local FIRST_PIECE, LARGEST_PIECE = 4, 512

local m = redis.call('HMGET', meta, 'k', 'h', 'f', 'e', 'p')
if not m[1] then return {} end
local reply = { m[2] or '0', m[3] or '1', m[4] or '0', m[5] or '' }

local function piece_after(last, count)
  return redis.call('XRANGE', log, string.format('%.0f-0', last + 1), '+', 'COUNT', count)
end

local function piece_before(last, count)
  if last <= 1 then return {} end
  return redis.call('XREVRANGE', log, string.format('%.0f-0', last - 1), '-', 'COUNT', count)
end

local read = way == 'after' and piece_after or piece_before
-- Beyond the head a position is no number that this language has: what is behind the head is the same for all of them.
local head = tonumber(reply[1])
local last = way == 'latest' and head + 1 or math.min(seq, way == 'before' and head + 1 or head)
local taken, bytes, piece_size = 0, 0, FIRST_PIECE

-- A log that has come to its own end: everything in it is gone.
local function is_emptied()
  return taken == 0 and head >= tonumber(reply[2]) and redis.call('EXISTS', log) == 0
end

while taken < limit and (taken == 0 or bytes < max_bytes) do
  local wanted = math.min(piece_size, limit - taken)
  local piece = read(last, wanted)
  for _, entry in ipairs(piece) do
    local body = entry[2][4] or ''
    bytes = bytes + #body
    if taken > 0 and bytes > max_bytes then return reply end
    last = tonumber(string.match(entry[1], '^%d+'))
    reply[#reply + 1] = string.format('%.0f', last)
    reply[#reply + 1] = body
    taken = taken + 1
  end
  if #piece < wanted then break end
  piece_size = math.max(1, math.min(LARGEST_PIECE, math.ceil((max_bytes - bytes) * taken / math.max(bytes, 1))))
end
if is_emptied() then reply[2] = string.format('%.0f', head + 1) end
return reply
