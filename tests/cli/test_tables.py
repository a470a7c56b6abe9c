"""Tables and single objects in terminals of 80 and 40 columns: an id is whole, no line is too long."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from basiq_async.cli import _output
from basiq_async.cli._results import Column, Output, cards, table
from basiq_async.cli._shapes import EVENT, EVENT_TYPE, MESSAGE, WEBHOOK
from basiq_async.models import Event, EventType, Message, Webhook

from ..support.snapshots import assert_matches

SNAPSHOTS = Path(__file__).parent / "snapshots"
IDS = ("51a2b3c4-0001-4d5e-8f90-a1b2c3d4e5f6", "51a2b3c4-0002-4d5e-8f90-a1b2c3d4e5f6")
AT = datetime(2026, 1, 5, 12, 0, 1, tzinfo=UTC)


def message(number: int, *codes: int) -> Message:
    attempts = [
        {
            "id": f"a{index}",
            "url": "https://service.example/basiq/webhooks",
            "response": "upstream connect error or disconnect/reset before headers" if code >= 300 else None,
            "responseStatusCode": code,
            "timestamp": AT.isoformat(),
            "status": "Success" if code < 300 else "Failed",
        }
        for index, code in enumerate(codes)
    ]
    payload = {
        "eventTypeId": "transactions.updated",
        "eventId": "0f" * 16,
        "links": {"event": "https://au-api.basiq.io/events/" + "0f" * 16},
    }
    raw: dict[str, Any] = {"id": IDS[number], "payload": payload, "attempts": attempts}
    return Message(IDS[number], raw)


WEBHOOKS = [
    Webhook(IDS[0], "https://service.example/basiq", "active", ("user.created",), "production"),
    Webhook(IDS[1], "https://a-much-longer-name-of-a-host.service.example/basiq/webhooks/incoming", "pending-approval",
            ("user.created", "user.deleted", "consent.revoked"), None, "for people"),
]  # fmt: skip
RESULTS: dict[str, tuple[Any, Any]] = {
    "webhooks": (WEBHOOK, WEBHOOKS),
    "messages": (MESSAGE, [message(0, 500, 204), message(1)]),
    "events": (EVENT, [Event("0f" * 16, "consent.revoked", "consent", "revoked", IDS[0], AT, "https://x.example/1")]),
    "event types": (EVENT_TYPE, [EventType("user.created", "A user was created; " * 5)]),
}


@pytest.fixture(params=[80, 40])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(_output, "is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("NO_COLOR", "1")
    return int(request.param)


@pytest.mark.parametrize("name", RESULTS)
def test_a_list_fits_and_shows_whole_ids(name: str, columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    shape, items = RESULTS[name]
    Output().rows(items, shape)
    shown = capsys.readouterr().out
    assert all(item.id in shown for item in items)
    # A value that is longer than the terminal is wide goes on in its next line.
    assert all(len(line) <= columns or "  " not in line.strip() for line in shown.splitlines())
    assert_matches(shown, SNAPSHOTS / "tables" / f"{name.replace(' ', '-')}-{columns}.txt")


@pytest.mark.parametrize("name", RESULTS)
def test_one_object_is_a_line_for_each_value(name: str, columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    shape, items = RESULTS[name]
    Output().one(items[0], shape)
    shown = capsys.readouterr().out
    assert items[0].id in shown
    assert_matches(shown, SNAPSHOTS / "tables" / f"{name.replace(' ', '-')}-one-{columns}.txt")


def test_all_attempts_of_a_message_are_shown(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    Output().one(message(0, 500, 503, 204), MESSAGE)
    shown = capsys.readouterr().out
    assert [f"attempt {number} of 3" in shown for number in (1, 2, 3)] == [True] * 3
    assert "upstream connect error" in shown


def test_foreign_text_in_a_table_steers_nothing(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;title\x07\x9b2J\u202e\nx"
    hostile = Webhook(f"id{evil}", f"https://x/{evil}", evil, (evil,), evil, evil)
    Output().rows([hostile], WEBHOOK)
    Output().one(hostile, WEBHOOK)
    shown = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)


def test_a_long_list_has_one_header_and_is_written_as_it_comes(
    columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    Output().rows((EventType(f"type.{number}", "d") for number in range(1_000)), EVENT_TYPE)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1_001
    assert sum("DESCRIPTION" in line for line in lines) == 1


def test_wide_characters_count_as_two_columns() -> None:
    sizes = [Column[str]("A", lambda text: text), Column[str]("B", lambda text: "x")]
    made = table(["\u65e5\u672c", "ab"], sizes, 80)
    assert made is not None
    assert made.rows == ["\u65e5\u672c  x", "ab    x"]


def test_cards_leave_out_what_is_not_there() -> None:
    sizes = [
        Column[str]("A", lambda text: text),
        Column[str]("B", lambda text: "-"),
        Column[str]("C", lambda text: "c"),
    ]
    assert cards(["id"], sizes, 40) == ["id", "  c"]


def test_a_status_line_stands_below_what_is_written(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(_output, "is_terminal", lambda stream: True)
    with _output.new_session(json=False):
        _output.live("working\x1b[2J")
        _output.write("data")
        _output.live("")
    assert capsys.readouterr().out == "data\n"
    assert sys.stderr is not None


def test_a_pipe_gets_no_status_line_and_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    with _output.new_session(json=False):
        _output.live("working")
        Output().rows(WEBHOOKS, WEBHOOK)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "\x1b" not in captured.out
