"""Lua scripts of the Redis history store; Redis runs each atomically.

Besides the data, Redis has the store's identity, its generation and the key set: all keys of blocks and payments. It
shows whether a missing key was evicted, and contains an empty text to mark it as complete.
"""

from __future__ import annotations

EVICTED = -2

MAKE = """
if redis.call('EXISTS', KEYS[2], KEYS[3], KEYS[4]) == 0 and redis.call('SETNX', KEYS[1], ARGV[1]) == 1 then
  redis.call('SET', KEYS[2], 0)
  redis.call('SADD', KEYS[3], '')
end
return redis.call('GET', KEYS[1])
"""
"""Keys: identity, generation, key set, metadata. Gives an empty store an identity; returns the store's identity."""

ADOPT = """
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SETNX', KEYS[2], 0)
redis.call('SADD', KEYS[3], '')
"""
"""Keys: identity, generation, key set."""

CONDEMN = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end
"""

RECOUNT = """
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then redis.call('SADD', KEYS[1], KEYS[i])
  else redis.call('SREM', KEYS[1], KEYS[i]) end
end
"""
"""Keys: key set, then some keys of the store: updates the key set for these."""

MISSING = """
local complete, results = redis.call('SISMEMBER', KEYS[1], ''), {}
for i = 2, #KEYS do
  local value = redis.call('GET', KEYS[i])
  if value then results[i - 1] = value
  else results[i - 1] = complete == 0 and 1 or redis.call('SISMEMBER', KEYS[1], KEYS[i]) end
end
return results
"""
"""Keys: key set, then keys that were missing. For each: its value if it exists by now, 1 if it was evicted, else 0."""

COMMIT = """
local generation = redis.call('GET', KEYS[2])
if redis.call('GET', KEYS[1]) ~= ARGV[1] or not generation or tonumber(generation) < tonumber(ARGV[2]) then return -1 end
for i = 5, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 0, 7) ~= ARGV[3 * i - 11] then return 0 end
end
local complete
for i = 5, #KEYS do
  if ARGV[3 * i - 10] == 'new' then
    complete = complete or redis.call('SISMEMBER', KEYS[3], '')
    if complete == 0 or redis.call('SISMEMBER', KEYS[3], KEYS[i]) == 1 then return -2 end
  end
end
for i = 5, #KEYS do
  local what = ARGV[3 * i - 10]
  if what == 'put' or what == 'new' then redis.call('SET', KEYS[i], ARGV[3 * i - 9])
  elseif what == 'drop' then redis.call('DEL', KEYS[i]) end
  if what == 'new' then redis.call('SADD', KEYS[3], KEYS[i])
  elseif what == 'drop' then redis.call('SREM', KEYS[3], KEYS[i]) end
end
generation = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[4], generation .. ':' .. ARGV[3])
return generation
"""
"""Keys: identity, generation, key set, the mark of the process, then the keys to change. Arguments: the identity, the lowest
generation, the text of the mark, then for each key the version that was read or nothing, the operation, and the value.
Returns -1 if this is not the store that was read, -2 if a key that was absent has been evicted, and 0 if a version differs."""
