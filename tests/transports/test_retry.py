"""Which requests are sent again, after how long, and what the caller gets in the end."""

from __future__ import annotations

import asyncio
import traceback
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from basiq_async import (
    ConfigurationError,
    ConnectionFailedError,
    Request,
    RequestTimeoutError,
    Response,
    RetryPolicy,
    ServerError,
    TransportError,
)
from basiq_async.hooks import RequestEvent
from basiq_async.transports.retry import Retrying
from tests.support import virtual
from tests.support.scripted import Scripted, answer, client, error

GET = Request("GET", "https://au-api.basiq.io/things")
POST = Request("POST", "https://au-api.basiq.io/things")
DELETE = Request("DELETE", "https://au-api.basiq.io/things")
REFUSED = ConnectionFailedError("refused", sent=False)
BROKEN = ConnectionFailedError("broken")
NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


def send(request: Request, *script: Any, policy: RetryPolicy | None = None, **options: Any) -> Any:
    """What came of sending, how often it was sent, and how many seconds it took."""

    async def main() -> tuple[Any, int, float]:
        inner = Scripted(*script)
        options.setdefault("uniform", lambda low, high: high)
        began = virtual.now()
        outcome: Any
        try:
            outcome = await Retrying(inner, policy, now=lambda: NOON, **options).send(request)
        except TransportError as exc:
            outcome = exc
        return outcome, len(inner.requests), virtual.now() - began

    return virtual.run(main())


LATE = RequestTimeoutError("late")
HARMLESS = Request("POST", POST.url, idempotent=True)
PASSING = [BROKEN, REFUSED, LATE, *map(error, (408, 429, 500, 502, 503, 504, 599))]
FINAL = [answer(status=status) for status in (200, 204, 301, 400, 401, 403, 404, 409, 422, 499, 600)]
AGAIN = [
    *((request, first, True) for request in (GET, DELETE) for first in PASSING),
    *((GET, first, False) for first in FINAL),
    (POST, error(429), True),
    (POST, REFUSED, True),
    *((POST, first, False) for first in (BROKEN, LATE, *map(error, (408, 500, 503)))),
    (HARMLESS, BROKEN, True),
]


@pytest.mark.parametrize(("request_", "first", "again"), AGAIN)
def test_a_request_is_sent_again_where_that_can_help_and_do_no_harm(request_: Request, first: Any, again: bool) -> None:
    outcome, sent, took = send(request_, first, answer(status=201))
    if again:
        assert (outcome.status, outcome.attempts, sent) == (201, 2, 2)
    elif isinstance(first, Response):
        assert (outcome.status, outcome.attempts, sent, took) == (first.status, 1, 1, 0.0)
    else:
        assert (outcome, sent) == (first, 1)


def test_a_failure_that_another_try_cannot_mend_is_final() -> None:
    outcome, sent, _ = send(GET, TransportError("too large"), answer())
    assert str(outcome) == "too large"
    assert sent == 1


def test_waits_double_up_to_the_ceiling() -> None:
    policy = RetryPolicy(max_retries=5, base=1.0, max_wait=5.0)
    outcome, sent, took = send(GET, error(503), policy=policy)
    assert (outcome.status, outcome.attempts, sent) == (503, 6, 6)
    assert took == pytest.approx(1 + 2 + 4 + 5 + 5)


def test_jitter_is_over_the_whole_wait() -> None:
    asked: list[tuple[float, float]] = []

    def lowest(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    _, _, took = send(GET, error(503), answer(), policy=RetryPolicy(base=2.0), uniform=lowest)
    assert asked == [(0.0, 2.0)]
    assert took == 0.0


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("7", 7.0),
        ("30", 30.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Wed, 01 May 2024 12:00:20 GMT", 20.0),
        ("3, 9", 9.0),
        ("Wed, 01 May 2024 12:00:20 GMT, 4", 20.0),
    ],
)
def test_retry_after_is_waited_for_in_full_and_without_jitter(header: str, wait: float) -> None:
    outcome, sent, took = send(
        GET, error(429, retry_after=header), answer(), uniform=lambda low, high: pytest.fail("jittered")
    )
    assert (outcome.status, sent) == (200, 2)
    assert took == pytest.approx(wait)


