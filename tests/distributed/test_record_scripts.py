"""The record in Redis, held to the suite; and scripts that are broken on purpose, which the suite has to notice."""

from __future__ import annotations

import asyncio
import signal
import uuid
from importlib.resources import files

import pytest
from redis.asyncio import Redis

from basiq_async import ConfigurationError
from basiq_async.distributed import _redis_record  # private: its scripts are broken here on purpose
from basiq_async.errors import CheckpointError
from basiq_async.testing import BrokenPromisesError, check_record
from basiq_async.testing.conformance._record import RecordPromises  # private: one promise of the suite by itself
from basiq_async.testing.conformance._record_probe import make_spec  # private: a job as the suite makes it
from basiq_async.testing.conformance._runner import keep  # private: one promise alone, of a broken record
from tests.support.cancelling import HOWS, cancel_after
from tests.support.environment import free_port
from tests.support.fleets import RedisRecord
from tests.support.servers import RedisServer


async def test_the_record_in_redis_keeps_every_promise(redis_url: str) -> None:
    await check_record(lambda: RedisRecord(redis_url))


BROKEN = {
    "claim": ("tonumber(redis.call('HGET', s, 'until')) > now", "false", "A segment that has an owner cannot"),
    "save": ("tonumber(redis.call('HGET', s, 'done') or 0) ~= before", "false", "A repeated save counts once"),
    "finish": ("redis.call('HEXISTS', s, 'count') == 0", "false", "A segment can be finished after"),
    "record_page": ("math.min(quota, left)", "quota", "A job's lists share its limit"),
    "reclaim_expired": ("now + tonumber(ARGV[2])", "now", "reclaim_expired() returns a free segment to one caller"),
    "reclaim_expired, rarely": (
        "math.frexp(times) == 0.5",
        "true",
        "A caller that is not idle gets an unclaimed segment",
    ),
    "rate_slots": ("math.max(micros, following)", "micros", "The slots of all callers"),
    "rate_slots, slow": ("math.max(micros, following)", "micros", "The slots of a slow rate"),
    "rate_slots, raised": ("job('slot_rate') ~= job('rate')", "false", "A rate that is raised"),
    "create": ("ARGV[i + 1] == job('token')", "false", "A submission that is sent again"),
    "claim, another": ("is_another()", "false", "A call for a job that was forgotten"),
    "set_state": ("is_another()", "false", "A call for a job that was forgotten"),
    "revive": ("tonumber(last[2]) > from", "true", "Dead letters that a segment is to retry already"),
    "revive, again": ("job('revival') == ARGV[1]", "false", "Dead letters that a segment is to retry already"),
    "revive, later": ("0, whole(from), 0", "0, '0', 0", "Dead letters that are recorded after revive()"),
    "pause": ("ends > tonumber(job('paused_until') or 0)", "true", "A pause is reported to all callers"),
    "release": ("fold(id)", "", "A repeated save counts once"),
}


WRONG = {
    "a claim folds no counts": ("claim", "fold(id)", ""),
    "a claim of what is owned": ("claim", "tonumber(redis.call('HGET', s, 'until')) > now", "false"),
    "a former owner saves": ("save", "not owns(id, token)", "false"),
    "a former owner releases": ("release", "not owns(id, token)", "false"),
    "a save is taken twice": ("save", "return { 'resend' }", ""),
    "a save keeps its dead letters in no order": ("save", "redis.call('HINCRBY', base, 'dead_letters', 1)", "1"),
    "dead letters are revived twice": ("revive", "tonumber(last[2]) > from", "true"),
    "a page is counted twice": ("record_page", "redis.call('HEXISTS', s, 'count') == 1", "false"),
    "a job that ended is left active": ("_prelude", "redis.call('SREM', active, name)", ""),
    "a job that continues is not active": ("_prelude", "redis.call('SADD', active, name)", ""),
    "a job ends too early": ("finish", "redis.call('ZCARD', due) == 0", "true"),
    "a paused job is woken": ("reclaim_expired", "state ~= 'running'", "false"),
}


