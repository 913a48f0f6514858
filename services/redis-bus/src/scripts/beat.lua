-- A node lives on: its lease and what it counts.
--
-- KEYS  leases (node -> when it ends, ms), connections (node -> how many), what this node counts (room -> how many online)
-- ARGV  1 node   2 lease ms   3 connections   4 how long an ended lease is remembered ms   then room, count, room, count, ...
local leases, connections, online = unpack(KEYS)
local node, lease = ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local forgotten = redis.call('ZRANGEBYSCORE', leases, '-inf', string.format('(%.0f', now - tonumber(ARGV[4])))
for _, old in ipairs(forgotten) do
  redis.call('ZREM', leases, old)
  redis.call('HDEL', connections, old)
end
redis.call('ZADD', leases, string.format('%.0f', now + lease), node)
redis.call('HSET', connections, node, ARGV[3])
redis.call('DEL', online)
for at = 5, #ARGV, 2 do
  redis.call('HSET', online, ARGV[at], ARGV[at + 1])
end
if #ARGV > 4 then redis.call('PEXPIRE', online, lease) end
return 1