@pytest.mark.parametrize("header", ["-5", "soon", "", "nan", "1e3", "Wed, 01 May 2024 11:00:00 GMT", "\uff19"])
def test_a_retry_after_that_asks_for_nothing_leaves_the_usual_wait(header: str) -> None:
    _, _, took = send(GET, error(503, retry_after=header), answer(), policy=RetryPolicy(base=0.5))
    assert took == pytest.approx(0.5)


@pytest.mark.parametrize("header", ["31", "9" * 30, "Wed, 01 May 2024 13:00:00 GMT"])
@pytest.mark.parametrize("policy", [RetryPolicy(max_wait=30.0), RetryPolicy()], ids=["30 s", "by default"])
def test_a_retry_after_beyond_the_ceiling_is_not_waited_for(header: str, policy: RetryPolicy) -> None:
    outcome, sent, took = send(GET, error(429, retry_after=header), answer(), policy=policy)
    assert (outcome.status, sent, took) == (429, 1, 0.0)


@virtual.clocked
async def test_the_error_carries_the_retry_after_that_was_not_waited_for() -> None:
    transport = Scripted(error(503, retry_after="3600"))
    with pytest.raises(ServerError) as caught:
        await client(transport, retry=RetryPolicy()).webhooks.get("w")
    assert caught.value.retry_after == 3600
    assert "retry after 3600 s" in str(caught.value)


def test_max_elapsed_covers_the_waits() -> None:
    policy = RetryPolicy(max_retries=100, base=4.0, max_wait=4.0, max_elapsed=10.0)
    outcome, sent, took = send(GET, error(503), policy=policy)
    assert (outcome.status, sent) == (503, 3)
    assert took == pytest.approx(8.0)


def test_max_elapsed_covers_the_attempts() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(3600)
        raise AssertionError

    policy = RetryPolicy(max_retries=100, base=1.0, max_wait=1.0, max_elapsed=10.0)
    outcome, sent, took = send(GET, slow, policy=policy, timeout=4.0)
    assert isinstance(outcome, RequestTimeoutError)
    assert (sent, outcome.attempts) == (2, 2)
    assert took <= 10.0


def test_each_attempt_has_its_timeout() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(3600)
        raise AssertionError

    outcome, _, took = send(GET, slow, policy=RetryPolicy(max_retries=0), timeout=4.0)
    assert isinstance(outcome, TimeoutError)
    assert str(outcome) == "no complete response within 4 s (GET https://au-api.basiq.io/things)"
    assert took == pytest.approx(4.0)


@virtual.clocked
async def test_a_timeout_of_the_caller_is_not_taken_for_one_of_the_request() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(3600)
        raise AssertionError

    inner = Scripted(slow)
    began = virtual.now()
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(1):
            await Retrying(inner).send(GET)
    assert not isinstance(caught.value, RequestTimeoutError)
    assert (virtual.now() - began, len(inner.requests)) == (1.0, 1)


def test_the_last_error_tells_how_many_attempts_there_were() -> None:
    outcome, _, _ = send(GET, ConnectionFailedError("broken", method="GET", path="/things"))
    assert outcome.attempts == 5
    assert str(outcome) == "broken (GET /things) after 5 attempts"


@virtual.clocked
async def test_an_answer_that_came_after_retries_tells_so_in_the_error() -> None:
    transport = Scripted(error(503), error(503), error(404, "resource-not-found"))
    with pytest.raises(Exception, match="after 3 attempts") as caught:
        await client(transport, retry=RetryPolicy()).webhooks.get("w")
    assert caught.value.attempts == 3


def test_no_error_shows_the_machinery_of_the_retries() -> None:
    outcome, _, _ = send(GET, BROKEN)
    assert "_Failed" not in "".join(traceback.format_exception(outcome))


