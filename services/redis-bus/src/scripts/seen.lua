-- Keeps the newest time at which a user was seen.
--
-- KEYS  seen
-- ARGV  1 unix milliseconds
if tonumber(ARGV[1]) > tonumber(redis.call('GET', KEYS[1]) or 0) then redis.call('SET', KEYS[1], ARGV[1]) end
return 1
