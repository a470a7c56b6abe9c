"""The rules of deliveries that no source of Basiq states: each alone, beside the default."""

from __future__ import annotations

import asyncio
import base64
import json
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import attrs
import pytest

from basiq_async import ConfigurationError
from basiq_async.testing import FakeBasiq, Quirks

from ..conftest import ENDPOINT, Caller, Endpoint, arranged

# The vendor's schedule, written out: the wait before each attempt, in seconds.
WAITS = [5, 300, 1800, 7200, 18000, 36000, 36000]


@attrs.define
class Answer:
    """What an endpoint returns if it says more than a status."""

    status: int
    headers: dict[str, str] = attrs.field(factory=dict[str, str])
    body: bytes = b""


def waits(fake: FakeBasiq) -> list[float]:
    """Return the seconds from the end of each attempt to the beginning of the next."""
    made = fake.deliveries
    return [(later.at - each.at).total_seconds() - each.duration for each, later in pairwise(made)]


# --- when the next attempt is due ---


async def test_jittered_waits_are_up_to_a_fifth_shorter_or_longer_and_follow_from_the_seed() -> None:
    seen: list[list[float]] = []
    for seed in (1, 2, 1):
        fake, _ = arranged(Endpoint(503), quirks=Quirks(waits="jittered"), seed=seed)
        await fake.emit("user.created")
        await fake.advance(hours=34)
        seen.append([wait / planned for wait, planned in zip(waits(fake), WAITS, strict=True)])
    assert all(0.8 <= each <= 1.2 for each in seen[0] + seen[1])
    assert len({round(each, 2) for each in seen[0] + seen[1]}) > 7
    assert seen[0] == seen[2] != seen[1]


async def slow(fake: FakeBasiq, seconds: float) -> int:
    await fake._timeline.sleep(seconds)  # private: an endpoint that takes its time by the fake's clock
    return 503


@pytest.mark.parametrize(("rule", "wait"), [("fixed", 0), ("jittered", 4)])
async def test_a_wait_counts_from_the_beginning_of_an_attempt_or_from_its_end(rule: Any, wait: float) -> None:
    fake = FakeBasiq(quirks=Quirks(waits=rule))
    fake.route(ENDPOINT, lambda headers, body: slow(fake, 5))
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    await fake.advance(seconds=20)
    assert wait <= waits(fake)[0] <= wait * 1.5


@pytest.mark.parametrize(
    ("rule", "wait", "low", "high"),
    [("as-scheduled", "jittered", 4, 6), ("60s", "jittered", 48, 72), ("60s", "fixed", 59.9, 60)],
)
async def test_after_a_timeout_the_next_attempt_may_come_after_a_minute(
    rule: Any, wait: Any, low: float, high: float
) -> None:
    async def hang(headers: dict[str, str], body: bytes) -> int:
        await asyncio.sleep(3600)
        return 200

    fake = FakeBasiq(quirks=Quirks(after_timeout=rule, waits=wait), delivery_timeout=0.01)
    fake.route(ENDPOINT, hang)
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    for _ in range(2):
        await fake.advance_to_next()
    assert low <= waits(fake)[0] <= high
    assert 240 <= waits(fake)[1] <= 360, "a wait that is longer stays"
    assert fake.deliveries[0].status is None


@pytest.mark.parametrize(
    ("asked", "wait"),
    [(None, 5), ("2", 5), ("7", 7), ("10", 10), ("3600", 10), ("a date in 8 s", 8), ("soon", 5), ("-1", 5)],
    ids=str,
)
@pytest.mark.parametrize("rule", ["ignored", "obeyed"])
async def test_a_retry_after_is_obeyed_up_to_twice_the_wait(rule: Any, asked: str | None, wait: float) -> None:
    fake = FakeBasiq(quirks=Quirks(retry_after=rule))
    text = format_datetime(fake.now().replace(second=8), usegmt=True) if asked == "a date in 8 s" else asked
    fake.route(ENDPOINT, Endpoint(Answer(503, {} if text is None else {"Retry-After": text})))
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    await fake.advance_to_next()
    assert waits(fake) == [wait if rule == "obeyed" else 5]


# --- what ends a message's attempts ---


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("rule", ["beside", "instead"])
async def test_a_resend_may_end_the_schedule_of_its_message_whatever_its_result(rule: Any, status: int) -> None:
    fake, _ = arranged(Endpoint(500, status), quirks=Quirks(resend=rule))
    emission = await fake.emit("user.created")
    await fake.redeliver(emission.message_ids[0])
    await fake.advance(hours=30)
    assert len(fake.deliveries) == (2 if rule == "instead" else 3 if status == 200 else 9)
    assert fake.next_due is None


