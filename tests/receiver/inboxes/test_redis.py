from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoPermissionError

from basiq_async import InboxError
from basiq_async._work.inbox_calls import InboxCalls
from basiq_async.receiver import Inbox, RedisInbox, Result
from basiq_async.receiver.protocol import Claim, ClaimStatus
from basiq_async.testing import check_inbox
from tests.support import inbox_stress
from tests.support.cancelling import HOWS, How, cancel_after
from tests.support.deliveries import NOW, OTHER_SECRET, Service, payload, quarantined_delivery, taking
from tests.support.environment import ROOT
from tests.support.inboxes import check_briefly
from tests.support.real_time import PATIENCE
from tests.support.servers import RedisServer, redis_server

_DAY = timedelta(days=1)
CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY


@asynccontextmanager
async def inbox_of(url: str, prefix: str = "test", **options: Any) -> AsyncGenerator[RedisInbox]:
    async with Redis.from_url(url, **options) as client:
        yield RedisInbox(client, prefix=prefix)


@pytest.mark.parametrize("decoded", [False, True])
async def test_an_inbox_in_redis_keeps_every_promise(
    redis: RedisServer, decoded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_briefly(monkeypatch)  # test_model.py walks on
    make = partial(inbox_of, redis.url, decode_responses=decoded)
    await check_inbox(make, shared=True, seconds=PATIENCE)
    if decoded:
        await inbox_stress.raced(make)  # a kill is the server's: what it has is no longer the process's


async def test_a_server_that_is_stopped_and_comes_back_has_lost_nothing(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--appendfsync", "always") as server:

        @asynccontextmanager
        async def outage() -> AsyncGenerator[None]:
            server.kill()
            yield
            await asyncio.to_thread(server.start)

        async with Redis.from_url(server.url) as client:
            await inbox_stress.away(lambda name: RedisInbox(client, prefix=name), outage)


async def test_a_pool_without_a_free_connection_says_how_to_get_more(redis: RedisServer) -> None:
    async with inbox_of(redis.url, max_connections=1) as inbox:
        calls = [inbox.known(["k"]) for _ in range(5)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [str(outcome) for outcome in outcomes if isinstance(outcome, InboxError)]
    assert refused
    assert all("raise its max_connections" in text for text in refused)
    assert not any("is it running" in text for text in refused)


async def test_a_server_that_does_not_respond_is_an_error_in_time(redis: RedisServer, client: Redis) -> None:
    patient, inbox = RedisInbox(client, timeout=PATIENCE), RedisInbox(client, timeout=0.05)
    await patient.claim("k", "a", lease=60)
    redis.send(signal.SIGSTOP)
    try:
        for call in (inbox.complete("k", "a"), inbox.known(["k"]), inbox.entries()):
            with pytest.raises(InboxError, match=r"did not respond within 0\.05 s"):
                await call
    finally:
        redis.send(signal.SIGCONT)
    assert await patient.complete("l", "a"), "no late response goes to the next call"


@pytest.mark.parametrize("how", HOWS)
async def test_a_cancellation_is_never_lost_though_the_server_is_silent(
    how: How, redis: RedisServer, client: Redis
) -> None:
    inbox = RedisInbox(client, timeout=PATIENCE)
    await inbox.claim("k", "a", lease=60)
    redis.send(signal.SIGSTOP)
    try:
        for call in (lambda: inbox.complete("k", "a"), lambda: inbox.known(["k"]), inbox.entries):
            for count in range(1, 24):
                async with asyncio.timeout(4):  # the client alone would wait 5 s for the response
                    assert await cancel_after(count, call(), how)
    finally:
        redis.send(signal.SIGCONT)
    assert await inbox.complete("l", "a"), "no late response goes to the next call"


async def test_calls_at_once_travel_together_and_each_has_its_own_result_or_error(
    redis: RedisServer, client: Redis
) -> None:
    await client.lpush("{test}:inbox:k-1", "of another program")
    async with inbox_of(redis.url, max_connections=1) as inbox:
        await inbox.claim("k-2", "another", lease=60)
        for _ in range(2):
            calls = [inbox.claim(f"k-{number}", f"t-{number}", lease=60) for number in range(100)]
            claims = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(claims.pop(1), InboxError)
            assert [claim.status for claim in claims] == [CLAIMED, BUSY, *[CLAIMED] * 97]
            await client.script_flush()
        ends = [inbox.complete(f"k-{number}", f"t-{number}") for number in (0, 2, 3)]
        assert await asyncio.gather(*ends) == [True, False, True]
    await client.lpush("{other}:meta", "of another program")
    async with inbox_of(redis.url, "other") as inbox:
        ends = [inbox.complete(str(number), "a") for number in range(3)]
        failures = await asyncio.gather(*ends, return_exceptions=True)
    assert [type(each) for each in failures] == [InboxError] * 3


@pytest.mark.parametrize("cancelled", [(0,), (1,), (0, 2), (0, 1, 2)])
async def test_a_cancelled_call_is_none_of_those_that_travel_with_it(
    cancelled: tuple[int, ...], redis: RedisServer, client: Redis
) -> None:
    inbox = RedisInbox(client, timeout=PATIENCE)
    await inbox.claim("k", "a", lease=60)
    for turns in range(12):
        redis.send(signal.SIGSTOP)
        try:
            tasks = [asyncio.create_task(inbox.claim(f"{turns}-{number}", "a", lease=60)) for number in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for number in cancelled:
                tasks[number].cancel()
            async with asyncio.timeout(4):  # the client alone would wait 5 s for the response
                await asyncio.wait([tasks[number] for number in cancelled])
        finally:
            redis.send(signal.SIGCONT)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for number, each in enumerate(found):
            assert isinstance(each, asyncio.CancelledError if number in cancelled else Claim)
    assert await inbox.complete("k", "a"), "no late response goes to the next call"


async def test_in_a_cluster_all_keys_of_an_inbox_are_in_one_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_briefly(monkeypatch)  # every call is made
    with redis_server(tmp_path, "--cluster-enabled", "yes", "--appendonly", "no") as server:
        async with Redis.from_url(server.url) as node:
            await node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            async with asyncio.timeout(PATIENCE):
                while "cluster_state:ok" not in str(await node.execute_command("CLUSTER", "INFO")):
                    await asyncio.sleep(0.01)
            async with RedisCluster.from_url(server.url) as cluster:

                @asynccontextmanager
                async def make(name: str) -> AsyncGenerator[Inbox]:
                    yield RedisInbox(cluster, prefix=name)

                await check_inbox(make, shared=True, seconds=PATIENCE)
            keys = await node.keys()
            slots = {(key.split(b"}")[0], await node.execute_command("CLUSTER", "KEYSLOT", key)) for key in keys}
    assert len(keys) > 10
    assert len(slots) == len({prefix for prefix, _ in slots})


async def test_everything_but_the_quarantine_and_the_time_of_the_beginning_ends_by_itself(client: Redis) -> None:
    inbox = RedisInbox(client, prefix="p", remember=timedelta(seconds=100))
    await inbox.claim("claimed", "a", lease=10)
    await inbox.complete("done", "a")
    await inbox.release("failed", "a", failed=True)
    await inbox.quarantine("bad", "a", quarantined_delivery("bad"))
    await inbox.claim("bad", "a", lease=10, quarantined=True)
    left = {key.decode(): await client.pttl(key) for key in await client.keys()}
    assert {key for key, wait in left.items() if wait == -1} == {
        "{p}:delivery:bad", "{p}:quarantine", "{p}:meta"
    }  # fmt: skip
    assert 9_000 < left["{p}:inbox:claimed"] <= 10_000
    assert 86_400_000 < left["{p}:retry:bad"] <= 86_410_000, "a day more than its lease: who held it may still complete"
    assert 99_000 < left["{p}:inbox:done"] <= 100_000
    assert 99_000 < left["{p}:attempts:failed"] <= 100_000
    await RedisInbox(client, prefix="default").complete("done", "a")
    thirty_days = 30 * 86_400_000
    assert thirty_days - 60_000 < await client.pttl("{default}:inbox:done") <= thirty_days, "the documented default"


async def test_a_check_writes_so_that_a_server_that_may_only_be_read_is_noticed(client: Redis) -> None:
    await RedisInbox(client, prefix="p").check()
    assert 0 < await client.pttl("{p}:check") <= 1_000


@pytest.mark.parametrize("name", ["meta", "began", "pinned:began"])
async def test_what_another_version_stored_is_refused_with_the_remedy(client: Redis, name: str) -> None:
    key = f"{{p}}:{name}"
    if name == "meta":
        await client.hset(key, "layout", "5")
    else:
        await client.set(key, "2026-01-01T00:00:00+00:00")  # as that version did
    inbox = RedisInbox(client, prefix="p")
    for call in (inbox.check, lambda: inbox.claim("k", "a", lease=60), inbox.__aenter__):
        with pytest.raises(InboxError, match=r"another version of basiq-async.*pass another prefix="):
            await call()
    left = {*await client.keys("{p}:*")} - {b"{p}:check"}
    assert left == {key.encode()}, "it is left as it is"
    assert (await RedisInbox(client, prefix="q").claim("k", "a", lease=60)).status is CLAIMED


async def test_paging_moves_on_whatever_time_somebody_wrote_into_a_delivery(client: Redis) -> None:
    inbox = RedisInbox(client, prefix="p")
    for number in range(3):
        await inbox.quarantine(f"k{number}", "a", quarantined_delivery(f"k{number}"))
    text = json.loads(await client.hget("{p}:delivery:k1", "text"))
    text["quarantined_at"] = "1999-01-01T00:00:00+00:00"
    await client.hset("{p}:delivery:k1", "text", json.dumps(text))
    found, after = [], None
    while page := await inbox.entries(after=after, limit=1):
        found.append(page[0].key)
        assert len(found) <= 3, "the same page came again"
        after = page[-1]
    assert found == ["k0", "k1", "k2"]


async def test_a_server_that_forgot_the_scripts_gets_them_again(client: Redis) -> None:
    inbox = RedisInbox(client)
    for key in ("k", "l"):
        assert (await inbox.claim(key, "a", lease=60)).status is CLAIMED
        await client.script_flush()
    assert await inbox.complete("k", "a")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "noeviction"])
async def test_only_a_server_that_evicts_is_warned_about_and_once(
    policy: str, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await client.config_set("maxmemory-policy", policy)
    async with RedisInbox(client) as inbox:
        await inbox.known(["k"])
        await inbox.claim("k", "a", lease=60)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (policy != "noeviction")
    if not warnings:
        return
    assert f"maxmemory-policy {policy}" in warnings[0]
    assert "Set maxmemory-policy noeviction" in warnings[0]


async def test_a_user_with_the_rights_of_the_security_page_can_use_an_inbox_and_nothing_else(
    redis: RedisServer, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_briefly(monkeypatch)
    line = re.search(r"`(ACL SETUSER inbox .*?)`", (ROOT / "docs" / "security-guarantees.md").read_text())
    assert line is not None
    await client.execute_command(*line[1].replace("{basiq}", "{*}").split())
    user_of = {"username": "inbox", "password": "PASSWORD"}
    try:
        await check_inbox(partial(inbox_of, redis.url, **user_of), shared=True, seconds=PATIENCE)
        async with Redis.from_url(redis.url, **user_of) as user:
            with pytest.raises(NoPermissionError):
                await user.set("another", "1")
            with pytest.raises(NoPermissionError):
                await user.flushall()
    finally:
        await client.execute_command("ACL", "DELUSER", "inbox")


@pytest.mark.parametrize("asked", ["by a probe", "by a delivery"])
async def test_a_receiver_logs_once_that_its_inbox_was_flushed_and_notes_its_webhook_again(
    client: Redis, asked: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("basiq_async._work.gate._HOLDS", 0.0)
    monkeypatch.setattr("basiq_async.receiver._readiness._BETWEEN", 0.0)
    inbox = RedisInbox(client)
    service = Service(inbox=inbox, quarantine_after=1, webhook_id="w1")
    async with service.receiver as receiver:
        assert (await service.post(payload("user.broken", "e-1"))).result is Result.QUARANTINED
        assert await receiver.is_ready()
        assert "emptied" not in caplog.text
        before = datetime.now(UTC)
        await client.flushall()
        for _ in range(2):
            if asked == "by a probe":
                assert await receiver.is_ready()
            assert (await service.post(payload())).result is Result.HANDLED
        (said,) = [each.getMessage() for each in caplog.records if "emptied while it was in use" in each.getMessage()]
        shown = re.search(r"since (\S+ \S+) UTC only: what waited or was in its quarantine is gone", said)
        assert shown is not None
        assert datetime.fromisoformat(shown[1] + "+00:00") >= before.replace(microsecond=0)
        calls = InboxCalls(inbox, PATIENCE)
        assert ((await calls.noted()).live(), await calls.handled_types()) == (["w1"], ("*",))


async def test_a_rotation_of_the_secret_touches_nothing_in_the_quarantine(client: Redis) -> None:
    service = Service(inbox=RedisInbox(client), quarantine_after=1, webhook_id="w1")
    assert (await service.post(payload("user.broken", "e-broken"))).result is Result.QUARANTINED
    receiver = taking(OTHER_SECRET, "*", inbox=RedisInbox(client), webhook_id="w1")
    (outcome,) = await receiver.retry_quarantined()
    assert outcome.result is Result.HANDLED


async def test_a_full_server_is_an_error(client: Redis) -> None:
    await client.config_set("maxmemory", 1)
    try:
        with pytest.raises(InboxError, match="maxmemory"):
            await RedisInbox(client).claim("k", "a", lease=60)
    finally:
        await client.config_set("maxmemory", 0)


@pytest.mark.parametrize("text", ["{", "12", '{"body": 3}', "number for a text", "not a hash", b"\xff"])
async def test_an_altered_delivery_is_kept_and_hides_no_other(client: Redis, text: str) -> None:
    inbox = RedisInbox(client, prefix="p")
    for second, key in enumerate("klm"):
        await inbox.quarantine(key, "a", quarantined_delivery(key, at=NOW + timedelta(seconds=second)))
    if text == "not a hash":
        await client.set("{p}:delivery:l", text)
    elif text == "number for a text":
        fields = json.loads(quarantined_delivery("l").pack())
        await client.hset("{p}:delivery:l", "text", json.dumps({**fields, "delivery_id": 7}))
    else:
        await client.hset("{p}:delivery:l", "text", text)
    assert await inbox.entries(waiting=True) == []
    found = [*await inbox.entries(limit=2)]
    found += await inbox.entries(after=found[-1])
    assert [(entry.key, entry.kind) for entry in found] == [("k", "delivery"), ("l", "unreadable"), ("m", "delivery")]
    assert "no inbox has written" in found[1].error
    assert await inbox.complete("k", "a")
    assert await inbox.complete("m", "a")
    if text != "not a hash":
        assert await InboxCalls(inbox, 5).drop("l")
        assert await inbox.entries() == []


@pytest.mark.parametrize("decoded", [False, True])
async def test_members_of_the_quarantine_that_no_inbox_wrote_are_passed_over_and_reported(
    decoded: bool, redis: RedisServer, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with inbox_of(redis.url, decode_responses=decoded) as inbox:
        await inbox.quarantine("k", "a", quarantined_delivery("k"))
        await inbox.quarantine("l", "a", quarantined_delivery("l", at=NOW + timedelta(days=9_000)))
        strange = [b"\xff%d" % number for number in range(50)] + [b"%017d\xff" % number for number in range(50)]
        for member in (*strange, b"key", b"9" * 18):
            await client.zadd("{test}:quarantine", {member: 0})
        before = (await client.info("stats"))["total_commands_processed"]
        found = [*await inbox.entries(limit=1)]
        found += await inbox.entries(after=found[-1])
        assert (await client.info("stats"))["total_commands_processed"] - before < 300
    assert [entry.key for entry in found] == ["k", "l"]
    assert "has 51 members that no inbox has written" in caplog.text


async def test_what_redis_evicted_of_the_quarantine_is_reported_once_and_what_was_dropped_is_not(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = RedisInbox(client, prefix="p")
    for key in ("k", "l", "m"):
        await inbox.quarantine(key, "a", quarantined_delivery(key))
    assert await InboxCalls(inbox, 5).drop("m")
    await client.delete("{p}:delivery:k")  # as an eviction does
    for _ in range(2):
        assert [entry.key for entry in await inbox.entries()] == ["l"]
    lost = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lost) == 1
    assert lost[0].startswith("Redis has evicted 1 from the quarantine below 'p': recover what Basiq still lists of it")


def test_a_client_of_another_event_loop_is_an_error_of_ours(redis: RedisServer) -> None:
    client = Redis.from_url(redis.url)
    inbox = RedisInbox(client)

    async def leave_it_open() -> None:
        await inbox.known(["k"])

    async def use_and_close() -> None:
        with pytest.raises(InboxError, match="Redis failed: RuntimeError"):
            await inbox.claim("k", "a", lease=60)
        await client.connection_pool.disconnect(inuse_connections=True)

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(leave_it_open())
        second.run(use_and_close())


async def test_an_error_does_not_show_the_password(redis: RedisServer) -> None:
    async with Redis.from_url(redis.url, username="nobody", password="hunter2") as client:
        inbox = RedisInbox(client)
        with pytest.raises(InboxError, match="Redis failed") as caught:
            await inbox.known(["k"])
    assert "hunter2" not in str(caught.value) + repr(inbox)


@pytest.mark.parametrize("days", [-3, 3])
async def test_since_when_it_knows_is_by_the_clock_by_which_it_forgets(
    client: Redis, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """A process whose machine has a wrong clock founds it, and asks."""
    made = datetime.now(UTC)

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return made + timedelta(days=days)

    for module in ("_redis", "_redis_calls"):
        monkeypatch.setattr(f"basiq_async.receiver.inboxes.{module}.datetime", Wrong)
    for remember, since in ((30 * _DAY, made), (2, made)):
        found = await RedisInbox(client, prefix=f"of {remember}", remember=remember).known_since()
        assert abs(found - since) < timedelta(minutes=10)


async def test_a_longer_memory_in_redis_brings_nothing_back(client: Redis) -> None:
    short = RedisInbox(client, prefix="p", remember=_DAY)
    await short.complete("k", "a")
    began = await short.known_since()
    facts = "{p}:meta"
    await client.hset(facts, "began", (datetime.now(UTC) - 90 * _DAY).isoformat())
    for remember in (60 * _DAY, None):
        inbox = RedisInbox(client, prefix="p", remember=remember)
        since = await inbox.known_since()
        assert began - _DAY <= since + timedelta(seconds=60), "one worker may still remember for a day"
        assert since > datetime.now(UTC) - 1.01 * _DAY
    last = datetime.now(UTC) - 50 * _DAY
    await client.hset(facts, "kept:86400000", str(round(last.timestamp() * 1000)))
    assert abs(await inbox.known_since() - last) < timedelta(seconds=1), "since then it is for ever"
    await inbox.complete("for ever", "a")
    await inbox.release("failed", "a", failed=True)
    assert await client.pttl("{p}:inbox:for ever") == -1
    assert await client.pttl("{p}:attempts:failed") > 29 * 86_400_000, "what was not handled is never kept for ever"
