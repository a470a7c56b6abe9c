"""The selection belongs to the job: predicates describe themselves, and a checkpoint goes with one of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from basiq_async import CheckpointError, ConfigurationError, Message
from basiq_async.replay import (
    MemoryCheckpoint,
    SQLiteCheckpoint,
    Where,
    event_types,
    failed_only,
    limit,
    since,
    until,
)
from tests.support.histories import Recorder, history

pytestmark = pytest.mark.usefixtures("both_orders")

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def urgent(message: Message) -> bool:
    return message.event_type_id == "consent.revoked"


class Callable_:
    def __call__(self, message: Message) -> bool:
        return True


@pytest.mark.parametrize(
    ("where", "description"),
    [
        (failed_only(), "failed_only()"),
        (since(timedelta(days=2)), "since(2 days, 0:00:00)"),
        (since(NOON), "since(2026-01-05T12:00:00+00:00)"),
        (until(NOON.astimezone(timezone(timedelta(hours=11)))), "until(2026-01-05T12:00:00+00:00)"),
        (event_types("user.*", "consent.revoked"), "event_types('consent.revoked', 'user.*')"),
        (limit(5), ""),
        (limit(5) & failed_only(), "failed_only()"),
        (failed_only() & limit(5), "failed_only()"),
        (failed_only() & since(NOON), "failed_only() & since(2026-01-05T12:00:00+00:00)"),
        (~failed_only() | event_types("a"), "(~(failed_only()) | event_types('a'))"),
        (Where(urgent), "tests.replay.test_selection.urgent"),
        (failed_only() & urgent, "failed_only() & tests.replay.test_selection.urgent"),
        (Where(Callable_()), "tests.replay.test_selection.Callable_"),
    ],
)
def test_a_selection_describes_itself(where: Where, description: str) -> None:
    assert where.description == description


def test_a_relative_since_is_the_same_selection_each_day() -> None:
    assert since(timedelta(days=2)).description == since(timedelta(hours=48)).description


@pytest.mark.parametrize("on_disk", [False, True])
async def test_another_selection_than_the_recorded_one_is_refused_with_both_named(on_disk: bool, tmp_path: Any) -> None:
    checkpoint: Any = SQLiteCheckpoint(tmp_path / "replay.db") if on_disk else MemoryCheckpoint()
    async with history(30) as h:
        target = Recorder()
        report = await h.replay(target, checkpoint=checkpoint, where=failed_only()).run()
        assert report.finished
        with pytest.raises(CheckpointError, match=r"where=failed_only\(\), not of all messages.*or another checkpoint"):
            await h.replay(target, checkpoint=checkpoint).run()
        with pytest.raises(
            CheckpointError, match=r"where=failed_only\(\), not of where=tests\.replay\.test_sel.*urgent"
        ):
            await h.replay(target, checkpoint=checkpoint, where=urgent).plan()
        again = h.replay(target, checkpoint=checkpoint, where=failed_only() & limit(3))
        assert (await again.run()).finished
        assert again.job.selection == "failed_only()"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"filters": []}, "at least one"),
        ({"filters": [""]}, "none of them empty"),
        ({"filters": ["a", "a"]}, "same filter twice"),
        ({"filters": "a"}, "must be a list"),
        ({"filters": ["a"], "filter": "b"}, "not both"),
        ({"filters": ["a"], "source": "events"}, 'needs source="messages"'),
    ],
)
async def test_filters_that_make_no_job_are_refused(options: dict[str, Any], text: str) -> None:
    async with history(1) as h:
        with pytest.raises(ConfigurationError, match=text):
            h.replay(Recorder(), **options)
