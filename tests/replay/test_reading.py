"""Whatever a list does between and during runs, a reading loses nothing, and repeats nothing that the record knows."""

from __future__ import annotations

import asyncio
import json
import os
import random
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from basiq_async._wire.codec import ListPage  # private: what a list of tests shows
from basiq_async.replay._reading import Reading  # private: its users are in this package
from basiq_async.replay._sources import Batch  # private: its users are in this package
from tests.support import virtual
from tests.support.changing_lists import NOON, KilledError, KnownKeys, Lists, key_of

EXAMPLES = int(os.environ.get("BASIQ_FUZZ_EXAMPLES", "300"))


RUN: dict[str, Any] = {
    "before": [],
    "during": {},
    "sizes": [],
    "stop": None,
    "kill": None,
    "dies": True,
    "finish": 1,
    "hold": None,
    "resume_point": "kept",
    "record": "kept",
    "selects": 0,
}
"""A run in which nothing happens."""
LENGTH = 280
"""The number of choices of an example. Zeros are the simplest one: hypothesis makes a failing example of many zeros."""


class Choices:
    """Makes an example of bytes. One draw of many bytes is much faster than many draws of a strategy."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def number(self, least: int, most: int) -> int:
        return least + next(self._data, 0) % (most - least + 1)

    def one_of(self, *each: str) -> str:
        return each[self.number(0, len(each) - 1)]

    def perhaps(self, least: int, most: int) -> int | None:
        return self.number(least, most) if self.number(0, 1) else None

    def change(self) -> tuple[str, int]:
        kind = self.one_of("grow", "late", "expire", "vanish", "refuse")
        return kind, self.number(
            *{"grow": (1, 12), "late": (1, 2), "expire": (1, 9), "vanish": (0, 40)}.get(kind, (0, 0))
        )

    def changes(self, least: int, most: int) -> list[tuple[str, int]]:
        return [self.change() for _ in range(self.number(least, most))]

    def run(self) -> dict[str, Any]:
        return {
            "before": self.changes(0, 3),
            "during": {self.number(0, 24): self.changes(1, 2) for _ in range(self.number(0, 4))},
            "sizes": [self.number(0, 3) for _ in range(self.number(0, 4))],
            "stop": self.perhaps(1, 30) if self.number(0, 1) else None,
            "kill": self.perhaps(0, 20),
            "dies": bool(self.number(0, 1)),
            "finish": self.number(1, 9),
            "hold": self.perhaps(1, 9) if self.number(0, 2) == 2 else None,
            "resume_point": self.one_of(*["kept"] * 16, "lost", "old", "foreign", "damaged"),
            "record": self.one_of(*["kept"] * 30, "restored", "lost"),
            "selects": self.number(0, 7) // 7,
        }

    def example(self) -> dict[str, Any]:
        return {
            "order": self.one_of("oldest-first", "newest-first", "none"),
            "paging": self.one_of("cursor", "seek", "offset"),
            "times": self.one_of(*["right"] * 4, "equal", "wrong", "backwards", "missing", "some"),
            "size": self.number(3, 5),
            "count": self.number(0, 99),
            "doubles": self.number(0, 7) == 7,
            "plan": [self.run() for _ in range(self.number(1, 6))],
        }


def test_a_reading_loses_nothing_and_repeats_nothing_that_the_record_knows() -> None:
    with asyncio.Runner() as runner:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[each for each in Phase if each is not Phase.explain],
            database=None,
        )
        @given(st.binary(min_size=LENGTH, max_size=LENGTH))
        def check_each(data: bytes) -> None:
            example = Choices(data).example()
            note(f"await check(**{example})")
            runner.run(check(**example))

        check_each()


def test_items_that_slip_away_twice_at_different_pages_are_read_before_it_says_finished() -> None:
    # The end of a numbered list slips to a page that was read, and then to an earlier one.
    run = {**RUN, "before": [("grow", 6)], "during": {3: [("expire", 1)], 8: [("expire", 3)]}}
    asyncio.run(check("oldest-first", "offset", "right", 3, 4, [run]))


def test_a_list_that_grows_at_its_start_while_its_times_fall_is_read_at_both_ends() -> None:
    plan = [RUN, {**RUN, "before": [("expire", 4)]}, {**RUN, "before": [("grow", 1), ("expire", 3), ("expire", 9)]}]
    asyncio.run(check("newest-first", "cursor", "backwards", 3, 29, plan))


def test_known_items_that_are_met_again_because_a_link_expired_do_not_end_a_pass() -> None:
    # One item came late, among those; the link to its page expires when the items before it were met.
    late = {**RUN, "before": [("late", 2), ("grow", 3), ("grow", 1)], "sizes": [0]}
    plan = [{**RUN, "before": [("grow", 3)], "stop": 12}, {**late, "during": {8: [("refuse", 0), ("grow", 1)]}}]
    asyncio.run(check("newest-first", "cursor", "right", 3, 19, plan))


def test_known_items_that_are_met_twice_because_pages_shift_do_not_end_a_pass() -> None:
    grow = {**RUN, "before": [("grow", 3)], "during": {0: [("grow", 4)], 1: [("grow", 2)]}}
    killed = {**RUN, "before": [("grow", 3)], "during": {0: [("grow", 2)]}, "sizes": [0], "kill": 4, "dies": False}
    late = {**RUN, "before": [("expire", 1), ("late", 2)], "during": {0: [("grow", 1)], 1: [("grow", 1)]}}
    plan = [
        {**RUN, "before": [("grow", 7)], "kill": 0, "dies": False},
        grow,
        {**RUN, "during": {0: [("grow", 1)]}, "kill": 0, "dies": False},
        killed,
        late,
    ]
    asyncio.run(check("newest-first", "offset", "right", 3, 0, plan))


def test_all_that_was_read_of_the_end_expires() -> None:
    plan = [
        {**RUN, "before": [("grow", 5)], "during": {0: [("grow", 2)]}},
        {
            **RUN,
            "before": [("grow", 1)],
            "during": {0: [("grow", 2), ("refuse", 0)], 1: [("grow", 6)]},
            "sizes": [0] * 4,
        },
        {**RUN, "before": [("expire", 1)], "during": {0: [("grow", 1)]}, "stop": 1, "kill": 0, "dies": False},
        {**RUN, "before": [("expire", 1), ("grow", 1)], "during": {0: [("expire", 9), ("grow", 1)], 1: [("grow", 1)]}},
        {**RUN, "during": {0: [("grow", 1)], 1: [("grow", 1), ("expire", 5)]}},
    ]
    plan[3].update(sizes=[0] * 4, stop=1)
    asyncio.run(check("newest-first", "cursor", "backwards", 3, 11, plan))


def test_what_slipped_away_from_a_pass_that_was_killed_is_read() -> None:
    first = {**RUN, "before": [("grow", 8)], "during": {0: [("grow", 3)]}, "kill": 9, "dies": False}
    during = {0: [("expire", 6)], 1: [("grow", 2)], 3: [("grow", 1), ("expire", 2)]}
    second = {**RUN, "before": [("grow", 2)], "during": during, "sizes": [0, 0, 1]}
    asyncio.run(check("oldest-first", "offset", "backwards", 4, 19, [first, second]))


def test_what_slips_away_again_after_known_items_is_read() -> None:
    # What slipped away follows items that an earlier run read: it slips away again after the last one of these.
    plan = [
        {**RUN, "before": [("grow", 1)], "during": {0: [("late", 1)], 1: [("expire", 6)]}, "sizes": [0], "stop": 11},
        {**RUN, "before": [("grow", 1), ("expire", 1)], "during": {3: [("late", 1), ("expire", 6)]}, "sizes": [1]},
    ]
    plan[1]["during"] |= {0: [("grow", 1), ("late", 1)], 9: [("expire", 2)]}
    asyncio.run(check("oldest-first", "offset", "right", 3, 15, plan))


def test_an_item_that_comes_late_is_read_though_pages_moved_up_to_where_the_list_ended() -> None:
    plan = [RUN, {**RUN, "before": [("expire", 4), ("late", 2)]}]
    asyncio.run(check("oldest-first", "offset", "right", 4, 33, plan))


def test_an_item_that_comes_late_is_read_though_pages_moved_up_after_several_runs() -> None:
    plan = [RUN, RUN, {**RUN, "before": [("late", 1), ("expire", 7)]}]
    asyncio.run(check("oldest-first", "offset", "right", 3, 88, plan))


def test_a_pass_that_proves_another_one_reads_as_far() -> None:
    # The list shows its order only during the pass from its start, which has then read all.
    first = {**RUN, "before": [("grow", 9)], "during": {6: [("grow", 4)], 7: [("refuse", 0)]}, "kill": 16}
    second = {**RUN, "during": {16: [("expire", 1)], 10: [("grow", 11)]}, "sizes": [0]}
    asyncio.run(check("oldest-first", "offset", "right", 3, 16, [first, second]))


async def check(
    order: str, paging: str, times: str, size: int, count: int, plan: list[dict[str, Any]], *, doubles: bool = False
) -> None:
    lists = Lists(order, paging, size, times)
    for _ in range(count):
        lists.grow()
    record = KnownKeys()
    former: set[str] = set()
    clock = [NOON + timedelta(days=30)]
    lost_keys: set[str] = set()

    def key(name: str) -> str:
        return key_of({"id": name}, doubles=doubles)

    for run in [*plan, RUN, {**RUN, "selects": 1}]:
        for each in run["before"]:
            change(lists, each, running=False)
        lists.sizes = iter(run["sizes"])
        if run["record"] != "kept":
            lost_keys = {"selection 0", "selection 1"}
        if run["record"] == "restored":
            record.keys = set(former)
        elif run["record"] == "lost":
            record.keys = {each for each in record.keys if int(each[1:]) % 3}
        former = set(record.keys)
        at_start, first_request = lists.ids, lists.requests

        def selects(item: Any, run: dict[str, Any] = run) -> Any:
            return None if run["selects"] and int(item["id"][1:]) % 3 == 0 else item

        def before_request(run: dict[str, Any] = run, first: int = first_request) -> None:
            clock[0] += timedelta(seconds=1)
            number = lists.requests - first
            for each in run["during"].get(number, ()):
                change(lists, each, running=True)
            if run["kill"] == number:
                raise KilledError

        lists.before_request = before_request
        selection = f"selection {run['selects']}"
        text = record.resume_points.get(selection)
        if run["resume_point"] == "old":
            clock[0] += timedelta(hours=25)
        elif run["resume_point"] == "foreign":
            text = record.resume_points.get(f"selection {1 - run['selects']}")
        elif run["resume_point"] == "damaged" and text is not None:
            text = text[:-9] + ("0" if text[-9] != "0" else "1") + text[-8:]
        whole = text is None or run["resume_point"] in ("lost", "foreign", "damaged")
        if (
            run["resume_point"] == "old" and text is not None
        ):  # a reading that was cut off goes on; the next one is whole
            whole = bool(json.loads(text.partition(" ")[2])["at_end"])
        reading = Reading(
            lists.paginator(),
            known=record.known,
            key_of=lambda item: key_of(item, doubles=doubles),
            resume_point=None if run["resume_point"] == "lost" else text,
            selection=selection,
            convert=selects,
            now=lambda: clock[0],
        )
        handed: set[str] = set()
        pending: list[tuple[Batch[Any], str]] = []

        def finish(reading: Reading[Any] = reading, pending: list[Any] = pending, selection: str = selection) -> None:
            random.Random(len(record.keys)).shuffle(pending)
            for batch, name in pending:
                record.keys.add(name)
                batch.mark_done()
                record.resume_points[selection] = reading.resume_point() or record.resume_points.get(selection)
            pending.clear()

        try:
            stopped = False
            while not stopped and (batch := await reading.advance()) is not None:
                assert batch.items
                for item in batch.items:
                    name = key(item["id"])
                    assert name not in record.keys, f"{name} is recorded, and was yielded again"
                    assert name not in handed, f"{name} was yielded twice in one run"
                    handed.add(name)
                    if len(handed) == run["hold"]:
                        batch.keep_unread()
                    else:
                        pending.append((batch, name))
                    if len(pending) >= run["finish"]:
                        finish()
                    if len(handed) == run["stop"]:
                        stopped = True
                        break
        except KilledError:
            if run["dies"]:
                continue  # otherwise only the request failed
        finally:
            lists.before_request = lambda: None
            await reading.aclose()
            await asyncio.sleep(0)
        finish()
        record.resume_points[selection] = reading.resume_point() or record.resume_points.get(selection)
        if reading.finished:
            if whole:
                lost_keys.discard(selection)
            listed = {key(each) for each in at_start & lists.ids if selects({"id": each}) is not None}
            lost = listed - record.keys - handed
            assert selection in lost_keys or not lost, f"the run says finished, and lost {lost}"
    assert reading.finished


def change(lists: Lists, what: tuple[str, int], *, running: bool) -> None:
    kind, number = what
    if kind == "grow":
        for _ in range(number):
            lists.grow()
    elif kind == "late":
        # Late is what comes within a page of where a run ended.
        if lists.order != "none" and not running:
            lists.grow(number)
    elif kind == "expire":
        lists.expire(number)
    elif kind == "vanish":
        # Of numbered pages, no response shows what slips away because of an item in the middle.
        if not (running and lists.paging == "offset"):
            lists.vanish(number)
    else:
        lists.generation += 1


def test_a_batch_that_is_done_keeps_none_of_its_items() -> None:
    batch = Batch(["one", "two"], ["1", "2"])
    batch.mark_done()
    assert (batch.is_done, batch.items) == (False, ["one", "two"])
    batch.mark_done()
    assert (batch.is_done, batch.items) == (True, ())


@virtual.clocked
async def test_a_reading_begins_when_it_sends_its_first_request() -> None:
    lists = Lists("newest-first", "cursor", 2, "equal")
    for _ in range(5):
        lists.grow()
    fetch = lists.fetch

    async def fetch_slowly(url: str) -> ListPage:
        await asyncio.sleep(7)
        return await fetch(url)

    lists.fetch = fetch_slowly  # type: ignore[method-assign]
    began = virtual.clock()
    reading = Reading(
        lists.paginator(),
        known=KnownKeys().known,
        key_of=key_of,
        resume_point=None,
        selection="",
        convert=lambda item: item,
        now=virtual.clock,
    )
    while (batch := await reading.advance()) is not None:
        batch.mark_done()
    await reading.aclose()
    assert (reading.finished, reading.began) == (True, began)
