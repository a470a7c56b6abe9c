"""What a test asks of a fake and cannot have."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.errors import BasiqError, ConfigurationError, NotFoundError
from basiq_async.testing import FakeBasiq, ManualClock, Quirks, SystemClock

from ..conftest import ENDPOINT

NOWHERE = "11111111-2222-4333-8444-555555555555"
NO_PATHS = ("users/u1", "/users/u1/", "/users/u1?x=1", "/events/e1", "/notifications/webhooks", "/token")
NAN, INF = float("nan"), float("inf")
YEAR = 365 * 86_400
MISUSES: list[tuple[Callable[[FakeBasiq], object], str]] = [
    *((lambda _, n=n: FakeBasiq(page_size=n), "page_size must be from 1 to 500") for n in (0, 501)),
    *(
        (lambda _, n=n: FakeBasiq(cool_off=n), "cool_off must be from 0 seconds to 10")
        for n in (-1, INF, NAN, 10 * YEAR + 1)
    ),
    *((lambda _, n=n: FakeBasiq(delivery_timeout=n), "delivery_timeout must be a number") for n in (0, INF)),
    (lambda _: FakeBasiq(latency=-1), "latency must be a number of seconds from 0"),
    (lambda _: FakeBasiq(api_keys=[]), "api_keys is empty"),
    (lambda _: FakeBasiq(api_keys="one-key"), "api_keys is a list of API keys, not one API key"),
    (lambda _: FakeBasiq(api_keys=["one", "one"]), "another state has this API key"),
    (lambda _: FakeBasiq(clock=cast(Any, 1)), "a callable that returns an aware datetime"),
    (lambda _: FakeBasiq(clock=lambda: datetime(2026, 1, 1)).now(), "must return an aware datetime"),
    (lambda _: ManualClock(datetime(2026, 1, 1)), "start needs a time zone"),
    (lambda _: SystemClock(start=datetime(2026, 1, 1)), "start needs a time zone"),
    *((lambda _, n=n: SystemClock(n), "speed must be above 0") for n in (0, -1, NAN, 1_000_001)),
    (lambda _: Quirks(list_data=cast(Any, "objects")), "list_data must be one of 'array', 'object', not 'objects'"),
    (lambda _: Quirks(signing_key_in=cast(Any, "reads")), "signing_key_in must be one of"),
    (lambda fake: fake.emit("user.exploded"), "there is no event type 'user.exploded'"),
    (lambda fake: fake.add_webhook(f"{ENDPOINT}/2", ["user.creatd"]), "did you mean 'user.created'?"),
    (lambda fake: fake.add_webhook(ENDPOINT), "there is a webhook with the url"),
    (lambda fake: fake.add_webhook(f"{ENDPOINT}/2", "user.created"), "a list of event types, not one event type"),
    *((lambda fake, it=it: fake.add_webhook(it), "url must be an absolute") for it in ("", "service", "ftp://a/b")),
    (lambda fake: fake.route("service.example/basiq", cast(Any, None)), "url must be an absolute"),
    (lambda fake: fake.endpoint_down("service.example/basiq"), "url must be an absolute"),
    (lambda fake: fake.secret(NOWHERE), "there is no webhook"),
    (lambda fake: fake.redeliver(NOWHERE), "there is no message"),
    (lambda fake: fake.seed_messages(-1), "n must be 0 or more"),
    (lambda fake: fake.seed_messages(1, failed=2), "failed from 0 to 1"),
    (lambda fake: fake.seed_messages(1, NOWHERE), "there is no webhook"),
    (lambda fake: fake.seed_messages(1, event_types=["user.exploded"]), "there is no event type"),
    (lambda fake: fake.seed_messages(1, event_types=[]), "at least one event type"),
    (lambda fake: fake.fail_next(), "say what goes wrong"),
    (lambda fake: fake.fail_next(0, status=500), "times must be 1 or more"),
    *((lambda fake, n=n: fake.fail_next(status=n), "status must be from 100 to 999") for n in (99, 1_000)),
    (lambda fake: fake.fail_next(status=500, path="events/e1"), "path must begin with / or"),
    (lambda fake: fake.fail_next(drop="answer"), "drop must be 'request' or 'response'"),
    (lambda fake: fake.fail_deliveries(), "say what goes wrong with the deliveries"),
    (lambda fake: fake.fail_deliveries(0, status=500), "times must be 1 or more"),
    (lambda fake: fake.fail_deliveries(status=500, drop="request"), "either status or drop"),
    (lambda fake: fake.fail_deliveries(drop="answer"), "drop must be 'request' or 'response'"),
    *((lambda fake, it=it: fake.route(ENDPOINT, it), "a receiver is") for it in (None, 5, "text", print, int)),
    (lambda fake: fake.route(ENDPOINT, lambda: 200), "a receiver is"),
    *((lambda fake, it=it: fake.set(it, {}), "path must be such as|cannot be set") for it in NO_PATHS),
    *((lambda fake, it=it: fake.set("/users/u1", it), "json must be an object") for it in ("text", ["text"], 7)),
]


@pytest.mark.parametrize(("misuse", "said"), MISUSES)
def test_what_cannot_be_arranged_is_a_configuration_error(
    fake: FakeBasiq, misuse: Callable[[Any], object], said: str
) -> None:
    fake.add_webhook(ENDPOINT)
    with pytest.raises(ConfigurationError, match=said.replace("?", r"\?")):
        misuse(fake)


async def test_a_step_back_of_the_clock_is_an_error(fake: FakeBasiq) -> None:
    for step in (timedelta(hours=-1), -1):
        with pytest.raises(ConfigurationError, match="cannot be moved back"):
            await fake.advance(step)


async def test_a_fault_is_for_its_method_in_any_case(fake: FakeBasiq) -> None:
    fake.fail_next(status=404, method="get")
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        with pytest.raises(NotFoundError):
            await basiq.events.list().collect()


async def test_what_an_error_says_in_place_of_setting_an_event_makes_one(fake: FakeBasiq) -> None:
    webhook_id = None
    for path in ("/notifications/webhooks", "/events/e1"):
        with pytest.raises(ConfigurationError) as found:
            fake.set(path, {})
        for call in re.findall(r"fake\.\w+\([^)]*\)", str(found.value)):
            made = eval(call, {"fake": fake})  # as it is pasted
            webhook_id = made if isinstance(made, str) else webhook_id
    assert webhook_id is not None
    assert [each.webhook_id for each in fake.messages()] == [webhook_id] * 2


@pytest.mark.parametrize(
    "use",
    [
        *(lambda fake, n=n: FakeBasiq(cool_off=n) for n in (0, 10 * YEAR)),
        *(lambda fake, n=n: FakeBasiq(page_size=n) for n in (1, 500)),
        lambda fake: SystemClock(1_000_000),
        *(lambda fake, n=n: fake.fail_next(status=n) for n in (100, 999)),
        *(lambda fake, n=n: fake.seed_messages(1, failed=n) for n in (0, 1)),
    ],
)
def test_the_least_and_the_most_that_can_be_arranged(fake: FakeBasiq, use: Callable[[Any], object]) -> None:
    use(fake)


ANYTHING: list[Any] = [
    5,
    -1,
    2.5,
    NAN,
    INF,
    True,
    "x",
    "",
    b"x",
    [5],
    [],
    {},
    {5: 5},
    object(),
    datetime(2026, 1, 5),
    int,
]
ARGUMENTS: list[tuple[Callable[..., object], dict[str, Any]]] = [
    (FakeBasiq.add_webhook, {"url": f"{ENDPOINT}/2", "subscribed_events": None}),
    (FakeBasiq.secret, {"webhook_id": NOWHERE}),
    (FakeBasiq.set, {"path": "/users/1", "json": None}),
    (FakeBasiq.seed_messages, {"n": 3, "webhook_id": None, "event_types": None, "every": 1.0, "failed": 0.0}),
    (
        FakeBasiq.fail_next,
        {"times": 1, "status": 500, "retry_after": None, "body": None, "headers": None, "path": None},
    ),
    (FakeBasiq.fail_next, {"delay": 1.0, "drop": None, "method": None}),
    (FakeBasiq.fail_deliveries, {"times": 1, "status": 500, "drop": None, "url": None}),
    (FakeBasiq.endpoint_down, {"url": None, "status": None}),
    (FakeBasiq.endpoint_up, {"url": None}),
    (FakeBasiq.redeliver, {"message_id": NOWHERE, "webhook_id": None}),
    (FakeBasiq.route, {"url": ENDPOINT, "receiver": None}),
    (FakeBasiq.emit, {"event_type_id": "user.created", "user_id": None, "entity_id": None, "data": None}),
    (FakeBasiq.advance, {"delta": 1.0, "days": 0, "hours": 0, "minutes": 0, "seconds": 0}),
    (FakeBasiq.add_state, {"name": None, "api_key": None, "seed": None, "clock": None}),
    (FakeBasiq.remove_state, {"api_key": ""}),
    (lambda _, **given: FakeBasiq(**given), {"clock": None, "api_keys": None, "page_size": 20, "quirks": None}),
    (lambda _, **given: FakeBasiq(**given), {"seed": None, "event_types": None}),
    (lambda _, **given: FakeBasiq(**given), {"cool_off": 0, "latency": 0, "delivery_timeout": 9}),
    (lambda fake, quirks: setattr(fake, "quirks", quirks), {"quirks": Quirks()}),
    (lambda _, **given: ManualClock(**given), {"start": None}),
    (lambda _, **given: SystemClock(**given), {"speed": 1.0, "start": None}),
    (lambda fake, moment: fake.clock.move_to(moment), {"moment": None}),
    (lambda _, moment: ManualClock().set(moment), {"moment": None}),
    (lambda _, moment: SystemClock().move_to(moment), {"moment": None}),
    (lambda _, **given: ManualClock().advance(**given), {"delta": 1.0, "seconds": 1.0}),
]


@pytest.mark.parametrize(
    ("method", "given", "name"), [(method, given, name) for method, given in ARGUMENTS for name in given]
)
async def test_an_argument_of_a_wrong_kind_is_a_configuration_error(
    method: Callable[..., Any], given: dict[str, Any], name: str
) -> None:
    """What is taken can be used: a request, a delivery and a step of the clock raise nothing that is not the fake's."""
    for value in ANYTHING:
        fake = FakeBasiq(seed=1)
        fake.add_webhook(ENDPOINT)
        with suppress(ConfigurationError):
            made = method(fake, **{**given, name: value})
            made = await made if inspect.isawaitable(made) else made
            used = made if isinstance(made, FakeBasiq) else fake
            async with BasiqClient(used.api_key, transport=InMemoryTransport(used)) as basiq:
                with suppress(BasiqError):
                    await basiq.webhooks.list()
            used.emit("user.created")
            await used.advance(days=4)
