"""What an error says: whose failure it is, how long to wait, how it is shown."""

from __future__ import annotations

import pytest

from basiq_async import ServerError, TargetError
from basiq_async._work.failures import correlation_id, failure_text, find_retry_after, leaves


class Odd(Exception):
    def __init__(self, retry_after: object) -> None:
        self.retry_after = retry_after


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("unhandled errors in a TaskGroup", errors)


def test_the_leaves_of_a_group_are_its_errors_in_their_order_and_those_of_groups_within_it() -> None:
    a, b, c, d = (ValueError(letter) for letter in "abcd")
    assert leaves(group(a, group(group(b), c), d)) == [a, b, c, d]
    assert leaves(a) == [a]


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Odd(30), 30.0),
        (Odd(0), 0.0),
        (group(Odd(5), ValueError("no"), group(Odd(20))), 20.0),
        (group(Odd("60"), Odd(7)), 7.0),
        (ValueError("no"), None),
        *((Odd(odd), None) for odd in (True, "30", None, -1, float("nan"), float("inf"))),
    ],
)
def test_the_longest_wait_that_is_asked_for_counts(error: Exception, seconds: float | None) -> None:
    assert find_retry_after(error) == seconds


@pytest.mark.parametrize(("between", "found"), [(0, "c-1"), (99, "c-1"), (100, None)])
def test_the_correlation_id_is_that_of_the_cause_and_a_chain_is_walked_so_far(between: int, found: str | None) -> None:
    error: BaseException = ServerError("no", status=500, correlation_id="c-1")
    for _ in range(between):
        error, cause = ValueError("handler"), error
        error.__cause__ = cause
    assert correlation_id(error) == found


def test_the_correlation_id_of_a_group_is_that_of_one_of_its_errors() -> None:
    failed = ServerError("no", status=500, correlation_id="c-1")
    assert correlation_id(group(ValueError("no"), group(failed))) == "c-1"
    assert correlation_id(None) is correlation_id(ValueError("no")) is None


def test_a_group_is_shown_by_its_first_errors() -> None:
    assert failure_text(ValueError("no")) == "ValueError: no"
    assert failure_text(ValueError()) == "ValueError"
    assert failure_text(group(ValueError("no"), TargetError("away"))) == "ValueError: no; TargetError: away"
    assert failure_text(group(*(ValueError(str(i)) for i in range(5)))).endswith("ValueError: 2; and 2 more")


def test_a_text_is_cut_where_it_is_too_long_and_one_that_cannot_be_made_is_left_out() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert failure_text(ValueError("x" * 50), longest=20) == "ValueError: xxxxxxxx…"
    assert failure_text(Unspeakable()) == "Unspeakable"
