-- Deletes a room with all that it has, and tells it as its last entry. Of the room nothing is left but its last epoch, for
-- a while: one that takes the id meanwhile has a greater one, whatever the clock says then.
--
-- KEYS  meta, log, members, order, read positions, dedupe even, dedupe odd
-- ARGV  1 how long the epoch is kept ms   2 '1': publish here; '0': the caller publishes   3 channel   4 entry
-- Reply {NEW, epoch, seq, kind, member, member, ...} | {NO_ROOM}
local meta, log, members, order, reads, even, odd = unpack(KEYS)
local kept, publishing, channel, entry = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]

local room = load_room(meta)
if not room.kind then return { NO_ROOM } end
local epoch, seq = room.epoch, room.head + 1
-- As an append would: see settle_epoch.
if room.master ~= master() then epoch = next_epoch(epoch) end
local reply = { NEW, epoch, digits(seq), room.kind }
for _, user in ipairs(redis.call('HKEYS', members)) do
  reply[#reply + 1] = user
end
-- First what needs no memory: a redis that is full takes it, and then the rest.
redis.call('UNLINK', meta, log, members, order, reads, even, odd)
redis.call('HSET', meta, 'd', digits(epoch))
redis.call('PEXPIRE', meta, kept)
if publishing then
  publish(channel, epoch, seq, entry)
  say()
end
return reply
