from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest

from basiq_async import ConfigurationError
from basiq_async.receiver import Claim, ClaimStatus, Inbox, MemoryInbox, SQLiteInbox, inbox_key
from basiq_async.testing import ManualClock
from basiq_async.testing.conformance._inbox import check_inbox

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY


async def test_the_inbox_in_memory_keeps_every_promise() -> None:
    await check_inbox(MemoryInbox)


async def test_the_suite_can_pass_the_time_on_the_inboxs_own_clock() -> None:
    clock = ManualClock()
    await check_inbox(lambda: MemoryInbox(clock=clock), pass_time=lambda seconds: clock.advance(seconds=seconds))


async def test_the_suite_takes_an_async_factory_and_closes_what_it_made() -> None:
    closed: list[bool] = []

    class Closing(MemoryInbox):
        async def aclose(self) -> None:
            closed.append(True)

    async def make() -> Inbox:
        return Closing()

    await check_inbox(make)
    assert len(closed) == 12


class Broken(MemoryInbox):
    """Each subclass breaks one promise."""


class BusyIsNeverTold(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        claim = await super().claim(key, token, lease=lease)
        return Claim(CLAIMED) if claim.status is BUSY else claim


class NoRetryAfter(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return Claim((await super().claim(key, token, lease=lease)).status)


class CutsKeys(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return await super().claim(key[:255], token, lease=lease)

    async def complete(self, key: str, token: str) -> bool:
        return await super().complete(key[:255], token)


class IgnoresCase(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return await super().claim(key.lower(), token, lease=lease)


class LocksItselfOut(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return await super().claim(key, token + str(id(object())) + str(len(self._claims)), lease=lease)


class KeepsTheFirstLease(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        before = dict(self._claims)
        claim = await super().claim(key, token, lease=lease)
        self._claims.update({digest: held for digest, held in before.items() if held[0] == token})
        return claim


class Forgets(Broken):
    async def complete(self, key: str, token: str) -> bool:
        await self.release(key, token)
        return True


class CompletesTwice(Broken):
    async def complete(self, key: str, token: str) -> bool:
        await super().complete(key, token)
        return True


class SeesClaims(Broken):
    async def seen(self, key: str) -> bool:
        return bool(self._claims) or await super().seen(key)


class NeverReleases(Broken):
    async def release(self, key: str, token: str) -> None:
        return None


class ReleasesAnybodys(Broken):
    async def release(self, key: str, token: str) -> None:
        self._claims.clear()


class ReleaseUndoes(Broken):
    async def release(self, key: str, token: str) -> None:
        await super().release(key, token)
        self._done.clear()


class EndlessLease(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return await super().claim(key, token, lease=1e9)


class CompletesForAnybody(Broken):
    async def complete(self, key: str, token: str) -> bool:
        self._claims.clear()
        return await super().complete(key, token)


class TooLateIsTooLate(Broken):
    async def complete(self, key: str, token: str) -> bool:
        held = any(held[0] == token and held[1] > self._clock() for held in self._claims.values())
        return held and await super().complete(key, token)


class NotAtomic(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        import asyncio

        free = not self._claims
        await asyncio.sleep(0)
        if free:
            self._claims.clear()
        return await super().claim(key, token, lease=lease)


class Hangs(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        raise TimeoutError


@pytest.mark.parametrize("broken", Broken.__subclasses__())
async def test_the_suite_catches_each_way_to_break_a_promise(broken: type[Broken]) -> None:
    with pytest.raises(AssertionError, match=r"^an inbox promises: "):
        await check_inbox(broken)


def test_every_check_of_the_suite_is_caught_out_by_some_broken_inbox() -> None:
    import asyncio

    from basiq_async.testing.conformance import _inbox as inbox_suite

    async def failing(broken: type[Broken]) -> str:
        try:
            await check_inbox(broken)
        except AssertionError as exc:
            return str(exc)
        return ""

    async def every() -> list[str]:
        # One check at a time: the first that fails would hide the others.
        found = []
        checks = inbox_suite._CHECKS
        try:
            for check in checks:
                inbox_suite._CHECKS = (check,)
                if not any([await failing(broken) for broken in Broken.__subclasses__()]):
                    found.append(check.__name__)
        finally:
            inbox_suite._CHECKS = checks
        return found

    assert asyncio.run(every()) == []


async def test_the_suite_says_when_it_fails_only_across_two_workers() -> None:
    with pytest.raises(AssertionError, match="across two workers"):
        await check_inbox(MemoryInbox, shared=True)


async def test_the_memory_is_longer_than_basiqs_retries_and_then_ends() -> None:
    clock = ManualClock()
    inbox = MemoryInbox(clock=clock)
    await inbox.claim("k", "a", lease=60)
    await inbox.complete("k", "a")
    clock.advance(timedelta(hours=27, minutes=35, seconds=5))
    assert await inbox.seen("k")
    clock.advance(timedelta(hours=21))
    assert not await inbox.seen("k")
    assert (await inbox.claim("k", "b", lease=60)).status is CLAIMED
    await inbox.complete("k", "b")
    clock.advance(timedelta(days=3))
    await inbox.complete("l", "b")
    assert len(inbox) == 2
    clock.advance(timedelta(days=3))
    await inbox.complete("m", "b")
    assert len(inbox) == 2, "what is too old is dropped"


async def test_the_memory_is_bounded_and_forgets_the_oldest_first() -> None:
    inbox = MemoryInbox(max_entries=10)
    for number in range(100):
        await inbox.claim(str(number), "a", lease=60)
        await inbox.complete(str(number), "a")
        assert len(inbox) <= 10
        remembered = [each for each in range(number + 1) if await inbox.seen(str(each))]
        assert remembered == list(range(number + 1))[-len(remembered) :], "the latest ones"
        assert len(remembered) >= min(number + 1, 5)


async def test_claims_of_dead_workers_are_dropped_from_memory() -> None:
    clock = ManualClock()
    inbox = MemoryInbox(clock=clock)
    for number in range(5000):
        await inbox.claim(str(number), "dead", lease=1)
        clock.advance(seconds=1)
    assert len(inbox._claims) <= 1024


async def test_claims_of_living_workers_are_kept_however_many() -> None:
    inbox = MemoryInbox()
    for number in range(3000):
        await inbox.claim(str(number), "alive", lease=60)
    assert (await inbox.claim("0", "other", lease=60)).status is BUSY


async def test_what_is_completed_again_after_it_was_forgotten_is_remembered() -> None:
    clock = ManualClock()
    inbox = MemoryInbox(remember=timedelta(seconds=10), clock=clock)
    await inbox.complete("a", "t")
    clock.advance(seconds=11)
    assert await inbox.complete("a", "u")
    assert await inbox.seen("a")


@pytest.mark.parametrize("arguments", [{"max_entries": 1}, {"remember": timedelta(0)}])
def test_a_memory_that_remembers_nothing_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        MemoryInbox(**arguments)


def test_ours_are_inboxes_and_others_are_not() -> None:
    assert isinstance(MemoryInbox(), Inbox)
    assert issubclass(SQLiteInbox, Inbox)
    assert not isinstance(SimpleNamespace(claim=None), Inbox)


def test_the_key_is_made_of_the_event_and_not_of_the_delivery() -> None:
    assert inbox_key("user.created", "e1", "msg_1") == inbox_key("user.created", "e1", "msg_2")
    assert inbox_key("user.created", "e1", None) == inbox_key("user.created", "e1", "msg_2")


@pytest.mark.parametrize(("event_type", "event"), [("", "e1"), ("user.created", ""), (None, None)])
def test_the_key_is_made_of_the_message_where_the_event_is_not_known(event_type: str | None, event: str | None) -> None:
    assert inbox_key(event_type, event, "msg_1") != inbox_key(event_type, event, "msg_2")


def test_keys_that_look_alike_are_different() -> None:
    keys = [
        inbox_key("a", "b.c", "m"),
        inbox_key("a.b", "c", "m"),
        inbox_key('a","b', "c", "m"),
        inbox_key("a", 'b","c', "m"),
        inbox_key(None, None, '["a","b.c"]'),
        inbox_key("a", "x" * 1000, "m"),
        inbox_key("a", "x" * 1001, "m"),
        inbox_key("a", "\ud800", "m"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and len(key) <= 400 for key in keys)


def test_a_key_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="inbox key"):
        inbox_key("user.created", None, "")
