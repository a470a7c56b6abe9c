"""A rate that is true when it matters: of the last ten seconds, and zero while nothing finishes."""

from __future__ import annotations

import pytest

from basiq_async.replay._tally import messages_per_second, seconds_left  # private: no run has a chosen clock


@pytest.mark.parametrize(
    ("samples", "now", "finished", "rate"),
    [
        ([], 5.0, 0, 0.0),
        ([(0.0, 0)], 0.0, 0, 0.0),
        ([(0.0, 0)], 0.5, 100, 200.0),
        ([(0.0, 0)], 2.0, 100, 50.0),
        ([(0.0, 0), (5.0, 500)], 10.0, 1_000, 100.0),
        ([(0.0, 0), (5.0, 500), (15.0, 600)], 20.0, 700, 10.0),
        ([(0.0, 0), (5.0, 500), (15.0, 500), (20.0, 500)], 20.0, 500, 0.0),
        ([(0.0, 0), (5.0, 500)], 100.0, 500, 0.0),
    ],
    ids=[
        "no sample",
        "no time",
        "half a second",
        "since the begin",
        "ten seconds",
        "the last ten seconds",
        "stalled",
        "no sample since",
    ],
)
def test_a_rate_is_of_the_last_ten_seconds(
    samples: list[tuple[float, int]], now: float, finished: int, rate: float
) -> None:
    assert messages_per_second(samples, now_seconds=now, began_seconds=0.0, finished=finished) == pytest.approx(rate)


def test_a_rate_is_of_the_time_since_the_work_began_whenever_that_was() -> None:
    assert messages_per_second([(100.0, 0)], now_seconds=102.0, began_seconds=100.0, finished=100) == 50.0


@pytest.mark.parametrize(
    ("remaining", "rate", "seconds"),
    [(None, 5.0, None), (100, 0.0, None), (0, 0.0, 0.0), (100, 5.0, 20.0), (5, 0.5, 10.0), (1, 1.0, 1.0)],
)
def test_there_is_no_estimate_while_nothing_finishes(remaining: int | None, rate: float, seconds: float | None) -> None:
    assert seconds_left(remaining, rate) == seconds