@virtual.clocked
async def test_cancellation_during_a_wait_is_immediate() -> None:
    inner = Scripted(error(503))
    task = asyncio.create_task(Retrying(inner, RetryPolicy(base=30.0), uniform=lambda low, high: high).send(GET))
    await asyncio.sleep(1)
    began = virtual.now()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert virtual.now() == began
    assert len(inner.requests) == 1


@virtual.clocked
async def test_a_closed_client_begins_no_further_attempt() -> None:
    inner = Scripted(error(503))
    retrying = Retrying(inner, RetryPolicy(base=1.0), uniform=lambda low, high: high)
    task = asyncio.create_task(retrying.send(GET))
    await asyncio.sleep(0.5)
    await retrying.aclose()
    assert (await task).status == 503
    assert len(inner.requests) == 2


def test_a_response_that_the_caller_gives_up_on_is_not_sent_again() -> None:
    def gives_up(response: Response) -> bool:
        return response.status == 503

    outcome, sent, _ = send(GET, error(500), error(503), answer(), gives_up=gives_up)
    assert (outcome.status, outcome.attempts, sent) == (503, 2, 2)


def test_a_response_that_needs_no_retry_is_not_shown_to_the_caller_who_gives_up() -> None:
    seen: list[Response] = []
    outcome, _, _ = send(GET, answer(), gives_up=lambda response: bool(seen.append(response)))
    assert (outcome.status, seen) == (200, [])


def test_by_default_a_request_is_sent_five_times_within_two_minutes() -> None:
    assert RetryPolicy() == RetryPolicy(max_retries=4, base=0.5, max_wait=30.0, max_elapsed=120.0)


