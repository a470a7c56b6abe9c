"""Whatever a list does between and during runs, a reading loses nothing, and repeats nothing that the record knows."""

from __future__ import annotations

import asyncio
import os
import random
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from basiq_async.replay._reading import Batch, Reading  # private: its users are in this package
from tests.support.changing_lists import NOON, KilledError, Lists, Records, key_of

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
    "hint": "kept",
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
            "hint": self.one_of(*["kept"] * 16, "lost", "old", "foreign", "damaged"),
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


async def check(
    order: str, paging: str, times: str, size: int, count: int, plan: list[dict[str, Any]], *, doubles: bool = False
) -> None:
    lists = Lists(order, paging, size, times)
    for _ in range(count):
        lists.grow()
    record = Records()
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
        text = record.hints.get(selection)
        if run["hint"] == "old":
            clock[0] += timedelta(hours=25)
        elif run["hint"] == "foreign":
            text = record.hints.get(f"selection {1 - run['selects']}")
        elif run["hint"] == "damaged" and text is not None:
            text = text[:-9] + ("0" if text[-9] != "0" else "1") + text[-8:]
        whole = text is None or run["hint"] in ("lost", "old", "foreign", "damaged")
        reading = Reading(
            lists.paginator(),
            known=record.known,
            key_of=lambda item: key_of(item, doubles=doubles),
            hint=None if run["hint"] == "lost" else text,
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
                batch.finish()
                record.hints[selection] = reading.hint() or record.hints.get(selection)
            pending.clear()

        try:
            stopped = False
            while not stopped and (batch := await reading.advance()) is not None:
                assert batch.items
                for item in batch.items:
                    name = key(item["id"])
                    assert name not in record.keys, f"{name} is recorded, and was handed out again"
                    assert name not in handed, f"{name} was handed out twice in one run"
                    handed.add(name)
                    if len(handed) == run["hold"]:
                        batch.hold()
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
        record.hints[selection] = reading.hint() or record.hints.get(selection)
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
        # Of numbered pages, nobody can see what slips away because of an item in the middle.
        if not (running and lists.paging == "offset"):
            lists.vanish(number)
    else:
        lists.generation += 1
