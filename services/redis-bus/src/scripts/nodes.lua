-- The nodes whose lease runs.
--
-- KEYS  leases, connections
-- Reply {living, node, connections, node, connections, ..., node of an ended lease, ...}: first how many live
local leases, connections = unpack(KEYS)
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
local living = redis.call('ZRANGEBYSCORE', leases, '(' .. now, '+inf')
local reply = { #living }
for _, node in ipairs(living) do
  reply[#reply + 1] = node
  reply[#reply + 1] = redis.call('HGET', connections, node) or '0'
end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
  reply[#reply + 1] = node
end
return reply
