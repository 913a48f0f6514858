-- Changes the list of bans: notes one, lifts one, or only removes some that are over.
--
-- KEYS  list (id -> ban), order (id -> version), lifted (id -> version), ends (id -> unix ms), meta
--       meta: v version   f whoever knows less needs the whole list   r the master's replication id at the last change
-- ARGV  1 'put' | 'lift' | 'forget'   2 id   3 ban   4 when it ends, unix ms; 0: never   5 how many there may be
--       6 how many that are over are removed at once   7 how many lifted ones are remembered
-- Reply 1: done   0: there was none   -1: there are as many as there may be; with 'forget': how many were removed
local list, order, lifted, ends, meta = unpack(KEYS)
local what, id, most = ARGV[1], ARGV[2], tonumber(ARGV[5])
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
local known = redis.call('HMGET', meta, 'v', 'r')
local version = tonumber(known[1] or 0)

-- Versions only grow: also a master that has lost the last of them goes on behind those, by the clock.
local function following()
  version = math.max(version + 1, clock[1] * 1000000 + clock[2])
  return string.format('%.0f', version)
end

local function lift(name)
  redis.call('HDEL', list, name)
  redis.call('ZREM', order, name)
  redis.call('ZREM', ends, name)
  redis.call('ZADD', lifted, following(), name)
end

local before = version
local over = redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, ARGV[6])
for _, name in ipairs(over) do lift(name) end

local reply = 1
if what == 'forget' then
  reply = #over
elseif what == 'lift' then
  if redis.call('HEXISTS', list, id) == 1 then lift(id) else reply = 0 end
elseif redis.call('HEXISTS', list, id) == 0 and redis.call('HLEN', list) >= most then
  reply = -1
else
  redis.call('HSET', list, id, ARGV[3])
  redis.call('ZADD', order, following(), id)
  redis.call('ZREM', ends, id)
  if ARGV[4] ~= '0' then redis.call('ZADD', ends, ARGV[4], id) end
end
-- WAIT counts from this connection's own last write.
redis.call('HSET', meta, 'v', string.format('%.0f', version))
if version == before then return reply end

local excess = redis.call('ZCARD', lifted) - tonumber(ARGV[7])
if excess > 0 then
  local forgotten = redis.call('ZPOPMIN', lifted, excess)
  redis.call('HSET', meta, 'f', forgotten[#forgotten])
end
-- Another master than at the last change may have lost some: whoever has heard of those gets the whole list.
local info = redis.call('INFO', 'replication')
local _, at = string.find(info, 'master_replid:', 1, true)
local master = at and string.sub(info, at + 1, at + 40) or ''
if known[2] ~= master then
  redis.call('HSET', meta, 'r', master)
  if known[2] then redis.call('HSET', meta, 'f', string.format('%.0f', version)) end
end
return reply
