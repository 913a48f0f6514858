-- Moves a read position forward, never beyond head.
--
-- KEYS  meta, members, read positions
-- ARGV  1 user   2 seq
-- Reply {'ok', read, joined, head, moved} | {'none'} no such room | {'stranger'} not a member of this group
local meta, members, reads = unpack(KEYS)
local user, seq = ARGV[1], tonumber(ARGV[2])

local m = redis.call('HMGET', meta, 'k', 'h')
if not m[1] then return { 'none' } end
local head = tonumber(m[2] or 0)
local joined = 0
if m[1] == 'g' then
  local member = redis.call('HGET', members, user)
  if not member then return { 'stranger' } end
  joined = tonumber(string.sub(member, 3))
end
local read = math.min(tonumber(redis.call('HGET', reads, user) or 0), head)
local target = math.min(seq, head)
local moved = target > read
if moved then
  read = target
  redis.call('HSET', reads, user, string.format('%.0f', read))
  -- They end with the room, where it ends.
  local ends = redis.call('PEXPIRETIME', meta)
  if ends > 0 then redis.call('PEXPIREAT', reads, string.format('%.0f', ends)) end
end
return { 'ok', string.format('%.0f', read), string.format('%.0f', joined), string.format('%.0f', head), moved and 1 or 0 }
