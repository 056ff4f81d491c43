"""What a history store in Redis says to the server: scripts, which Redis runs alone.

Beside each place's key there are three: the store's identity, its generation, and the set of all keys of blocks, by which a
block that was never there is told from one that the server has dropped. An empty text in the set tells that it is whole.
"""

from __future__ import annotations

MAKE = """
if redis.call('EXISTS', KEYS[2], KEYS[3], KEYS[4]) == 0 and redis.call('SETNX', KEYS[1], ARGV[1]) == 1 then
  redis.call('SET', KEYS[2], 0)
  redis.call('SADD', KEYS[3], '')
end
return redis.call('GET', KEYS[1])
"""
"""Keys: identity, generation, blocks, metadata. Gives the store an identity if nothing is there; the identity that it has."""

ADOPT = """
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SETNX', KEYS[2], 0)
redis.call('SADD', KEYS[3], '')
"""
"""Keys: identity, generation, blocks."""

CONDEMN = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end
"""

RECOUNT = """
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then redis.call('SADD', KEYS[1], KEYS[i])
  else redis.call('SREM', KEYS[1], KEYS[i]) end
end
"""
"""Keys: blocks, then some of them: noted as they are."""

MISSING = """
local whole, found = redis.call('SISMEMBER', KEYS[1], ''), {}
for i = 2, #KEYS do
  local value = redis.call('GET', KEYS[i])
  if value then found[i - 1] = value
  else found[i - 1] = whole == 0 and 1 or redis.call('SISMEMBER', KEYS[1], KEYS[i]) end
end
return found
"""
"""Keys: blocks, then those that were not found. For each what is there after all, 1 if it must have been, else 0."""

COMMIT = """
local generation = redis.call('GET', KEYS[2])
if redis.call('GET', KEYS[1]) ~= ARGV[1] or not generation or tonumber(generation) < tonumber(ARGV[2]) then return -1 end
for i = 5, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 0, 7) ~= ARGV[3 * i - 11] then return 0 end
end
for i = 5, #KEYS do
  local what = ARGV[3 * i - 10]
  if what == 'put' or what == 'new' then redis.call('SET', KEYS[i], ARGV[3 * i - 9])
  elseif what ~= 'keep' then redis.call('DEL', KEYS[i]) end
  if what == 'new' then redis.call('SADD', KEYS[3], KEYS[i])
  elseif what == 'drop' then redis.call('SREM', KEYS[3], KEYS[i]) end
end
generation = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[4], generation .. ':' .. ARGV[3])
return generation
"""
"""Keys: identity, generation, blocks, the mark of the process, then places. Arguments: the identity, the least generation, the
text of the mark, then for each place the stamp that was seen, or nothing; what to do with it; and what to write there. -1: this is
not the store that was read."""
