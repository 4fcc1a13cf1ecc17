"""What several schedulers change of a preheat in one step each: Lua, which Redis runs (`redis_preheats` has the keys).

`KEYS[1]` is the live list, and `KEYS[2]` the preheat, but for `ADD` and `LOOK`.
"""

from __future__ import annotations

from typing import Final

ADD: Final = """
local base = KEYS[5]
if ARGV[2] ~= '' then
  local known = redis.call('HGET', KEYS[4], ARGV[2])
  if known and redis.call('EXISTS', base .. known) == 1 then return known end
end
if redis.call('SCARD', KEYS[3]) >= tonumber(ARGV[3]) then return '' end
local number = redis.call('INCR', KEYS[2])
redis.call('HSET', base .. ARGV[1], 'number', number, 'key', ARGV[2], 'spec', ARGV[5], 'created', ARGV[6],
  'begins', ARGV[7], 'ends', ARGV[8], 'finished', '', 'state', ARGV[9], 'reason', ARGV[10], 'credential', ARGV[11],
  'turn', 1)
redis.call('ZADD', KEYS[1], number, ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
if ARGV[2] ~= '' then redis.call('HSET', KEYS[4], ARGV[2], ARGV[1]) end
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', number - tonumber(ARGV[4]))) do
  if redis.call('SISMEMBER', KEYS[3], old) == 0 then
    local key = redis.call('HGET', base .. old, 'key')
    if key and key ~= '' then redis.call('HDEL', KEYS[4], key) end
    redis.call('DEL', base .. old, base .. old .. ':hosts', base .. old .. ':told', base .. old .. ':untold')
    redis.call('ZREM', KEYS[1], old)
    redis.call('SREM', KEYS[6], old)
  end
end
return ARGV[1]
"""

_LIST: Final = """
local function listed()
  local fine, found = pcall(cjson.decode, redis.call('GET', KEYS[1]) or '')
  if fine and type(found) == 'table' and type(found[2]) == 'table' then return found end
  return {0, {}}
end
local function lives(name)
  for _, row in ipairs(listed()[2]) do
    if row[1] .. ':' .. string.format('%d', row[3]) == name then return true end
  end
  return false
end
local job = KEYS[2]
local function state() return redis.call('HGET', job, 'state') end
local function is_open(name) return name == 'PENDING' or name == 'RUNNING' end
local function stands() return redis.call('HEXISTS', job, 'stands') == 1 end
local final = {DONE = true, FAILED = true, UNSUPPORTED = true, CANCELLED = true, SKIPPED = true}
local function is_final(host)
  local row = redis.call('HGET', job .. ':hosts', host)
  return row and final[cjson.decode(row)[1]]
end
local function untell(host)
  redis.call('HDEL', job .. ':told', host)
  redis.call('SADD', job .. ':untold', host)
  local row = redis.call('HGET', job .. ':hosts', host) or ''
  redis.call('HSET', job .. ':hosts', host, (string.gsub(row, '^%["%u+"', '["WAITING"')))
end
local function put(host, row)
  redis.call('HSET', job .. ':hosts', host, row)
  if final[cjson.decode(row)[1]] then
    redis.call('HDEL', job .. ':told', host)
    redis.call('SREM', job .. ':untold', host)
  end
end
"""

TAKE: Final = f"""
{_LIST}
local taken = {{}}
if not (state() == 'RUNNING' or stands()) or not lives(ARGV[1]) then return taken end
for at = 2, #ARGV do
  if redis.call('SREM', job .. ':untold', ARGV[at]) == 1 then
    redis.call('HSET', job .. ':told', ARGV[at], ARGV[1])
    taken[#taken + 1] = ARGV[at]
    taken[#taken + 1] = redis.call('HGET', job .. ':hosts', ARGV[at])
  end
end
return taken
"""

