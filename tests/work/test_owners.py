"""Whose an inbox is: the identity of each webhook, since when it is live there, and which lists are refused."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from basiq_async import ConfigurationError, InboxError
from basiq_async._work.owners import (
    Owner,
    find_identity,
    find_recording_since,
    list_of,
    note_owners,
    read_owners,
    refuse_others,
)
from basiq_async.receiver import MemoryInbox

NOW = datetime(2026, 11, 30, tzinfo=UTC)


async def start(inbox: MemoryInbox, *webhook_ids: str, hours: int = 0) -> None:
    await note_owners(inbox, webhook_ids, live=NOW + timedelta(hours=hours), timeout=1)


async def noted(inbox: MemoryInbox) -> dict[str, Owner]:
    return dict(await read_owners(inbox, timeout=1))


async def test_an_inbox_records_live_deliveries_since_it_began_or_since_its_receiver_did() -> None:
    inbox = MemoryInbox()
    began = await inbox.known_since()
    assert await find_recording_since(inbox, "w", timeout=1) is None
    await note_owners(inbox, ["v"], live=began - timedelta(hours=1), timeout=1)
    assert await find_recording_since(inbox, "v", timeout=1) == began
    later = began + timedelta(hours=1)
    await note_owners(inbox, ["w"], live=None, timeout=1)
    assert await find_recording_since(inbox, "w", timeout=1) is None
    for live in (later, later + timedelta(hours=1)):
        await note_owners(inbox, ["w"], live=live, timeout=1)
        assert await find_recording_since(inbox, "w", timeout=1) == later
    await note_owners(inbox, ["second", "w"], live=later + timedelta(hours=2), timeout=1)
    assert await find_recording_since(inbox, "second", timeout=1) == later + timedelta(hours=2)


def test_an_inbox_of_another_webhook_is_refused_and_one_without_a_webhook_is_not() -> None:
    for owners in ((), ("w",), (None, "w")):
        refuse_others(owners, "w", "inbox")
    with pytest.raises(ConfigurationError, match="the inbox is of the webhook 'v', not of 'w'"):
        refuse_others(("v",), "w", "inbox")


@pytest.mark.parametrize("first", [["new", "old"], ["old"]])
@pytest.mark.parametrize("wrong", [["old", "new"], ["new"], ["third", "new"], ["old", "third"]])
async def test_a_list_that_implies_another_identity_is_refused_with_the_right_one(
    first: Sequence[str], wrong: Sequence[str]
) -> None:
    inbox = MemoryInbox()
    await start(inbox, *first)
    before = await noted(inbox)
    if "old" not in wrong and first == ["old"]:
        return  # nothing says that it is the same service
    with pytest.raises(ConfigurationError) as caught:
        await start(inbox, *wrong)
    right = [each for each in ("third", "new", "old") if each in {*wrong, *first}]
    assert f"pass {right!r}, newest first" in str(caught.value)
    assert await noted(inbox) == before
    await start(inbox, *right)
    assert {each.identity for each in (await noted(inbox)).values()} == {"old"}


async def test_of_lists_that_are_noted_at_once_in_any_order_only_those_that_agree_are_accepted() -> None:
    pairs = [["new", "old"], ["old", "new"]]
    for lists in [*itertools.permutations([*pairs, ["new"]]), *itertools.permutations([*pairs, ["old"]])]:
        inbox = Shuffled()
        found = await asyncio.gather(*(start(inbox, *each) for each in lists), return_exceptions=True)
        owners = await noted(inbox)
        for each, result in zip(lists, found, strict=True):
            agrees = all(owners.get(one) == Owner(each[-1], NOW) for one in each)
            assert agrees == (result is None), (lists, found, owners)
            assert result is None or isinstance(result, ConfigurationError)


class Shuffled(MemoryInbox):
    """An inbox in which others run between the reading of a note and its writing."""

    async def note(self, name: str) -> str | None:
        found = await super().note(name)
        await asyncio.sleep(0)
        return found


async def test_a_note_that_others_change_again_and_again_is_given_up() -> None:
    class Contended(MemoryInbox):
        async def note(self, name: str) -> str | None:
            found = await super().note(name)
            await self.set_note(name, f"{found or ''} ")
            return found

    with pytest.raises(InboxError, match="again and again"):
        await start(Contended(), "w")


async def test_a_note_that_changed_since_it_was_read_is_read_again() -> None:
    inbox = MemoryInbox()
    before = await read_owners(inbox, timeout=1)
    await start(inbox, "other")
    await note_owners(inbox, ["w"], live=None, timeout=1, known=before)
    assert await noted(inbox) == {"other": Owner("other", NOW), "w": Owner("w", None)}


async def test_services_and_partners_in_one_inbox_keep_their_own_identities() -> None:
    inbox = MemoryInbox()
    await start(inbox, "a")
    await start(inbox, "b")
    await start(inbox, "a2", "a")
    owners = await noted(inbox)
    assert {each: owner.identity for each, owner in owners.items()} == {"a": "a", "b": "b", "a2": "a"}
    assert (list_of(owners, "a"), list_of(owners, "b"), list_of(owners, "c", "d")) == (["a2", "a"], ["b"], ["d", "c"])
    assert [await find_identity(inbox, each, None, timeout=1) for each in ("a", "a2", "b", "c")] == ["a", "a", "b", "c"]
    with pytest.raises(ConfigurationError, match=r"under the id 'a'"):
        await find_identity(inbox, "a2", "b", timeout=1)
    assert await find_identity(inbox, "c", "b", timeout=1) == "b"


async def test_a_webhook_that_began_alone_by_mistake_joins_the_service_from_before_and_counts_from_then() -> None:
    inbox = MemoryInbox()
    await start(inbox, "old")
    await start(inbox, "new", hours=1)
    with pytest.raises(ConfigurationError):  # the one from before does not join the later one
        await start(inbox, "old", "new", hours=2)
    with pytest.raises(ConfigurationError):  # nor does a job decide it
        await note_owners(inbox, ["new", "old"], live=None, timeout=1)
    await start(inbox, "new", "old", hours=2)
    assert await noted(inbox) == {"old": Owner("old", NOW), "new": Owner("old", NOW + timedelta(hours=2))}


async def test_a_damaged_note_is_as_good_as_none() -> None:
    for damage in ("[", "{}", '{"w": 3}', '{"w": ["2026-11-30T00:00:00", "w"]}', '{"w": "ab"}'):
        inbox = MemoryInbox()
        await inbox.set_note("webhooks", damage)
        assert await noted(inbox) == {}
        await start(inbox, "w")
        assert await noted(inbox) == {"w": Owner("w", NOW)}


async def test_the_note_of_very_many_webhooks_keeps_the_latest_and_fits() -> None:
    inbox = MemoryInbox()
    for number in range(510):
        await start(inbox, f"{number:036d}")
    owners = await noted(inbox)
    assert (len(owners), f"{509:036d}" in owners) == (500, True)
    assert len(await inbox.note("webhooks") or "") < 64 * 1024
