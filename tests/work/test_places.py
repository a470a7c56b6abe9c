"""Notes of any number of owners are in a bounded number of places, and no owner takes a note for its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from types import EllipsisType
from typing import Any

import attrs
import pytest

from basiq_async._work.places import Found, Places
from basiq_async.errors import InboxError
from basiq_async.receiver import MemoryInbox

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@attrs.define
class Notes:
    """The notes of a record, whose calls other programs may come between."""

    notes: dict[str, str] = attrs.Factory(dict[str, str])
    now: datetime = NOON
    pause: Callable[[], Any] = lambda: asyncio.sleep(0)

    async def note(self, name: str) -> str | None:
        await self.pause()
        return self.notes.get(name)

    async def set_note(self, name: str, text: str, *, expected: str | EllipsisType | None = ...) -> bool:
        await self.pause()
        if expected is not ... and self.notes.get(name) != expected:
            return False
        self.notes[name] = text
        return True

    def places(self, most: int = 3) -> Places:
        return Places(self.note, self.set_note, "kind", most, lambda: self.now)


async def test_an_owner_finds_its_notes_until_as_many_others_have_used_theirs_since() -> None:
    notes = Notes()
    for number in range(50):
        for part in ("", "more"):
            await notes.places().write(f"text {number} {part}", str(number), part)
        if number:
            await notes.places().write("of the first", "0")  # it is used each time
        notes.now += HOUR
    assert len(notes.notes) == 1 + 2 * 3
    assert await notes.places().read("0") == Found("of the first")
    assert await notes.places().read("0", "more") == Found("text 0 more")
    assert await notes.places().read("49", "more") == Found("text 49 more")
    gone = await notes.places().read("47")
    assert gone.text is None
    assert gone.gone_before is not None
    assert gone.gone_before == NOON + 48 * HOUR, "the last that went was used until then"


async def test_while_no_note_has_gone_an_owner_without_one_is_new() -> None:
    notes = Notes()
    assert await notes.places().read("a") == Found()
    for owner in "abc":
        await notes.places().write("x", owner)
    assert await notes.places().read("d") == Found()
    assert await notes.places().read("a", "another") == Found()


async def test_who_was_there_when_another_went_is_still_new_and_who_came_later_may_not_be() -> None:
    notes = Notes()
    for owner in "abcd":
        await notes.places().write("x", owner)
        notes.now += 2 * HOUR
    assert await notes.places().read("b", "another") == Found(), "it had its place all the time"
    assert (await notes.places().read("a")).gone_before == NOON + HOUR
    await notes.places().write("x", "a")
    assert (await notes.places().read("a", "another")).gone_before == NOON + HOUR, "one of before may have gone"


async def test_the_last_one_that_used_its_place_says_so_once_in_an_hour_and_after_a_clock_was_ahead() -> None:
    notes = Notes()
    for owner in ("b", "a"):
        await notes.places().write("x", owner)
    table = notes.notes["kind"]
    for hours, changes in ((0.5, False), (1, False), (1.001, True), (0.9, True), (0.9, False)):
        notes.now = NOON + hours * HOUR
        await notes.places().write(f"at {hours}", "a")
        assert (notes.notes["kind"] != table) is changes, hours
        table = notes.notes["kind"]


async def test_one_that_lost_its_place_while_it_wrote_writes_over_nothing() -> None:
    notes = Notes()
    await notes.places(1).write("x", "a")

    async def set_note(name: str, text: str, *, expected: str | None) -> bool:
        if name != "kind" and "b" not in told:
            told["b"] = True
            await notes.places(1).write("y", "b")
        return await notes.set_note(name, text, expected=expected)

    told = dict[str, bool]()
    await Places(notes.note, set_note, "kind", 1, lambda: NOON).write("z", "a")
    assert await notes.places(1).read("a") == Found("z")
    assert await notes.places(1).read("b") == Found(None, NOON), "its note went, and that is known"


async def test_what_an_owner_wrote_in_a_turn_before_is_gone_though_it_has_that_place_again() -> None:
    notes = Notes()
    await notes.places(1).write("x", "a", "one")
    await notes.places(1).write("y", "b", "two")
    notes.now += 2 * HOUR
    await notes.places(1).write("z", "a", "two")
    assert (await notes.places(1).read("a", "one")).gone_before is not None
    assert await notes.places(1).read("a", "two") == Found("z")


async def test_a_clock_that_was_ahead_makes_no_later_moment_unknown_than_now() -> None:
    notes = Notes(now=NOON + timedelta(days=400))
    await notes.places().write("x", "a")
    notes.now = NOON
    for owner in "bcd":
        await notes.places().write("x", owner)
    assert (await notes.places().read("a")).gone_before == NOON


@pytest.mark.parametrize(
    "text",
    [
        *("x", "[]", '{"places": {}}', '{"gone": null, "places": {"a": [7, 0, null, "t"]}}'),
        *('{"gone": Infinity, "places": {}}', '{"gone": 1e30, "places": {}}'),
        '{"gone": null, "places": {"a": [0, 0, 1e30, "t"]}}',
    ],
)
async def test_what_another_program_wrote_is_begun_again_and_all_of_before_is_unknown(text: str) -> None:
    notes = Notes()
    await notes.places().write("x", "a")
    notes.notes["kind"] = text
    assert await notes.places().read("a") == Found(None, NOON)
    await notes.places().write("y", "b")
    notes.now += HOUR
    assert await notes.places().read("a") == Found(None, NOON)
    await notes.places().write("z", "a")
    assert (await notes.places().read("a"), await notes.places().read("b")) == (Found("z"), Found("y"))


async def test_others_that_always_come_first_end_a_write_with_an_error() -> None:
    notes = Notes()

    async def refuse(name: str, text: str, *, expected: str | None) -> bool:
        return False

    with pytest.raises(InboxError, match="again and again"):
        await Places(notes.note, refuse, "kind", 3, lambda: NOON).write("x", "a")


@pytest.mark.parametrize(("owners", "most"), [("ab", 1), ("abc", 2), ("abcde", 3)])
@pytest.mark.parametrize("seed", range(40))
async def test_of_any_two_at_once_none_has_the_note_of_the_other_or_believes_that_it_is_new(
    owners: str, most: int, seed: int
) -> None:
    """More owners than places, each in two processes, with any number of turns between their calls."""
    chance = random.Random(seed)

    async def pause() -> None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)

    notes, written = Notes(pause=pause), dict[str, int]()

    async def work(owner: str) -> None:
        for _ in range(chance.randrange(1, 6)):
            before, found = written.get(owner), await notes.places(most).read(owner)
            assert found.text is None or found.text.startswith(f"{owner}:")
            assert found.text or found.gone_before or before is None, "it wrote one, so it is not new"
            number = max(written.values(), default=0) + 1
            await notes.places(most).write(f"{owner}:{number}", owner)
            written[owner] = number
            await pause()

    await asyncio.gather(*(work(owner) for owner in owners * 2))
    assert len(notes.notes) <= 1 + most
    for owner in owners:
        found = await notes.places(most).read(owner)
        assert found.text or found.gone_before, "it wrote one"


async def test_an_inbox_keeps_them_with_any_name() -> None:
    inbox = MemoryInbox()
    places = Places(inbox.note, inbox.set_note, "kind", 3, partial(datetime.now, UTC))
    await places.write("text \ud800", "owner \ud800\x00" * 1_000)
    assert await places.read("owner \ud800\x00" * 1_000) == Found("text \ud800")
