"""What the page of a mock shows: its scale of time, its marks, and as many rows as are asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from typing import Any

import pytest

from basiq_async.testing import FakeBasiq
from basiq_async.testing.fake.catalog import SCHEDULE
from basiq_async.testing.mock._operation import Control  # private: a page without a server
from basiq_async.testing.mock._page import (  # private: what a page says, without a server
    line_for_request,
    marks,
    place,
    show_all,
    show_message,
    ticks,
)

from ..conftest import ENDPOINT, Endpoint

MOMENTS = [moment.total_seconds() for moment in accumulate(SCHEDULE)]


def served(fake: FakeBasiq) -> Control:
    return Control(fake, "http://127.0.0.1:4010/basiq", fake)


def test_the_attempts_of_the_schedule_are_at_even_steps_from_one_end_of_the_scale_to_the_other() -> None:
    places = [place(moment) for moment in MOMENTS]
    assert (places[0], places[-1]) == (4, 96)
    assert [later - earlier for earlier, later in pairwise(places)] == pytest.approx([92 / 7] * 7, abs=0.02)
    assert place((MOMENTS[3] + MOMENTS[4]) / 2) == pytest.approx((places[3] + places[4]) / 2, abs=0.01)
    assert (place(-5), place(1e9)) == (4, 96), "what is earlier or later is at an end"
    assert [(tick["x"], tick["label"]) for tick in ticks() if not tick["important"]] == [
        (places[1], "5 s"), (places[3], "35 min"), (places[5], "7.6 h"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "at once"),
        (0.9, "at once"),
        (1, "after 1 s"),
        (59, "after 59 s"),
        (60, "after 1 min"),
        (90, "after 1.5 min"),
        (3_600, "after 1 h"),
        (99_305, "after 1.15 days"),
    ],
)
def test_a_mark_says_when_an_attempt_was_and_how_it_ended(seconds: float, shown: str) -> None:
    created = datetime(2026, 1, 5, tzinfo=UTC)
    at = (created + timedelta(seconds=seconds)).isoformat()
    attempt = {"number": 1, "at": at, "response": "text", "duration": 0.0123}
    message: dict[str, Any] = {
        "created": created.isoformat(),
        "attempts": [
            {**attempt, "ok": True, "status": 200},
            {**attempt, "ok": False, "status": 503},
            {**attempt, "ok": False, "status": None},
        ],
        "nextAttempt": {"number": 4, "due": at},
    }
    *made, due = marks(message)
    assert [(each["kind"], each["text"]) for each in made] == [
        ("ok", f"Attempt 1, {shown}: 200, text, 12 ms"),
        ("failed", f"Attempt 1, {shown}: 503, text, 12 ms"),
        ("lost", f"Attempt 1, {shown}: no response, text, 12 ms"),
    ]
    assert (due["kind"], due["text"]) == ("due", f"Attempt 4 is due {shown}")
    assert {each["x"] for each in (*made, due)} == {place(seconds)}


@pytest.mark.parametrize(
    ("asked", "rows", "more"),
    [(None, 60, True), ("70", 70, True), ("5", 60, True), ("1000", 1_000, False), ("99999", 1_000, False),
     ("100000", 60, True), ("", 60, True), ("²", 60, True), ("-70", 60, True)],
)  # fmt: skip
async def test_a_list_has_60_rows_or_as_many_as_are_asked_for_up_to_a_thousand(
    fake: FakeBasiq, asked: str | None, rows: int, more: bool
) -> None:
    fake.seed_messages(1_001)
    shown = await show_all(served(fake), {} if asked is None else {"messages": asked})
    assert (len(shown["messages"]), shown["message_rows"], shown["more_messages"]) == (rows, rows, more)


async def test_what_is_all_shown_has_no_more_rows(fake: FakeBasiq) -> None:
    fake.seed_messages(60)
    shown = await show_all(served(fake), {})
    assert (len(shown["messages"]), shown["more_messages"], shown["more_requests"]) == (60, False, False)


async def test_a_webhook_is_down_where_its_endpoint_or_every_endpoint_is(fake: FakeBasiq) -> None:
    ids = [fake.add_webhook(f"{ENDPOINT}/{number}") for number in range(2)]
    fake.endpoint_down(f"{ENDPOINT}/1")
    shown = await show_all(served(fake), {})
    assert ([each["down"] for each in shown["webhooks"]], shown["all_down"]) == ([False, True], False)
    fake.endpoint_down()
    shown = await show_all(served(fake), {})
    assert ([each["down"] for each in shown["webhooks"]], shown["all_down"]) == ([True, True], True)
    assert shown["webhooks"][0]["line"].endswith(f"http://127.0.0.1:4010/_fake/webhooks/{ids[0]}/secret")


async def test_each_attempt_of_a_message_has_the_delivery_that_was_made_for_it(fake: FakeBasiq) -> None:
    fake.route(ENDPOINT, Endpoint(503, 200))
    fake.add_webhook(ENDPOINT)
    (message_id,) = (await fake.emit("user.created")).message_ids
    await fake.advance(seconds=5)
    shown = await show_message(served(fake), message_id)
    assert [(each["status"], each["delivery"]["status"]) for each in shown["attempts"]] == [(503, 503), (200, 200)]
    fake.reset_log()
    shown = await show_message(served(fake), message_id)
    assert [(each["status"], each["delivery"]) for each in shown["attempts"]] == [(503, None), (200, None)]


def test_the_line_of_a_request_has_variables_in_place_of_its_credential() -> None:
    request = {
        "method": "POST",
        "url": "http://127.0.0.1:4010/token",
        "path": "/token",
        "headers": {"Authorization": "(hidden)", "Cookie": "(hidden)", "Host": "127.0.0.1", "basiq-version": "3.0"},
        "body": "scope=SERVER_ACCESS",
    }
    assert line_for_request(request) == (
        'curl --globoff -X POST http://127.0.0.1:4010/token -H "Authorization: Basic $BASIQ_API_KEY" '
        "-H 'basiq-version: 3.0' --data-raw scope=SERVER_ACCESS"
    )
    other = line_for_request({**request, "path": "/events", "body": None})
    assert '-H "Authorization: Bearer $BASIQ_TOKEN"' in other
    assert "--data-raw" not in other