def test_a_number_of_retries_is_whole() -> None:
    with pytest.raises(ConfigurationError, match="max_retries"):
        RetryPolicy(max_retries=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        RetryPolicy(3)  # type: ignore[misc]


@pytest.mark.parametrize("ours", [True, False], ids=["an error of this package", "any other"])
def test_the_cause_of_a_failure_is_that_of_the_transports_error_or_the_error_itself(ours: bool) -> None:
    cause = OSError("reset by peer")
    error = ConnectionFailedError("broken") if ours else ValueError("of a transport")
    error.__cause__ = cause
    outcome, _, _ = send(POST, error)
    assert type(outcome.__cause__) is (OSError if ours else ValueError)
    assert outcome.__suppress_context__, "a cause that was left out shows as the context"


def test_a_policy_of_zeros_is_no_retry_and_no_wait_but_no_time_at_all_is_refused() -> None:
    assert RetryPolicy(max_retries=0, base=0, max_wait=0).max_retries == 0
    with pytest.raises(ConfigurationError, match="max_elapsed must be above 0"):
        RetryPolicy(max_elapsed=0)


def test_very_many_retries_without_a_wait_are_made() -> None:
    outcome, sent, took = send(GET, error(503), policy=RetryPolicy(max_retries=1_100, base=0))
    assert (outcome.attempts, sent, took) == (1_101, 1_101, 0.0)


@pytest.mark.parametrize(
    "returned",
    [
        *(None, "text", b"{}", (200, {}, b""), Response("200", {}, b""), Response(None, {}, b"")),  # type: ignore[arg-type]
        *(Response(True, {}, b""), Response(200, {}, "{}"), Response(200, {}, None)),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_what_a_transport_returns_that_is_no_response_is_an_error_that_says_so(returned: Any) -> None:
    async def odd(request: Request) -> Any:
        return returned

    outcome, sent, _ = send(GET, odd)
    assert "did not return a Response with an int as its status and bytes as its body" in str(outcome)
    assert (type(outcome), sent) == (TransportError, 1)


def test_names_of_headers_are_read_in_any_case_and_handed_on_in_lower_case() -> None:
    outcome, sent, took = send(GET, Response(503, {"Retry-After": "3"}, b""), Response(200, {"X-Name": "Y"}, b"{}"))
    assert (outcome.headers, sent, took) == ({"x-name": "Y"}, 2, 3.0)


@pytest.mark.parametrize(
    ("script", "repeated"),
    [
        ([answer()], False),
        ([error(429), answer()], False),
        ([REFUSED, answer()], False),
        ([BROKEN, answer()], True),
        ([error(503), answer()], True),
        ([BROKEN, error(429), answer()], True),
    ],
    ids=["at once", "too many", "refused", "broken", "503", "broken and too many"],
)
def test_a_response_says_whether_an_earlier_attempt_may_have_been_carried_out(script: Any, repeated: bool) -> None:
    outcome, sent, _ = send(DELETE, *script)
    assert (outcome.repeated, outcome.attempts, sent) == (repeated, len(script), len(script))


def test_an_attempt_ends_with_the_time_for_all_of_them() -> None:
    async def hangs(request: Request) -> Response:
        await asyncio.sleep(3600)
        return answer()

    for limit in (5.0, 40.0):  # an attempt has 30 s
        outcome, sent, took = send(GET, hangs, policy=RetryPolicy(max_retries=9, base=0, max_elapsed=limit))
        assert isinstance(outcome, RequestTimeoutError)
        assert (sent, took) == ((1, 5.0) if limit == 5.0 else (2, 40.0))


@pytest.mark.parametrize(("deadline", "took"), [(-1.0, 0.0), (0.0, 0.0), (12.0, 12.0), (90.0, 60.0)])
@virtual.clocked
async def test_the_attempts_end_with_the_deadline_of_the_request_or_max_elapsed(deadline: float, took: float) -> None:
    async def hangs(request: Request) -> Response:
        await asyncio.sleep(3600)
        return answer()

    began = virtual.now()
    request = attrs.evolve(GET, deadline=began + deadline)
    policy = RetryPolicy(max_retries=9, base=0, max_elapsed=60)
    with pytest.raises(RequestTimeoutError):
        await Retrying(Scripted(hangs), policy, now=lambda: NOON).send(request)
    assert virtual.now() - began == took


class OtherClock:
    """A clock on which waiting takes none of the event loop's time."""

    def __init__(self) -> None:
        self.passed = 0.0

    def time(self) -> float:
        return self.passed

    def now(self) -> datetime:
        return NOON

    async def sleep(self, seconds: float) -> None:
        self.passed += seconds


@virtual.clocked
async def test_waits_are_on_the_clock_of_the_transport_and_its_deadline_on_the_loops() -> None:
    inner = Scripted(error(503), error(503), answer())
    inner.waits = OtherClock()  # type: ignore[attr-defined]
    began = virtual.now()
    retrying = Retrying(inner, RetryPolicy(base=8), now=lambda: NOON, uniform=lambda low, high: high)
    assert (await retrying.send(GET)).attempts == 3
    assert (virtual.now() - began, inner.waits.passed) == (0.0, 24.0)  # type: ignore[attr-defined]
    assert [request.deadline for request in inner.requests] == [began + 30.0] * 3


def test_the_log_has_the_facts_of_an_attempt_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "basiq_async")
    send(GET, error(503), answer())
    first, retry, last = (vars(record) for record in caplog.records)
    for record, facts in ((first, (503, 1)), (retry, (503, 1)), (last, (200, 2))):
        assert (record["http_method"], record["http_path"]) == ("GET", GET.url)
        assert (record["http_status"], record["attempt"]) == facts
        assert not record.keys() & {"duration", "wait"}, "a number of seconds that the text shows rounded"


def test_hooks_are_told_of_each_attempt_and_each_wait() -> None:
    async def slowly(request: Request) -> Response:
        await asyncio.sleep(2)
        return error(503, retry_after="7")

    attempts: list[RequestEvent] = []
    waits: list[RequestEvent] = []
    send(GET, REFUSED, slowly, answer(), on_request=attempts.append, on_retry=waits.append)
    assert [(each.attempt, each.status, each.error, each.duration) for each in attempts] == [
        (1, None, "ConnectionFailedError", 0.0),
        (2, 503, None, 2.0),
        (3, 200, None, 0.0),
    ]
    assert [(each.attempt, each.status, each.error, each.wait) for each in waits] == [
        (1, None, "ConnectionFailedError", 0.5),
        (2, 503, None, 7.0),
    ]