async def test_a_resend_during_an_attempt_ends_the_schedule_too() -> None:
    fake = FakeBasiq(quirks=Quirks(resend="instead"))
    again = []

    async def resend(headers: dict[str, str], body: bytes) -> int:
        if not again:
            again.append(fake.redeliver(headers["webhook-id"]))
        return 500

    fake.route(ENDPOINT, resend)
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    await fake.advance(hours=30)
    assert [each.number for each in fake.deliveries] == [1, 1]


@pytest.mark.parametrize("rule", ["beside", "instead"])
async def test_a_disabled_webhook_may_get_no_resend(rule: Any) -> None:
    fake, webhook_id = arranged(Endpoint(500), quirks=Quirks(resend=rule))
    emission = await fake.emit("user.created")
    await fake.advance(hours=28)
    again = await fake.redeliver(emission.message_ids[0])
    assert len(fake.deliveries) == (8 if rule == "instead" else 9)
    assert again.not_sent == (
        (f"webhook {webhook_id} is disabled: an update makes it active again",) if rule == "instead" else ()
    )


async def test_a_webhook_that_is_disabled_before_the_first_attempt_of_a_message_gets_none_of_it() -> None:
    fake, webhook_id = arranged(Endpoint(200))
    fake.emit("user.created")
    fake._store.app.webhooks[webhook_id].disabled = True  # private: at this moment, by an attempt of another message
    await fake.advance(hours=30)
    assert (list(fake.deliveries), fake.next_due) == ([], None)


@pytest.mark.parametrize("rule", ["retried", "dropped"])
async def test_a_type_that_is_unsubscribed_may_end_its_retries(rule: Any) -> None:
    fake, webhook_id = arranged(Endpoint(500), quirks=Quirks(unsubscribed=rule))
    for each in ("user.created", "user.deleted"):
        await fake.emit(each)
    Caller(fake).json(
        "POST", f"/notifications/webhooks/{webhook_id}", {"url": ENDPOINT, "subscribedEvents": ["user.deleted"]}
    )
    await fake.advance(seconds=5)
    retried = [each.event_type_id for each in fake.deliveries[2:]]
    assert retried == ["user.deleted"] if rule == "dropped" else ["user.created", "user.deleted"]


@pytest.mark.parametrize(("rule", "delivered"), [("kept", 1), ("expire-90d", 0)])
async def test_a_payload_may_expire_after_90_days(rule: Any, delivered: int) -> None:
    fake = FakeBasiq(quirks=Quirks(payloads=rule))
    fake.route(ENDPOINT, endpoint := Endpoint(200))
    webhook_id = fake.add_webhook(ENDPOINT)
    fake.seed_messages(3, webhook_id, every=45 * 86_400)  # 135, 90 and 45 days ago
    await fake.advance(seconds=1)
    path = f"/notifications/webhooks/{webhook_id}/messages"
    caller = Caller(fake)
    listed = caller.every(path)
    is_expired = [each["payload"] == {"expired": True} for each in listed]
    assert is_expired == ([False] * 3 if rule == "kept" else [True, True, False])
    assert caller.get(f"{path}/{listed[0]['id']}")["payload"] == listed[0]["payload"]
    again = await fake.redeliver(listed[0]["id"])
    assert (len(endpoint.got), len(again.not_sent)) == (delivered, 1 - delivered)


# --- one attempt ---


@pytest.mark.parametrize("rule", ["once", "twice"])
async def test_a_connection_that_fails_at_once_may_be_tried_twice_in_one_attempt(rule: Any) -> None:
    fake, _ = arranged(endpoint := Endpoint(200), quirks=Quirks(failed_connection=rule))
    fake.fail_deliveries(drop="response")
    await fake.emit("user.created")
    assert len(endpoint.got) == (2 if rule == "twice" else 1)
    assert all(each == endpoint.got[0] for each in endpoint.got), "the second try has the same headers"
    await fake.advance(seconds=5)
    assert [each.ok for each in fake.deliveries] == [False, True]


async def test_a_connection_that_fails_after_a_while_is_tried_once_in_an_attempt() -> None:
    fake, tries = FakeBasiq(quirks=Quirks(failed_connection="twice")), list[object]()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        tries.append(scope)
        await slow(fake, 2)

    fake.route(ENDPOINT, application)
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    assert (len(tries), [each.status for each in fake.deliveries]) == (1, [None])


