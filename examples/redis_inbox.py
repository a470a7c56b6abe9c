"""An inbox in Redis, for a service that runs on several machines."""

from __future__ import annotations

from redis.asyncio import Redis

from basiq_async.receiver import Claim, ClaimStatus

# The value of a key is "done", or the token of the worker that holds it; it expires by itself.
CLAIM = """local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return {held, redis.call('PTTL', KEYS[1])} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return {'', 0}"""
COMPLETE = """local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], 'done', 'EX', ARGV[2]) return 1"""
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class RedisInbox:
    def __init__(self, redis: Redis, *, prefix: str = "basiq:inbox:", remember: int = 30 * 86_400) -> None:
        self._redis, self._prefix, self._remember = redis, prefix, remember

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        held, left = await self._redis.eval(CLAIM, 1, self._prefix + key, token, int(lease * 1000))
        if not held:
            return Claim(ClaimStatus.CLAIMED)
        return Claim(ClaimStatus.DONE) if held == b"done" else Claim(ClaimStatus.BUSY, max(left, 1) / 1000)

    async def complete(self, key: str, token: str) -> bool:
        return bool(await self._redis.eval(COMPLETE, 1, self._prefix + key, token, self._remember))

    async def release(self, key: str, token: str) -> None:
        await self._redis.eval(RELEASE, 1, self._prefix + key, token)

    async def seen(self, key: str) -> bool:
        return await self._redis.get(self._prefix + key) == b"done"
