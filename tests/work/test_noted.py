"""What an inbox notes about itself: its webhooks, since when each is live, and whose account they are of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from basiq_async import ConfigurationError, InboxError
from basiq_async._work.inbox_calls import InboxCalls
from basiq_async._work.noted import Noted, NotedWebhook
from basiq_async.receiver import MemoryInbox
from basiq_async.transports.auth import ApiKey

NOW = datetime(2026, 11, 30, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
OURS, THEIRS = ApiKey("b3VyczpvdXJz").digest, ApiKey("dGhlaXJzOnRoZWlycw==").digest


def calls_of(inbox: MemoryInbox | None = None) -> InboxCalls:
    return InboxCalls(MemoryInbox() if inbox is None else inbox, 1)


async def test_the_first_webhooks_found_an_inbox_and_a_list_with_one_of_them_joins_others_in_any_order() -> None:
    calls = calls_of()
    for ids in (["w1"], ["w2", "w1"], ["w2", "w3"], ["w3"]):
        await calls.admit(ids, live=NOW)
    found = (await calls.noted()).webhooks
    assert list(found) == ["w1", "w2", "w3"]
    for refused in (["w4"], ["w5", "w4"]):
        with pytest.raises(ConfigurationError, match="inbox join"):
            await calls.admit(refused, live=NOW)
    assert (await calls.noted()).webhooks == found


async def test_a_webhook_is_live_since_its_first_receiver_and_never_by_a_job() -> None:
    calls = calls_of()
    await calls.admit(["w"], names={"w": "a name"})
    assert (await calls.noted()).live() == []
    for live in (NOW, LATER, None):
        await calls.admit(["w"], live=live)
    assert (await calls.noted()).webhooks == {"w": NotedWebhook(NOW, "a name")}


async def test_of_receivers_that_found_an_inbox_at_once_those_of_one_service_are_accepted() -> None:
    class Shuffled(MemoryInbox):
        async def note(self, name: str) -> str | None:
            found = await super().note(name)
            await asyncio.sleep(0)
            return found

    calls = calls_of(Shuffled())
    lists = (["a"], ["b"], ["b", "c"], ["a", "d"], ["c"])
    found = await asyncio.gather(*(calls.admit(each, live=NOW) for each in lists), return_exceptions=True)
    noted = (await calls.noted()).webhooks
    assert [isinstance(each, Noted) for each in found] == [each[0] in noted for each in lists]
    assert set(noted) in ({"a", "d"}, {"b", "c"})


async def test_a_note_that_others_change_again_and_again_is_given_up() -> None:
    class Contended(MemoryInbox):
        async def set_note(self, name: str, text: str, **options: Any) -> bool:
            return False

    for call in (
        calls_of(Contended()).admit(["w"]),
        calls_of(Contended()).join_proven("w", "a", listed=[], account=OURS),
    ):
        with pytest.raises(InboxError, match="again and again"):
            await call


Proof = tuple[str | None, list[str], Callable[[str], str]]
PROVEN: Proof = ("a name", ["new", "other"], OURS)
UNPROVEN: dict[str, Proof] = {
    "another name": ("another", ["new"], OURS),
    "no name": (None, ["new"], OURS),
    "the noted one is listed": ("a name", ["new", "old"], OURS),
    "another key": ("a name", ["new"], THEIRS),
}


@pytest.mark.parametrize("proof", [PROVEN, *UNPROVEN.values()], ids=["proven", *UNPROVEN])
async def test_a_webhook_joins_by_itself_only_where_it_is_proven_that_it_took_the_place(proof: Proof) -> None:
    calls = calls_of()
    assert await calls.join_proven("old", "a name", listed=["old"], account=OURS), "an empty inbox is founded"
    name, listed, account = proof
    assert await calls.join_proven("new", name, listed=listed, account=account) is (proof is PROVEN)
    assert ("new" in (await calls.noted()).webhooks) is (proof is PROVEN)
    assert await calls.join_proven("old", name, listed=listed, account=account), "one that is noted has joined"


async def test_nothing_is_proven_of_an_inbox_that_only_receivers_without_a_client_have_used() -> None:
    calls = calls_of()
    await calls.admit(["old"], live=NOW)
    assert not await calls.join_proven("new", None, listed=["new"], account=OURS)
    await calls.admit(["old"], names={"old": "a name"})
    assert not await calls.join_proven("new", "a name", listed=["new"], account=OURS)
    await calls.admit(["old"], account=OURS)
    assert await calls.join_proven("new", "a name", listed=["new"], account=OURS)


@pytest.mark.parametrize("damage", ["[", "{}", '{"w": 3}', '{"webhooks": {"w": ["2026-11-30T00:00:00", null]}}'])
async def test_a_damaged_note_is_an_error_and_founds_nothing(damage: str) -> None:
    inbox = MemoryInbox()
    await inbox.set_note("webhooks", damage)
    with pytest.raises(InboxError, match="note of its webhooks is damaged"):
        await calls_of(inbox).admit(["w"], live=NOW)


async def test_the_note_shows_no_key_and_that_of_very_many_webhooks_keeps_the_latest_and_fits() -> None:
    calls, noted = calls_of(), Noted()
    for number in range(510):
        noted = noted.add([f"{number:036d}"], live=NOW, names={f"{number:036d}": "n" * 20}, account=OURS)
    assert (len(noted.webhooks), f"{509:036d}" in noted.webhooks, len(noted.keys)) == (500, True, 1)
    assert len(noted.write()) < 64 * 1024
    assert "b3Vyczpv" not in noted.write()
    assert Noted.read(noted.write()) == noted
    assert (await calls.noted()).webhooks == {}


async def test_jobs_that_post_are_noted_once() -> None:
    calls = calls_of()
    for job in ("post:1", "post:2", "post:1"):
        await calls.note_job(job)
    assert await calls.jobs() == ["post:1", "post:2"]