async def test_a_connection_that_fails_once_and_then_not_is_one_successful_attempt() -> None:
    fake = FakeBasiq(quirks=Quirks(failed_connection="twice"))
    tries = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        tries.append(scope["path"])
        if len(tries) > 1:
            await send({"type": "http.response.start", "status": 200, "headers": []})

    fake.route(ENDPOINT, application)
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    assert (len(tries), [each.ok for each in fake.deliveries]) == (2, [True])


@pytest.mark.parametrize(
    ("quirks", "body", "kept"),
    [
        (Quirks(), b"x" * 30_000, "x" * 1000),
        (Quirks(responses="20000-bytes"), b"x" * 30_000, "x" * 20_000),
        (Quirks(), b"\xff\xfe", "\ufffd\ufffd"),
        (Quirks(binary_responses="base64"), b"\xff\xfe", base64.b64encode(b"\xff\xfe").decode()),
        (Quirks(binary_responses="base64"), "ä".encode(), "ä"),
        (Quirks(), b"", "OK"),
    ],
    ids=str,
)
async def test_an_attempt_keeps_the_beginning_of_a_response(quirks: Quirks, body: bytes, kept: str) -> None:
    fake, webhook_id = arranged(Endpoint(Answer(200, body=body)), quirks=quirks)
    await fake.emit("user.created")
    (message,) = Caller(fake).every(f"/notifications/webhooks/{webhook_id}/messages")
    assert message["attempts"][0]["response"] == kept


@pytest.mark.parametrize(
    ("quirks", "code"),
    [
        (Quirks(), None),
        (Quirks(no_response="zero"), 0),
        (Quirks(no_response="zero", status_code="string"), "0"),
    ],
    ids=str,
)
async def test_no_response_is_null_or_the_code_0(quirks: Quirks, code: object) -> None:
    fake = FakeBasiq(quirks=quirks)
    webhook_id = fake.add_webhook(ENDPOINT)
    fake.endpoint_down()
    await fake.emit("user.created")
    (message,) = Caller(fake).every(f"/notifications/webhooks/{webhook_id}/messages")
    assert message["attempts"][0]["responseStatusCode"] == code


# --- messages and their lists ---


@pytest.mark.parametrize("rule", ["each", "shared"])
async def test_all_webhooks_may_get_an_event_with_one_webhook_id(rule: Any) -> None:
    fake, first = arranged(one := Endpoint(500, 200), quirks=Quirks(webhook_ids=rule))
    second = fake.add_webhook(f"{ENDPOINT}/2")
    fake.route(f"{ENDPOINT}/2", two := Endpoint(200))
    emission = await fake.emit("user.created")
    await fake.advance(seconds=5)
    ids = [headers["webhook-id"] for headers, _ in one.got + two.got]
    assert len(set(ids)) == len(set(emission.message_ids)) == (1 if rule == "shared" else 2)
    if rule == "shared":
        with pytest.raises(ConfigurationError, match="several webhooks have the message"):
            fake.redeliver(ids[0])
    await fake.redeliver(emission.message_ids[1], second)
    assert [len(each.got) for each in (one, two)] == [2, 2]
    for webhook_id, attempts in ((first, 2), (second, 2)):
        (message,) = Caller(fake).every(f"/notifications/webhooks/{webhook_id}/messages")
        assert len(message["attempts"]) == attempts


@pytest.mark.parametrize("rule", ["emitted", "attempted"])
async def test_a_message_may_be_listed_when_its_first_attempt_has_ended(rule: Any) -> None:
    fake = FakeBasiq(quirks=Quirks(listed=rule))
    webhook_id = fake.add_webhook(ENDPOINT)
    listed: list[list[str]] = []
    caller, path = Caller(fake), f"/notifications/webhooks/{webhook_id}/messages"

    def look() -> None:
        listed.append([each["payload"]["eventTypeId"] for each in caller.every(path)])

    async def receive(headers: dict[str, str], body: bytes) -> int:
        if json.loads(body)["eventTypeId"] == "user.created":
            look()
            await fake.emit("user.deleted")
            look()
        return 200

    fake.route(ENDPOINT, receive)
    await fake.emit("user.created")
    look()
    both = ["user.created", "user.deleted"]
    assert listed == ([["user.created"], both, both] if rule == "emitted" else [[], ["user.deleted"], both])


@pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
def test_a_next_link_may_name_the_last_item_of_its_page(order: Any) -> None:
    plain, last = (
        Caller(FakeBasiq(seed=0, page_size=3, quirks=Quirks(paging=paging, message_order=order)))
        for paging in ("item", "last-item")
    )
    found = []
    for caller in (plain, last):
        path = f"/notifications/webhooks/{caller.fake.seed_messages(40, failed=0.5)}/messages"
        found.append([caller.every(path), caller.every(f"{path}?limit=2&filter=status.eq('Failed')")])
        assert len(caller.get(f"{path}?limit=3")["data"]) == 3
    assert found[0] == found[1]
    assert len(found[0][0]) == 40


@pytest.mark.parametrize("rule", ["latest", "outcome"])
async def test_a_filter_by_status_looks_at_the_latest_attempt_or_at_the_outcome(rule: Any) -> None:
    fake, webhook_id = arranged(Endpoint(200, 500, 500), quirks=Quirks(status_filter=rule))
    delivered = (await fake.emit("user.created")).message_ids[0]
    await fake.redeliver(delivered)  # its latest attempt fails
    retried = (await fake.emit("user.created")).message_ids[0]
    waiting = fake.emit("user.created").message_ids[0]
    caller, path = Caller(fake), f"/notifications/webhooks/{webhook_id}/messages"

    def found(status: str) -> list[str]:
        return [each["id"] for each in caller.every(f"{path}?filter=status.eq('{status}')")]

    if rule == "latest":
        assert [found(each) for each in ("Success", "Failed", "Pending")] == [[], [delivered, retried], [waiting]]
    else:
        assert [found(each) for each in ("Success", "Failed", "Pending")] == [[delivered], [], [retried, waiting]]
        await fake.advance(hours=28)
        caller.authorize()
        assert found("Failed") == [retried, waiting]


# --- several at once ---


@attrs.define
class Crowd:
    """An endpoint whose deliveries stay until the number of those under way no longer grows."""

    most: int = 0
    now: int = 0
    order: list[str] = attrs.field(factory=list[str])

    async def __call__(self, headers: dict[str, str], body: bytes) -> int:
        self.order.append(headers["webhook-id"])
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(100):
            await asyncio.sleep(0)
        self.now -= 1
        return 200


async def crowded(seed: int = 1, **quirks: Any) -> tuple[Crowd, list[str]]:
    fake, _ = arranged(crowd := Crowd(), quirks=Quirks(**quirks), seed=seed)
    emitted = [fake.emit("user.created").message_ids[0] for _ in range(100)]
    await fake.deliver()
    assert sorted(crowd.order) == sorted(emitted)
    return crowd, emitted


@pytest.mark.parametrize(("concurrency", "most"), [(None, 1), (1, 1), (7, 7), (32, 32)])
async def test_as_many_deliveries_are_under_way_at_once_as_the_rule_says(concurrency: Any, most: int) -> None:
    crowd, emitted = await crowded(concurrency=concurrency)
    assert (crowd.most, crowd.order) == (most, emitted)


async def test_deliveries_begin_in_the_order_of_their_emission_or_in_a_random_one_of_the_seed() -> None:
    first, emitted = await crowded(delivery_order="random")
    again, _ = await crowded(delivery_order="random")
    other, _ = await crowded(seed=2, delivery_order="random")
    assert first.order == again.order != emitted
    ranks = [emitted.index(each) for each in first.order]
    assert ranks != [sorted(other.order).index(each) for each in other.order]
    assert sum(later < earlier for earlier, later in pairwise(ranks)) > 25


async def test_a_random_order_forgets_and_shows_what_is_planned_like_any_other() -> None:
    fake, _ = arranged(Endpoint(200), quirks=Quirks(delivery_order="random", resend="instead"))
    ids = [fake.emit("user.created").message_ids[0] for _ in range(3)]
    planned = fake._timeline.take_due()  # private: an attempt that was begun, by a server that then ends
    assert planned is not None
    assert (len(fake.upcoming()), fake.next_due) == (3, fake.now())
    fake.redeliver(next(each for each in ids if each != planned.message.id))
    assert len(fake.upcoming()) == 3
    fake._timeline.end(planned.begun)
    fake.reset()
    assert (fake.upcoming(), fake.next_due) == ([], None)
    await fake.advance(hours=1)
    assert not fake.deliveries


@pytest.mark.parametrize("count", [0, -1])
def test_a_concurrency_below_one_is_refused(count: int) -> None:
    with pytest.raises(ConfigurationError, match="concurrency must be 1 or more"):
        Quirks(concurrency=count)
