"""Tables and single objects in terminals of 80 and 40 columns: an id is whole, no line is too long."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ..support.command_line import CommandResult, run_command
from ..support.wire import KEY, Wire, ok, page

SNAPSHOTS = Path(__file__).parent / "snapshots"
IDS = ("51a2b3c4-0001-4d5e-8f90-a1b2c3d4e5f6", "51a2b3c4-0002-4d5e-8f90-a1b2c3d4e5f6")
EVENT_ID = "0f" * 16
Raw = dict[str, Any]


def webhook(number: int, url: str, status: str, events: Sequence[str], **more: str) -> Raw:
    return {"id": IDS[number], "url": url, "status": status, "subscribedEvents": list(events), **more}


def message(number: int, *codes: int) -> Raw:
    attempts = [
        {
            "id": f"a{index}",
            "url": "https://service.example/basiq/webhooks",
            "response": "upstream connect error or disconnect/reset before headers" if code >= 300 else None,
            "responseStatusCode": code,
            "timestamp": "2026-01-05T12:00:01Z",
            "status": "Success" if code < 300 else "Failed",
        }
        for index, code in enumerate(codes)
    ]
    payload = {
        "eventTypeId": "transactions.updated",
        "eventId": EVENT_ID,
        "links": {"event": f"https://au-api.basiq.io/events/{EVENT_ID}"},
    }
    return {"id": IDS[number], "payload": payload, "attempts": attempts}


WEBHOOKS = [
    webhook(0, "https://service.example/basiq", "active", ["user.created"], name="production"),
    webhook(1, "https://a-much-longer-name-of-a-host.service.example/basiq/webhooks/incoming", "pending-approval",
            ["user.created", "user.deleted", "consent.revoked"], description="for people"),
]  # fmt: skip
MESSAGES = [message(0, 500, 204), message(1)]
EVENTS = [
    {
        "id": EVENT_ID,
        "entity": "consent",
        "eventType": "revoked",
        "userId": IDS[0],
        "createdDate": "2026-01-05T12:00:01Z",
        "dataRef": "https://x.example/1",
    }
]
TYPES = [{"id": "user.created", "description": "A user was created; " * 5}]
LISTS: dict[str, tuple[list[str], list[Raw]]] = {
    "webhooks": (["webhooks", "list"], WEBHOOKS),
    "messages": (["messages", "list", "w1"], MESSAGES),
    "events": (["events", "list"], EVENTS),
    "event types": (["events", "types"], TYPES),
}
ONE: dict[str, tuple[list[str], Raw]] = {
    "webhooks": (["webhooks", "get", IDS[0]], WEBHOOKS[0]),
    "messages": (["messages", "get", "w1", IDS[0]], MESSAGES[0]),
    "events": (["events", "get", EVENT_ID], EVENTS[0]),
}


async def show(response: bytes, *words: str, columns: int = 80) -> CommandResult:
    """Run a command in a terminal, against a Basiq with this response."""
    async with Wire(response) as wire:
        env = {"BASIQ_API_KEY": KEY, "BASIQ_BASE_URL": wire.url, "COLUMNS": str(columns), "NO_COLOR": "1"}
        # In a thread, since a command runs its own event loop. A dumb terminal has no status line.
        return await asyncio.to_thread(run_command, *words, env={**env, "TERM": "dumb"}, terminal=True)


def assert_matches(text: str, file: Path) -> None:
    """Check that a text equals its snapshot. Spaces at the ends of lines are ignored."""
    found = "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"
    if os.environ.get("BASIQ_SNAPSHOTS") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found, encoding="utf-8")
    expected = file.read_text(encoding="utf-8") if file.exists() else ""
    assert found == expected, f"{file} is not what is shown now: `make generated` writes it again"


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("name", LISTS)
async def test_a_list_fits_and_shows_whole_ids(name: str, columns: int) -> None:
    words, items = LISTS[name]
    shown = (await show(page(items), *words, columns=columns)).stdout
    assert all(item["id"] in shown for item in items)
    # A value that is longer than the terminal is wide continues in its next line.
    assert all(len(line) <= columns or "  " not in line.strip() for line in shown.splitlines())
    assert_matches(shown, SNAPSHOTS / "tables" / f"{name.replace(' ', '-')}-{columns}.txt")


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("name", ONE)
async def test_one_object_is_a_line_for_each_value(name: str, columns: int) -> None:
    words, item = ONE[name]
    shown = (await show(ok(item), *words, columns=columns)).stdout
    assert item["id"] in shown
    assert_matches(shown, SNAPSHOTS / "tables" / f"{name.replace(' ', '-')}-one-{columns}.txt")


@pytest.mark.parametrize("columns", [80, 40])
async def test_all_attempts_of_a_message_are_shown(columns: int) -> None:
    shown = (await show(ok(message(0, 500, 503, 204)), "messages", "get", "w1", IDS[0], columns=columns)).stdout
    assert [f"attempt {number} of 3" in shown for number in (1, 2, 3)] == [True] * 3
    assert "upstream connect error" in shown


@pytest.mark.parametrize("columns", [80, 40])
async def test_foreign_text_in_a_table_steers_nothing(columns: int) -> None:
    evil = "\x1b]0;title\x07\x9b2J\u202e\nx"
    hostile = {"id": f"id{evil}", "url": f"https://x/{evil}", "status": evil, "subscribedEvents": [evil], "name": evil}
    listed = await show(page([hostile]), "webhooks", "list", columns=columns)
    one = await show(ok(hostile), "webhooks", "get", "w1", columns=columns)
    assert "title" in listed.stdout
    assert "title" in one.stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", listed.output + one.output)


@pytest.mark.parametrize("columns", [80, 40])
async def test_a_long_list_has_one_header(columns: int) -> None:
    types = [{"id": f"type.{number}", "description": "d"} for number in range(1_000)]
    lines = (await show(page(types), "events", "types", columns=columns)).stdout.splitlines()
    assert len(lines) == 1_001
    assert sum("DESCRIPTION" in line for line in lines) == 1


async def test_wide_characters_count_as_two_columns() -> None:
    types = [{"id": "\u65e5\u672c", "description": "x"}, {"id": "ab", "description": "x"}]
    shown = (await show(page(types), "events", "types")).stdout
    assert shown.splitlines() == ["ID    DESCRIPTION", "\u65e5\u672c  x", "ab    x"]


async def test_cards_leave_out_what_is_not_there() -> None:
    long = webhook(0, f"https://{'x' * 80}.example", "active", [])
    shown = (await show(page([long]), "webhooks", "list", columns=40)).stdout
    assert shown.splitlines() == [IDS[0], "  active", f"  {long['url']}"]


@pytest.mark.parametrize("columns", [80, 40])
async def test_a_long_cell_is_drawn_in_linear_time(columns: int) -> None:
    long = "\u65e5" * 200_000
    items = [{"id": "user.created", "description": long}] * 5
    began = time.process_time()
    done = await show(page(items), "events", "types", columns=columns)
    assert done.exit_code == 0
    assert time.process_time() - began < 5  # the quadratic way took hours
    assert max(map(len, done.stdout.splitlines())) <= columns
