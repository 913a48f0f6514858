-- What has changed in the list of bans after a version.
--
-- KEYS  list, order, lifted, meta: see ban.lua
-- ARGV  1 the version that is known   2 the list's version when whoever asks began to get all of it   3 changes at most
-- Reply {version, how far this reaches, 1 where what is known is to be forgotten, how many bans, version, ban, ...,
--       version, id of a lifted one, ...}
local list, order, lifted, meta = unpack(KEYS)
local since, began, page = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local m = redis.call('HMGET', meta, 'v', 'f')
local version, floor = tonumber(m[1] or 0), tonumber(m[2] or 0)
local function digits(number) return string.format('%.0f', number) end

local knows, reset = math.max(since, began), 0
if (knows > 0 and knows < floor) or since > version then since, reset = 0, 1 end
local reply = { digits(version), digits(version), reset, 0 }
if since == version then return reply end

local from = '(' .. digits(since)
local made = redis.call('ZRANGEBYSCORE', order, from, '+inf', 'WITHSCORES', 'LIMIT', 0, page)
local gone = {}
-- Whoever knows nothing need not hear of what is no more.
if since > 0 then gone = redis.call('ZRANGEBYSCORE', lifted, from, '+inf', 'WITHSCORES', 'LIMIT', 0, page) end
local upto = version
for _, changes in ipairs({ made, gone }) do
  if #changes == page * 2 then upto = math.min(upto, tonumber(changes[#changes])) end
end
for at = 1, #made, 2 do
  if tonumber(made[at + 1]) <= upto then
    reply[4] = reply[4] + 1
    reply[#reply + 1] = made[at + 1]
    reply[#reply + 1] = redis.call('HGET', list, made[at]) or ''
  end
end
for at = 1, #gone, 2 do
  if tonumber(gone[at + 1]) <= upto then
    reply[#reply + 1] = gone[at + 1]
    reply[#reply + 1] = gone[at]
  end
end
reply[2] = digits(upto)
return reply