async def is_noticed(promise: str, script: str, sound: str, broken: str, url: str, patch: pytest.MonkeyPatch) -> None:
    """Have the suite look at a record with a broken script, and find it broken."""
    whole = (files("basiq_async.distributed") / "lua" / f"{script}.lua").read_text("utf-8")
    assert sound in whole
    read = _redis_record._source

    def source(name: str) -> str:
        return read(name).replace(sound, broken) if script in (name, "_prelude") else read(name)

    patch.setattr(_redis_record, "_source", source)
    probe = RecordPromises(lambda: RedisRecord(url))
    one = {name: attempt for name, attempt in probe.promises().items() if name.startswith(promise)}
    assert len(one) == 1
    with pytest.raises(BrokenPromisesError):
        await keep("the record", one, seconds=20.0)
    await probe.aclose()


@pytest.mark.parametrize("script", BROKEN)
async def test_the_suite_notices_a_broken_script(script: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, broken, promise = BROKEN[script]
    await is_noticed(promise, script.partition(",")[0], sound, broken, redis_url, monkeypatch)


@pytest.mark.parametrize("what", WRONG)
async def test_the_model_notices_a_broken_script(what: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await is_noticed("In any order of claims", *WRONG[what], redis_url, monkeypatch)


async def test_a_server_that_may_drop_keys_is_refused(shared_server: RedisServer, redis_url: str) -> None:
    record = RedisRecord(redis_url)
    async with Redis.from_url(redis_url) as redis:
        try:
            await redis.config_set("maxmemory-policy", "allkeys-lru")
            with pytest.raises(ConfigurationError, match="set maxmemory-policy noeviction"):
                await record.check()
            await redis.config_set("maxmemory-policy", "noeviction")
            assert await record.check() == ()
            await redis.config_set("appendonly", "no")
            (warning,) = await record.check()
            assert "Set appendonly yes" in warning
        finally:
            await redis.config_set("maxmemory-policy", "noeviction")
            await redis.config_set("appendonly", "yes")
            await record.aclose()


async def test_a_server_that_is_away_for_too_long_is_a_checkpoint_error() -> None:
    record = RedisRecord(f"redis://:secret@127.0.0.1:{free_port()}/0", patience=0.2)
    with pytest.raises(CheckpointError, match=r"did not respond for 0\.2 s") as caught:
        await record.status(uuid.uuid4().hex)
    assert "secret" not in str(caught.value) + repr(record)
    await record.aclose()


async def test_a_cancellation_is_never_lost_though_redis_is_silent_or_away(shared_server: RedisServer) -> None:
    for record, silent in (
        (RedisRecord(shared_server.url), True),
        (RedisRecord(f"redis://127.0.0.1:{free_port()}/0"), False),
    ):
        if silent:
            await record.keys()
            shared_server.send(signal.SIGSTOP)
        try:
            for how in HOWS:
                for count in range(1, 60):
                    async with asyncio.timeout(4):  # the client alone would wait 5 s for a server that is silent
                        assert await cancel_after(count, record.keys(), how)
        finally:
            if silent:
                shared_server.send(signal.SIGCONT)
        await record.aclose()


@pytest.mark.parametrize("hours", [-1, 1])
async def test_slots_stay_as_far_apart_when_the_clock_of_redis_is_set(hours: int, redis_url: str) -> None:
    record = RedisRecord(redis_url)
    spec = make_spec(uuid.uuid4().hex, rate=0.1)
    await record.create(spec)
    first = await record.rate_slots(spec.key, 3)
    assert first is not None
    assert first.interval == 10.0
    async with Redis.from_url(redis_url) as redis:
        for field in ("slot", "slot_at"):  # as they would be, had the clock been ahead or behind until now
            await redis.hincrby(f"basiq:{{{spec.key}}}", field, -hours * 3_600_000_000)
    slots = await record.rate_slots(spec.key, 1)
    assert slots is not None
    # Set back: three slots are ahead as before. Set forward: time has passed, and what nobody used is not made up for.
    ahead = slots.first - slots.now
    assert (29.0 < ahead <= 30.0) if hours < 0 else ahead == 0.0
    await record.aclose()
