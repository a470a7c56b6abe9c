"""Each result has one row in one table: its status, its meaning, and how a replay reads it."""

from __future__ import annotations

import pytest

from basiq_async.receiver import Outcome, Result
from basiq_async.receiver._results import RESULTS  # private: the table itself


def test_each_result_has_a_row() -> None:
    assert set(RESULTS) == set(Result)


def test_each_result_has_the_documented_status() -> None:
    assert {result.value: Outcome(result).status for result in Result} == {
        "handled": 204,
        "ignored": 204,
        "duplicate": 200,
        "quarantined": 200,
        "deferred": 202,
        "unreadable": 400,
        "rejected": 401,
        "aborted": 408,
        "too-large": 413,
        "compressed": 415,
        "failed": 500,
        "timed-out": 500,
        "busy": 503,
        "unavailable": 503,
        "full": 503,
        "overloaded": 503,
        "closed": 503,
    }


@pytest.mark.parametrize("result", Result)
def test_an_outcome_has_the_status_of_its_row(result: Result) -> None:
    outcome = Outcome(result)
    assert outcome.status == RESULTS[result].status
    assert outcome.acknowledged == (200 <= outcome.status <= 299)


@pytest.mark.parametrize("result", Result)
def test_what_basiq_is_not_to_send_again_counts_as_done_in_a_replay_and_nothing_else(result: Result) -> None:
    meaning = RESULTS[result]
    assert (meaning.in_replay in ("handled", "skipped")) == Outcome(result).acknowledged
    assert (meaning.word is not None) == (meaning.in_replay == "skipped")
