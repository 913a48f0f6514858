-- A node lives on: its lease, and what has changed of its counts.
--
-- KEYS  leases (node -> when it ends, ms), connections (node -> how many), what this node counts (room -> how many online),
--       states (node -> which state of its counts that is), lost (nodes whose connections are to be removed)
-- ARGV  1 node   2 lease ms   3 connections   4 how long an ended lease is remembered ms
--       5 the state that the change is from, 0: nothing   6 the state that it leads to   then room, count, room, count, ...
-- Reply {1 where the counts are in the state given, else 0; a lost node or ''}
local leases, connections, online, states, lost = unpack(KEYS)
local node, lease = ARGV[1], tonumber(ARGV[2])
local from, to = ARGV[5], ARGV[6]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- As many values as one command takes at once.
local LUMP = 1000

local before = string.format('(%.0f', now - tonumber(ARGV[4]))
for _, old in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', before, 'LIMIT', 0, 100)) do
  redis.call('ZREM', leases, old)
  redis.call('HDEL', connections, old)
  redis.call('HDEL', states, old)
  redis.call('SADD', lost, old)
end
redis.call('ZADD', leases, string.format('%.0f', now + lease), node)
redis.call('HSET', connections, node, ARGV[3])
redis.call('SREM', lost, node)

local taken = 1
if from == '0' then
  redis.call('UNLINK', online)
elseif redis.call('HGET', states, node) ~= from then
  taken = 0
end
if taken == 1 and from ~= to then
  local set, gone = {}, {}
  local function flush(command, values)
    if #values > 0 then redis.call(command, online, unpack(values)) end
  end
  for at = 7, #ARGV, 2 do
    if ARGV[at + 1] == '0' then
      gone[#gone + 1] = ARGV[at]
    else
      set[#set + 1] = ARGV[at]
      set[#set + 1] = ARGV[at + 1]
    end
    if #set >= LUMP then
      flush('HSET', set)
      set = {}
    end
    if #gone >= LUMP then
      flush('HDEL', gone)
      gone = {}
    end
  end
  flush('HSET', set)
  flush('HDEL', gone)
  redis.call('HSET', states, node, to)
end
return { taken, redis.call('SRANDMEMBER', lost) or '' }
