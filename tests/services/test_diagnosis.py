"""What is wrong with a webhook: its status, event types, attempts, endpoint, and what a recovery would bring."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest
from aiohttp import web

from basiq_async import (
    ConfigurationError,
    Diagnosis,
    EndpointCheck,
    InboxError,
    Message,
    NotFoundError,
    PermissionDeniedError,
    Problem,
    Webhook,
)
from basiq_async._work.failing import FailingType
from basiq_async.receiver import Delivery, MemoryInbox, SecretFile, UnknownEventTypeWarning, WebhookReceiver
from basiq_async.receiver.protocol import Waiting, inbox_key
from basiq_async.services._diagnosis_history import AttemptCount  # private: thousands of messages pass in a moment
from basiq_async.services.coverage import (  # private: what a recovery notes
    Activity,
    Coverage,
    Inactivity,
    coverage_note,
)
from basiq_async.services.diagnosis import Attempts, Lacking, Look, cool_off_left, matches
from basiq_async.services.problems import ProblemCode, describe_waiting
from tests.services.conftest import Basiq
from tests.support import virtual
from tests.support.deliveries import SECRET, taking
from tests.support.scripted import Scripted, answer, client, error, page
from tests.support.served import serving

NOW = datetime.now(UTC)


def codes(found: Diagnosis) -> list[str]:
    return [problem.code for problem in found.problems]


def attempt(status: str, age: timedelta) -> dict[str, Any]:
    return {"id": "a", "status": status, "timestamp": (NOW - age).isoformat()}


def message(number: int, *attempts: dict[str, Any]) -> dict[str, Any]:
    payload = {"eventTypeId": "user.created", "eventId": f"e{number}"}
    return {"id": f"m{number}", "payload": payload, "attempts": list(attempts)}


def event(number: int, kind: str = "user.created") -> dict[str, Any]:
    entity, _, what = kind.partition(".")
    return {"id": f"e{number}", "entity": entity, "eventType": what}


async def diagnose(
    *,
    status: str = "active",
    url: str = "http://127.0.0.1:9/x",
    subscribed: list[str] | None = None,
    messages: list[Any] | None = None,
    events: list[Any] | None = None,
    date: str | None = None,
    forbidden: Sequence[str] = (),
    **options: Any,
) -> Diagnosis:
    """The diagnosis of a webhook that a script describes."""

    def respond(request: Any) -> Any:
        path = request.url.removeprefix("https://au-api.basiq.io").partition("?")[0]
        if path in forbidden:
            return error(403, "access-denied")
        if path.endswith("/messages"):
            return page(messages or [])
        if path == "/events":
            return page(events or [])
        if path == "/events/types":
            return page([{"id": "user.created"}, {"id": "consent.revoked"}])
        types = ["user.created"] if subscribed is None else subscribed
        headers = {} if date is None else {"date": date}
        return answer({"id": "w", "url": url, "status": status, "subscribedEvents": types}, **headers)

    async with client(Scripted(respond)) as basiq:
        return await basiq.webhooks.diagnose("w", **options)


async def test_a_webhook_that_works_has_no_problem() -> None:
    good = message(1, attempt("Success", timedelta(hours=1)))
    found = await diagnose(messages=[good], events=[event(1)])
    assert found.healthy
    assert found.problems == ()
    assert (found.status, found.cool_off_left, found.attempts.failed_share) == ("active", 0.0, 0.0)
    assert found.attempts.last_success == NOW - timedelta(hours=1)
    assert (found.endpoint, found.look.items, found.look.complete) == (None, 2, True)


@pytest.mark.parametrize(
    ("status", "code"), [("disabled", "disabled"), ("inactive", "disabled"), ("Disabled", "disabled")]
)
async def test_a_webhook_that_is_disabled_is_told_with_what_to_do(status: str, code: str) -> None:
    found = await diagnose(status=status)
    assert codes(found) == [code]
    assert found.cool_off_left is None


async def test_a_pending_webhook_says_how_long_the_cool_off_can_take() -> None:
    found = await diagnose(status="pending-approval")
    assert (codes(found), found.cool_off_left) == (["pending"], 900.0)
    assert "900 s" in found.problems[0].text


@pytest.mark.parametrize(("age", "left"), [(0, 900), (300, 600), (2000, 0), (-50, 900)])
def test_the_cool_off_counts_from_the_subscription_where_that_is_known(age: float, left: float) -> None:
    webhook = Webhook("w", "https://x.example", "pending-approval")
    assert cool_off_left(webhook, NOW - timedelta(seconds=age), NOW) == left


async def test_event_types_are_compared_with_the_vendors_and_the_handlers() -> None:
    receiver = WebhookReceiver(SECRET)

    @receiver.on("consent.*", "user.created")
    async def handler(delivery: Delivery) -> None: ...

    with pytest.warns(UnknownEventTypeWarning):

        @receiver.on("consent.revokd")
        async def other(delivery: Delivery) -> None: ...

    found = await diagnose(subscribed=["account.closed", "user.deleted"], receiver=receiver)
    assert found.types.retired == ("account.closed", "user.deleted")
    assert found.types.unknown == ("consent.revokd",)
    assert found.types.unhandled == ("account.closed", "user.deleted")
    assert found.types.unsubscribed == ("consent.*", "user.created", "consent.revokd")
    assert found.endpoint is None, "without test=True, nothing is posted to the URL that the API names"
    assert codes(found) == [
        "retired-event-types",
        "unknown-event-types",
        "unhandled-event-types",
        "unsubscribed-event-types",
    ]


async def test_a_webhook_without_event_types_is_reported_unless_it_has_a_message_for_it_may_get_every_event() -> None:
    assert codes(await diagnose(subscribed=[])) == ["no-event-types"]
    good = message(1, attempt("Success", timedelta(hours=1)))
    assert codes(await diagnose(subscribed=[], messages=[good], events=[event(1)])) == []
    found = await diagnose(subscribed=[], messages=[good], events=[event(1), event(2, "consent.revoked")])
    assert (codes(found), found.never_sent) == (["never-sent"], 1)


async def test_an_event_that_does_not_tell_its_type_is_counted_as_unreadable() -> None:
    odd = {"id": "e2", "eventType": "created"}
    assert codes(await diagnose(events=[event(1, "account.updated"), odd])) == ["unreadable"]


async def test_attempts_that_failed_lately_for_what_is_still_undelivered_are_told_as_a_share() -> None:
    hour, days = timedelta(hours=1), timedelta(days=3)
    found = await diagnose(
        messages=[
            message(1, attempt("Failed", hour), attempt("Success", hour)),
            message(2, attempt("Failed", hour / 2)),
            message(3, attempt("Failed", days), attempt("Failed", days)),
            message(4),
        ]
    )
    assert found.attempts.failed_share == pytest.approx(1 / 3)  # the first message was retried, and delivered
    assert found.undelivered == 2
    assert codes(found) == ["failing", "undelivered"]
    assert "33%" in found.problems[0].text
    assert found.attempts.by_status == {None: 2}, "a success had a response"
    assert found.attempts.last_success == NOW - hour
    assert found.attempts.first_failure == NOW - hour / 2
    assert found.attempts.oldest_undelivered == NOW - days
    assert found.attempts.disabled_at is None


@pytest.mark.parametrize("known", [False, True], ids=["missed", "recovered"])
@pytest.mark.parametrize(("status", "named"), [(401, True), (404, True), (500, False), (403, False)])
async def test_deliveries_that_are_all_refused_are_a_problem_also_where_a_recovery_brings_them(
    status: int, named: bool, known: bool
) -> None:
    def tried(age: float, what: str, code: int) -> dict[str, Any]:
        return {**attempt(what, timedelta(minutes=age)), "responseStatusCode": code}

    inbox = MemoryInbox()
    if known:
        for number in (1, 2):
            key = inbox_key(f"e{number}", f"m{number}")
            await inbox.claim(key, "token", lease=30.0)
            await inbox.complete(key, "token")
    messages = [
        message(1, tried(9, "Failed", 500), tried(8, "Failed", status)),
        message(2, tried(7, "Failed", status), tried(10, "Failed", 500)),
        message(3, tried(11, "Success", 204)),
    ]
    found = await diagnose(messages=messages, inbox=inbox)
    assert found.attempts.refused == (status if named else None)
    assert [each.about for each in found.problems if each.code == "refused"] == ([status] if named else [])
    assert ("undelivered" in codes(found)) is (not known)
    messages.append(message(4, tried(6, "Success", 204)))
    assert (await diagnose(messages=messages, inbox=inbox)).attempts.refused is None


async def test_a_webhook_whose_failures_were_all_retried_well_is_healthy() -> None:
    hour = timedelta(hours=1)
    found = await diagnose(messages=[message(n, attempt("Failed", hour), attempt("Success", hour)) for n in range(5)])
    assert found.healthy
    assert (found.attempts.failed_share, found.attempts.by_status) == (0.0, {None: 5})


async def test_what_is_unrecoverable_stays_a_problem_until_it_is_acknowledged() -> None:
    now = datetime.now(UTC)
    tries = [attempt("Failed", timedelta(days=20, hours=each)) for each in range(8)]
    messages = [message(1, attempt("Success", timedelta(days=18))), message(2, *tries)]
    inbox = MemoryInbox()
    found = await diagnose(messages=messages, inbox=inbox)
    assert "unrecoverable" in codes(found)
    assert [(now - each.since).days for each in found.unrecoverable] == [20]
    problem = next(each for each in found.problems if each.code == "unrecoverable")
    assert problem.about == found.unrecoverable[0]
    coverage = Coverage(acknowledged=now - timedelta(days=18))
    await inbox.set_note(coverage_note("w"), coverage.write())
    assert "unrecoverable" not in codes(await diagnose(messages=messages, inbox=inbox))


@pytest.mark.parametrize(("age", "undelivered"), [(timedelta(0), 0), (timedelta(hours=1), 1)])
async def test_a_message_without_an_attempt_is_undelivered_once_its_event_is_old(
    age: timedelta, undelivered: int
) -> None:
    made = {**event(1), "createdDate": (datetime.now(UTC) - age).isoformat()}
    assert (await diagnose(messages=[message(1)], events=[made])).undelivered == undelivered


async def test_events_that_never_became_messages_are_counted() -> None:
    found = await diagnose(messages=[message(1)], events=[event(1), event(2), event(3, "consent.revoked")])
    assert found.never_sent == 1
    assert list(found.look.unsent) == ["user.created"]
    assert codes(found) == ["never-sent"]


async def test_what_cannot_be_read_is_counted_and_does_not_end_it() -> None:
    found = await diagnose(messages=[{"id": 1.5}, message(1)], events=[5])
    assert (found.look.unreadable, found.look.items, codes(found)) == (2, 1, ["unreadable"])


async def test_the_endpoint_is_asked_with_a_signed_test() -> None:
    receiver = WebhookReceiver(SECRET)

    @receiver.on("user.created")
    async def handler(delivery: Delivery) -> None:
        raise AssertionError("a test is no event of Basiq's")

    async with serving(receiver.aiohttp_handler) as url:
        found = await diagnose(test=True, url=url, receiver=receiver)
        assert found.endpoint is not None
        assert (found.endpoint.ok, found.healthy) == (True, True)
        assert (await diagnose(test=True, url=url, secret=SECRET)).endpoint == found.endpoint
        wrong = await diagnose(test=True, url=url, secret="whsec_c29tZSBvdGhlciBzaWduaW5nIHNlY3JldA==")
        assert (wrong.endpoint is not None and wrong.endpoint.status) == 401
        assert codes(wrong) == ["endpoint-refuses"]
        assert "secret" in wrong.problems[0].text


@pytest.mark.parametrize("seconds", [-3_600, 3_600])
async def test_a_service_whose_clock_is_wrong_is_told_apart_from_one_with_another_secret(seconds: int) -> None:
    ahead = timedelta(seconds=seconds)

    def serve_at(secret: str, date: timedelta) -> Any:
        receiver = WebhookReceiver(secret, clock=lambda: datetime.now(UTC) + ahead)

        async def handle(request: web.Request) -> web.StreamResponse:
            response = await receiver.aiohttp_handler(request)
            response.headers["Date"] = format_datetime(datetime.now(UTC) + date, usegmt=True)
            return response

        return serving(handle)

    other, right = "whsec_c29tZSBvdGhlciBzaWduaW5nIHNlY3JldA==", timedelta()
    way = "ahead of" if seconds > 0 else "behind"
    told: dict[tuple[str, timedelta], str] = {
        (SECRET, ahead): f"its secret is right, and its clock is 3,600 s {way} this machine's",
        (other, ahead): "is the receiver's secret this webhook's? If the service's log says too-old or too-new",
        (SECRET, right): "is the receiver's secret this webhook's? If the service's log says too-old or too-new",
        (other, right): "is the receiver's secret this webhook's? If the service's log says too-old or too-new",
    }
    for (secret, date), text in told.items():
        async with serve_at(secret, date) as url:
            found = await diagnose(test=True, url=url, secret=SECRET)
        assert codes(found) == ["endpoint-refuses"]
        assert text in re.sub(r"3,(599|601)", "3,600", found.problems[0].text)


async def test_a_secret_that_is_not_there_is_no_matter_of_the_url(tmp_path: Path) -> None:
    receiver = taking(SecretFile(tmp_path / "basiq.secret"))
    found = await diagnose(test=True, url="http://127.0.0.1:9/", receiver=receiver)
    assert codes(found) == ["no-secret"]
    assert f"there is no signing secret at '{tmp_path}/basiq.secret'" in found.problems[0].text


async def test_an_endpoint_that_redirects_is_not_followed() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"})

    async with serving(handler) as url:
        found = await diagnose(test=True, url=url, secret=SECRET)
        assert (found.endpoint is not None and found.endpoint.status) == 302


async def test_bad_arguments_are_refused_without_a_request() -> None:
    for options in ({"receiver": object()}, {"secret": "whsec_not base64!"}, {"max_items": 0}):
        with pytest.raises(ConfigurationError):
            await diagnose(**options)


async def test_a_webhook_of_the_fake_is_diagnosed(basiq: Basiq) -> None:
    made = await basiq.client.webhooks.create(url="https://example.com/x", subscribed_events=["user.created"])
    found = await basiq.client.webhooks.diagnose(made.id)
    assert codes(found) == ["pending"]
    await basiq.fake.advance(minutes=20)
    assert (await basiq.client.webhooks.diagnose(made.id)).healthy
    with pytest.raises(NotFoundError):
        await basiq.client.webhooks.diagnose("3f0c9d1e-8f4b-4c1d-9a55-0d6b0f6f7a10")


def test_a_problem_is_its_text() -> None:
    assert f"{Problem('pending', 'it waits')}" == "it waits"


def test_a_recovered_message_still_tells_when_the_webhook_was_disabled() -> None:
    attempts, activity = AttemptCount(NOW), Activity()
    tries = [attempt("Failed", timedelta(minutes=minute)) for minute in range(8, 0, -1)]
    attempts.add(Message("m", message(1, *tries)), recovered=True)
    activity.see([message(1, *tries)], [])
    assert activity.first_end(None) == NOW - timedelta(minutes=1)
    assert (attempts.first_failure, attempts.oldest_undelivered, attempts.failed_share) == (None, None, None)


def test_the_first_failure_after_the_last_success_is_found_among_thousands() -> None:
    attempts, activity = AttemptCount(NOW), Activity()
    for minute in range(2_100):
        status = "Success" if minute == 1_000 else "Failed"
        tries = [attempt(status, -timedelta(minutes=minute))] * (8 if status == "Failed" else 1)
        attempts.add(Message(f"m{minute}", message(minute, *tries)))
        activity.see([message(minute, *tries)], [])
    first = NOW + timedelta(minutes=1_001)
    assert attempts.first_failure == activity.first_end(attempts.last_success) == first


@pytest.mark.parametrize(("hours", "named"), [(2, "7,200 s behind"), (-2, "7,200 s ahead of"), (0, None), (0.01, None)])
async def test_a_clock_that_is_wrong_is_named_before_anything_else(hours: float, named: str | None) -> None:
    now = datetime.now(UTC) + timedelta(hours=hours)
    found = await diagnose(status="disabled", date=format_datetime(now, usegmt=True))
    first = found.problems[0]
    assert (first.code == "clock", found.problems[-1].code) == (named is not None, "disabled")
    if named is not None:
        assert any(abs(number - 7200) <= 2 for number in [abs(found.clock_lead)])
        assert named.split(" s ")[1] in str(first)


LISTS = {
    "/events/types": "/events/types",
    "/events": "/events",
    "/notifications/webhooks/w/messages": "/notifications/webhooks/{webhook_id}/messages",
}


@pytest.mark.parametrize("refused", [*([each] for each in LISTS), [*LISTS]], ids=" and ".join)
async def test_the_reads_that_are_refused_to_a_key_are_named_and_nothing_is_concluded_from_them(
    refused: list[str],
) -> None:
    receiver = WebhookReceiver(SECRET)

    @receiver.on("user.created")
    async def handler(delivery: Delivery) -> None: ...

    found = await diagnose(
        messages=[message(1, attempt("Success", timedelta(hours=1)))],
        events=[event(1)],
        forbidden=refused,
        receiver=receiver,
    )
    assert found.look.forbidden == tuple(LISTS[each] for each in refused)
    assert codes(found) == ["forbidden"]
    assert all(f"GET {LISTS[each]}" in str(found.problems[0]) for each in refused)
    assert found.look.complete is (refused == ["/events/types"])


async def test_a_webhook_that_a_key_may_not_read_is_an_error() -> None:
    with pytest.raises(PermissionDeniedError, match="GET /notifications/webhooks/w"):
        await diagnose(forbidden=["/notifications/webhooks/w"])


# --- each rule, at its border ---

HOOK = Webhook("w", "https://x.example", "active", ("user.created",))
BORDERS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("clock", {"clock_lead": 300.0}, {"clock_lead": 300.5}),
    ("clock", {"clock_lead": -300.0}, {"clock_lead": -300.5}),
    ("failing", {"attempts": Attempts(failed_share=0.1)}, {"attempts": Attempts(failed_share=0.11)}),
    ("waiting", {"waiting": Waiting(count=1, age=300.0)}, {"waiting": Waiting(count=1, age=300.5)}),
    ("endpoint-refuses", {"endpoint": EndpointCheck(200)}, {"endpoint": EndpointCheck(199)}),
    ("endpoint-refuses", {"endpoint": EndpointCheck(299)}, {"endpoint": EndpointCheck(300)}),
    ("endpoint-unreachable", {}, {"endpoint": EndpointCheck(None, "no listener is there")}),
    ("refused", {}, {"attempts": Attempts(refused=404)}),
    ("undelivered", {}, {"undelivered": 1}),
    ("unknown", {}, {"look": Look(unknown=1)}),
    ("unknown-activity", {}, {"look": Look(unknown_reach=datetime(2026, 1, 1, tzinfo=UTC))}),
    ("never-sent", {}, {"never_sent": 1}),
    ("unrecorded", {"passed_over": 1}, {"unrecorded": 1}),
    ("quarantined", {}, {"quarantined": 1}),
    ("unreadable", {}, {"look": Look(unreadable=1)}),
    ("partial", {"look": Look(items=1)}, {"look": Look(complete=False)}),
    ("forbidden", {}, {"look": Look(complete=False, forbidden=("/events",))}),
]


@pytest.mark.parametrize(("code", "well", "wrong"), BORDERS, ids=[f"{code} {wrong}" for code, _, wrong in BORDERS])
def test_each_problem_begins_at_its_border(code: str, well: dict[str, Any], wrong: dict[str, Any]) -> None:
    assert Diagnosis(HOOK, 0.0, **well).healthy
    found = Diagnosis(HOOK, 0.0, **wrong)
    assert (codes(found), found.healthy) == ([code], False)


BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SINCE: dict[ProblemCode, dict[str, Any]] = {
    "disabled": {
        "webhook": Webhook("w", HOOK.url, "inactive", ("user.created",)),
        "attempts": Attempts(disabled_at=BEGAN),
    },
    "failing": {
        "attempts": Attempts(failed_share=1.0, first_failure=BEGAN, oldest_undelivered=BEGAN - timedelta(days=1))
    },
    "refused": {"attempts": Attempts(refused=401, oldest_undelivered=BEGAN)},
    "undelivered": {"undelivered": 1, "attempts": Attempts(oldest_undelivered=BEGAN)},
    "never-sent": {"never_sent": 2, "look": Look(unsent={"a": (BEGAN, NOW), "b": (NOW, NOW), "c": None})},
    "unrecorded": {"unrecorded": 1, "look": Look(lacking=Lacking(first=BEGAN))},
    "quarantined": {"quarantined": 1, "quarantined_since": BEGAN},
    "waiting": {"waiting": Waiting(count=1, age=900.0), "look": Look(at=BEGAN + timedelta(minutes=15))},
    "deferred-failing": {"failing_types": (FailingType("user.created", 1, BEGAN, "no"),)},
    "unrecoverable": {"unrecoverable": (Inactivity(BEGAN),)},
}
"""What tells since when each problem is there."""
NEVER_SINCE: set[ProblemCode] = {
    "clock", "forbidden", "pending", "not-joined", "no-event-types", "retired-event-types", "unknown-event-types",
    "unhandled-event-types", "unsubscribed-event-types", "endpoint-unreachable", "endpoint-refuses", "no-secret",
    "unknown", "unknown-activity", "unreadable", "partial", "joined-later", "unread",
}  # fmt: skip
"""What is so at the time of the look, and nothing tells since when."""


@pytest.mark.parametrize("code", get_args(ProblemCode))
def test_a_problem_tells_since_when_it_is_there(code: ProblemCode) -> None:
    assert (code in SINCE) != (code in NEVER_SINCE), "add what tells it, or say that nothing does"
    if code in SINCE:
        (problem,) = Diagnosis(**{"webhook": HOOK, "cool_off_left": 0.0, **SINCE[code]}).problems
        assert (problem.code, problem.since) == (code, BEGAN)


def test_a_diagnosis_of_nothing_has_no_problem_and_counts_nothing() -> None:
    found = attrs.asdict(Diagnosis(HOOK, 0.0), recurse=False)
    assert {name for name, value in found.items() if value} == {"webhook", "look", "types", "waiting", "attempts"}
    assert found["attempts"] == Attempts()
    assert found["waiting"] == Waiting()
    assert attrs.astuple(found["look"], recurse=False) == (
        None, 0, None, None, True, 0, 0, (), 0, None, Lacking(), (), (), (), {},
    )  # fmt: skip
    assert attrs.astuple(found["types"]) == ((),) * 4
    assert Diagnosis(HOOK, 0.0).status == "active"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(119, "119 s"), (120, "2 min"), (7_199, "120 min"), (7_200, "2 h"), (172_799, "48 h"), (172_800, "2 days")],
)
def test_an_age_is_told_in_the_unit_of_which_there_are_two(seconds: float, text: str) -> None:
    shown = describe_waiting(Waiting(count=3, fresh=1, age=seconds))
    assert f"the oldest for {text}, and 2 of them have failed" in shown


@pytest.mark.parametrize(("status", "names_them"), [(401, True), (403, True), (400, False), (404, False)])
def test_an_endpoint_that_refuses_a_test_is_asked_for_its_secret_or_for_its_clock(
    status: int, names_them: bool
) -> None:
    for lead, text in ((0.0, "is the receiver's secret this webhook's?"), (1e4, "set the clock of this machine first")):
        problem = Diagnosis(HOOK, 0.0, clock_lead=lead, endpoint=EndpointCheck(status)).problems[-1]
        assert (text in str(problem)) is names_them
        assert (problem.code, problem.about) == ("endpoint-refuses", status)


FIRST, LAST = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("lacking", "text"),
    [
        (
            Lacking({202: 2}, FIRST, LAST, FIRST - timedelta(1)),
            "at 2025-12-31 00:00 UTC. So it is a copy or a restored backup, or a failover lost what came last, or the "
            "service has another inbox by now: see which one it uses. A recovery",
        ),
        (
            Lacking({204: 2}, FIRST, LAST, FIRST - timedelta(1)),
            "see which one it uses; or the service had no handler for these types then. A recovery",
        ),
        (
            Lacking({204: 2}, FIRST, LAST, LAST),
            "answered with 204 from 2026-01-01 00:00 UTC to 2026-01-02 00:00 UTC, as",
        ),
        (Lacking({204: 2}, FIRST, LAST), "Either a deploy had no handler then, or the inbox has lost entries"),
        (Lacking({202: 2}, FIRST, LAST), "a receiver stored it for a deferred handler"),
        (
            Lacking({200: 1}, FIRST, LAST),
            "or has in its quarantine: the inbox has lost entries (a failover, a restore)",
        ),
        (Lacking({None: 1}), "it was answered with success, which"),
        (
            Lacking({200: 1, 204: 1}),
            "something else at the webhook's url answered it, or a receiver with another inbox",
        ),
        (Lacking(), "something else at the webhook's url answered it, or a receiver with another inbox"),
    ],
)
def test_what_an_inbox_lacks_is_explained_by_what_is_seen_else_by_each_cause(lacking: Lacking, text: str) -> None:
    (problem,) = Diagnosis(HOOK, 0.0, unrecorded=2, look=Look(lacking=lacking)).problems
    assert "2 messages were delivered, as Basiq says, and this inbox lacks them" in problem.text
    assert text in problem.text
    assert problem.text.endswith("A recovery passes them to the handler, once more if another inbox has them")


@pytest.mark.parametrize(
    ("webhook", "disabled_at", "text"),
    [
        ({"status": "disabled"}, FIRST, ", after the webhook was disabled. Recover while"),
        ({"status": "disabled"}, LAST, ": the webhook was inactive then (now it is disabled), or was not subscribed"),
        ({"status": "disabled"}, None, ": the webhook was inactive then (now it is disabled), or was not subscribed"),
        (
            {"lastUpdated": "2026-01-02T00:01:00Z"},
            None,
            ", before the webhook was made or last changed, at 2026-01-02 00:01 UTC: it was inactive, or not",
        ),
        ({"lastUpdated": "2026-01-02T00:00:00Z"}, None, ": the webhook was inactive then, or was not subscribed to"),
        ({}, None, ": the webhook was inactive then, or was not subscribed to that, or Basiq does not list"),
    ],
)
def test_what_was_never_sent_is_explained_by_what_is_seen_else_by_each_cause(
    webhook: dict[str, str], disabled_at: datetime | None, text: str
) -> None:
    fields = {"id": "w", "status": "active", "subscribedEvents": ["user.created", "user.updated"], **webhook}
    hook = attrs.evolve(HOOK, status=fields["status"], raw=fields)
    unsent = {"user.updated": (FIRST, LAST), "user.created": None}
    found = Diagnosis(hook, 0.0, never_sent=3, attempts=Attempts(disabled_at=disabled_at), look=Look(unsent=unsent))
    problem = next(each for each in found.problems if each.code == "never-sent")
    shown = "user.created, user.updated from 2026-01-01 00:00 UTC to 2026-01-02 00:00 UTC"
    assert f"3 events of the last 7 days never became a message: {shown}{text}" in problem.text


def test_what_was_looked_at_is_told_with_its_times() -> None:
    bounds = {"earliest": datetime(2026, 1, 1, tzinfo=UTC), "latest": datetime(2026, 1, 2, 12, tzinfo=UTC)}
    for fields in ({}, {"earliest": bounds["earliest"]}, {"latest": bounds["latest"]}):
        (problem,) = Diagnosis(HOOK, 0.0, look=Look(complete=False, items=7, **fields)).problems
        assert "only 7 messages and events were read, and there are more" in str(problem)
    (problem,) = Diagnosis(HOOK, 0.0, look=Look(complete=False, items=7, **bounds)).problems
    assert "were read, with messages from 2026-01-01 00:00 to 2026-01-02 12:00 UTC, and" in str(problem)


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [("*", True), ("user.*", True), ("user.created", True), ("user.c", False), ("users*", False)],
)
def test_a_pattern_of_a_handler_matches_by_its_beginning(pattern: str, matched: bool) -> None:
    assert matches(pattern, "user.created") is matched


def test_of_attempts_at_one_time_the_success_is_the_newest() -> None:
    for codes_at_once in ((401, None), (None, 401), (401, 500)):
        attempts = AttemptCount(NOW)
        for code in codes_at_once:
            tried = {**attempt("Failed", timedelta(0)), "responseStatusCode": code}
            attempts.add(Message("m", message(1, tried)))
        assert attempts.refused == (401 if codes_at_once[0] == 401 else None), "the first of them is kept"
        attempts.add(Message("m", message(2, attempt("Success", timedelta(0)))))
        assert attempts.refused is None
        attempts.add(Message("m", message(1, {**attempt("Failed", timedelta(0)), "responseStatusCode": 401})))
        assert attempts.refused is None


@pytest.mark.parametrize(("age", "counted"), [(timedelta(hours=24), 1), (timedelta(hours=24, seconds=1), 0)])
def test_attempts_count_for_a_day(age: timedelta, counted: int) -> None:
    attempts = AttemptCount(NOW)
    attempts.add(Message("m", message(1, attempt("Failed", age))))
    assert sum(attempts.by_status.values()) == counted
    assert attempts.failed_share == (1.0 if counted else None)
    assert attempts.oldest_undelivered == NOW - age


@pytest.mark.parametrize(("limit", "read"), [(2, 2), (3, 3), (4, 3)])
async def test_no_more_is_read_than_the_limit_though_a_page_holds_more(limit: int, read: int) -> None:
    history = [message(number, attempt("Success", timedelta(hours=number))) for number in range(3)]
    found = await diagnose(messages=history, max_items=limit)
    assert (found.look.items, found.look.complete) == (read, limit >= 3)
    assert (found.look.latest, found.look.earliest) == (NOW, NOW - timedelta(hours=read - 1))


async def test_events_without_a_message_are_counted_only_where_all_messages_were_read() -> None:
    history = [message(number, attempt("Success", timedelta(hours=number))) for number in range(3)]
    whole = await diagnose(messages=history, events=[event(7)])
    assert (whole.never_sent, whole.look.complete) == (1, True)
    part = await diagnose(messages=history, events=[event(7)], max_items=2)
    assert (part.never_sent, part.look.complete) == (0, False)


def dated(number: int, age: timedelta) -> dict[str, Any]:
    return {**event(number), "createdDate": (NOW - age).isoformat()}


async def noted(coverage: Coverage) -> MemoryInbox:
    inbox = MemoryInbox()
    await inbox.set_note(coverage_note("w"), coverage.write())
    return inbox


def test_the_texts_of_refused_deliveries_say_what_that_usually_is() -> None:
    secret, path = (str(Diagnosis(HOOK, 0.0, attempts=Attempts(refused=status)).problems[0]) for status in (401, 404))
    assert "responded 401" in secret
    assert "does not have the secret that the webhook has by now" in secret
    assert "responded 404" in path
    assert "its path is not the receiver's" in path


async def test_what_basiq_delivered_before_the_inbox_began_is_counted_as_passed_over_if_there_is_an_inbox() -> None:
    delivered = [message(number, attempt("Success", timedelta(hours=1))) for number in (1, 2)]
    assert (await diagnose(messages=delivered)).passed_over == 0
    inbox = MemoryInbox()
    assert (await diagnose(messages=delivered, inbox=inbox)).passed_over == 2
    key = inbox_key("e1", "m1")
    await inbox.claim(key, "token", lease=30.0)
    await inbox.complete(key, "token")
    found = await diagnose(messages=delivered, inbox=inbox)
    assert (found.passed_over, found.unrecorded, found.recovered) == (1, 0, 0)


async def test_messages_of_types_without_a_handler_are_not_missed() -> None:
    failed = [message(number, attempt("Failed", timedelta(hours=1))) for number in (1, 2)]
    failed.append({**message(3, attempt("Failed", timedelta(hours=1))), "payload": {"eventId": "e3"}})
    assert (await diagnose(messages=failed, receiver=taking(SECRET, "user.created"))).undelivered == 2
    assert (await diagnose(messages=failed, receiver=taking(SECRET, "consent.*"))).undelivered == 0
    assert (await diagnose(messages=failed)).undelivered == 3


@pytest.mark.parametrize(("before", "counted"), [(1, 0), (0, 1), (-1, 1)])
async def test_what_happened_before_the_recoveries_begin_is_not_missed(before: int, counted: int) -> None:
    age = timedelta(hours=5, seconds=before)
    inbox = await noted(Coverage(begins=NOW - timedelta(hours=5)))
    found = await diagnose(messages=[message(1, attempt("Failed", age))], events=[dated(2, age)], inbox=inbox)
    assert (found.undelivered, found.never_sent) == (counted, counted)


async def test_events_that_are_older_than_every_message_are_missed_where_all_was_read() -> None:
    found = await diagnose(messages=[message(1, attempt("Success", timedelta()))], events=[dated(2, timedelta(days=3))])
    assert (found.never_sent, found.look.complete) == (1, True)


@pytest.mark.parametrize(("minutes", "never_sent"), [(1, 0), (3, 1)])
async def test_an_event_may_get_its_message_for_two_minutes_unless_the_webhook_is_inactive(
    minutes: int, never_sent: int
) -> None:
    events = [dated(1, timedelta(minutes=minutes) - (datetime.now(UTC) - NOW))]  # the tests began a while ago
    assert (await diagnose(events=events)).never_sent == never_sent
    assert (await diagnose(events=events, status="disabled")).never_sent == 1


@pytest.mark.parametrize(("minutes", "undelivered"), [(30, 1), (55, 1), (65, 0)])
async def test_messages_are_read_back_to_an_hour_before_what_recoveries_have_read(
    minutes: int, undelivered: int
) -> None:
    """In a list that begins with the newest: what is older was recovered, and is not even looked at."""
    covered = timedelta(days=2)
    newest = [message(number, attempt("Success", timedelta(minutes=number))) for number in range(1, 50)]
    missed = message(100, attempt("Failed", covered + timedelta(minutes=minutes)))
    first = message(99, attempt("Success", covered + timedelta(minutes=61)))
    border = [missed, first] if minutes < 61 else [first, missed]
    oldest = [message(number, attempt("Success", covered + timedelta(days=number))) for number in range(1, 9)]
    inbox = await noted(Coverage(read_up_to=NOW - covered, types={"user.created": NOW - timedelta(days=7)}))
    found = await diagnose(messages=[*newest, *border, *oldest], inbox=inbox)
    assert (found.undelivered, found.look.complete) == (undelivered, True)
    assert found.look.items == 51 - (not undelivered)


@virtual.clocked
async def test_an_inbox_has_five_seconds_to_respond() -> None:
    class Away(MemoryInbox):
        async def known(self, keys: Any) -> Any:
            await asyncio.sleep(3600)

    began = virtual.now()
    with pytest.raises(InboxError):
        await diagnose(messages=[message(1)], inbox=Away())
    assert virtual.now() - began == pytest.approx(5)


async def test_when_the_webhook_was_disabled_is_the_end_of_a_message_after_its_last_sign_of_life() -> None:
    def tried(begin: float, count: int, number: int) -> dict[str, Any]:
        return message(number, *(attempt("Failed", timedelta(hours=begin - each)) for each in range(count)))

    ends = [tried(90, 8, 1), tried(50, 8, 2), tried(49, 8, 3)]  # at 83, 43 and 42 hours ago
    for status, last_sign, at in (
        ("disabled", 60, 43),
        ("disabled", 42.5, 42),
        ("disabled", 40, None),
        ("active", 60, None),
    ):
        found = await diagnose(status=status, messages=[*ends, tried(last_sign, 1, 4)])
        assert found.attempts.disabled_at == (None if at is None else NOW - timedelta(hours=at))