ADD_HOSTS: Final = f"""
{_LIST}
local taken = {{}}
local late = stands()
if not (state() == 'RUNNING' or late) or not lives(ARGV[1]) then return taken end
local count = redis.call('HLEN', job .. ':hosts')
for at = 4, #ARGV, 2 do
  local known = redis.call('HGET', job .. ':hosts', ARGV[at])
  local row = nil
  if not known then
    if count < tonumber(ARGV[2]) then row, count = ARGV[at + 1], count + 1 end
  elseif late then
    local was = cjson.decode(known)
    if (was[1] == 'FAILED' or was[1] == 'UNSUPPORTED' or was[1] == 'CANCELLED') and was[3] < tonumber(ARGV[3]) then
      was[1], was[3], was[4] = 'WAITING', was[3] + 1, ''
      row = cjson.encode(was)
    end
  end
  if row then
    redis.call('HSET', job .. ':hosts', ARGV[at], row)
    redis.call('HSET', job .. ':told', ARGV[at], ARGV[1])
    taken[#taken + 1] = ARGV[at]
    taken[#taken + 1] = row
  end
end
return taken
"""

GIVE_BACK: Final = f"""
{_LIST}
local given = 0
for at = 1, #ARGV, 2 do
  if redis.call('HGET', job .. ':told', ARGV[at]) == ARGV[at + 1] then
    untell(ARGV[at])
    given = given + 1
  end
end
if given > 0 then redis.call('HINCRBY', job, 'turn', 1) end
return given
"""

REPORT: Final = f"""
{_LIST}
if not (is_open(state()) or stands()) then return 0 end
local kept = 0
for at = 3, #ARGV, 2 do
  if redis.call('HGET', job .. ':told', ARGV[at]) == ARGV[1] then
    put(ARGV[at], ARGV[at + 1])
    kept = kept + 1
  end
end
if ARGV[2] ~= '' and redis.call('HSETNX', job, 'held', ARGV[2]) == 1 then redis.call('HINCRBY', job, 'turn', 1) end
return kept
"""

SET: Final = f"""
{_LIST}
local now = state()
if not now then return 0 end
if ARGV[1] ~= '' and string.format('%d', listed()[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == 'open' and not (is_open(now) or stands()) then return 0 end
if ARGV[2] == 'stands' and not stands() then return 0 end
if ARGV[2] == 'over' and is_open(now) then return 0 end
if ARGV[2] == 'PENDING' and now ~= 'PENDING' then return 0 end
if ARGV[2] == 'RUNNING' and now ~= 'RUNNING' then return 0 end
local finished = redis.call('HGET', job, 'finished')
if ARGV[5] == '' or not finished or finished == '' then finished = ARGV[5] end
redis.call('HSET', job, 'state', ARGV[3], 'reason', ARGV[4], 'finished', finished)
if ARGV[6] ~= '' then redis.call('HSET', job, 'begins', ARGV[6]) end
if ARGV[7] ~= '' then redis.call('HSET', job, 'ends', ARGV[7]) end
if ARGV[3] == 'PENDING' then
  for _, host in ipairs(redis.call('HKEYS', job .. ':told')) do untell(host) end
end
for at = 10, #ARGV, 3 do
  if ARGV[2] == '' or ARGV[2] == 'over' or not is_final(ARGV[at]) then
    put(ARGV[at], ARGV[at + 1])
    if ARGV[at + 2] == '1' and redis.call('HEXISTS', job .. ':told', ARGV[at]) == 0 then
      redis.call('SADD', job .. ':untold', ARGV[at])
    end
  end
end
redis.call('HINCRBY', job, 'turn', 1)
if ARGV[5] ~= '' then redis.call('HDEL', job, 'credential') end
redis.call(ARGV[5] == '' and 'SADD' or 'SREM', KEYS[3], ARGV[8])
if ARGV[9] ~= '' then
  redis.call('HSET', job, 'stands', ARGV[9])
  redis.call('SADD', KEYS[4], ARGV[8])
else
  redis.call('HDEL', job, 'stands')
  redis.call('SREM', KEYS[4], ARGV[8])
  if ARGV[5] ~= '' then
    redis.call('HDEL', job, 'held')
    redis.call('DEL', job .. ':told', job .. ':untold')
  end
end
return 1
"""

LOOK: Final = """
local found = redis.call('TIME')
for _, name in ipairs(redis.call('SUNION', KEYS[1], KEYS[3])) do
  found[#found + 1] = name
  local job = KEYS[2] .. name
  found[#found + 1] = redis.call('HGET', job, 'turn') or '0'
  found[#found + 1] = redis.call('HLEN', job .. ':told') + redis.call('SCARD', job .. ':untold')
end
return found
"""
