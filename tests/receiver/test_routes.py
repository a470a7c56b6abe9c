from __future__ import annotations

import re
import tracemalloc
import warnings
from functools import partial
from unittest.mock import AsyncMock, MagicMock

import pytest

from basiq_async import ConfigurationError
from basiq_async._arguments import EVENT_TYPES
from basiq_async.receiver import Delivery, Result, UnknownEventTypeWarning, WebhookReceiver
from tests.support.deliveries import SECRET, payload, post


async def handler(delivery: Delivery) -> None:
    return None


def receiver_of(*patterns: str) -> WebhookReceiver:
    """A receiver with a handler for each pattern, whose name is the pattern."""
    receiver = WebhookReceiver(SECRET)
    for pattern in patterns:

        async def named(delivery: Delivery) -> None:
            return None

        named.__qualname__ = pattern
        receiver.on(pattern)(named)
    return receiver


async def handler_for(receiver: WebhookReceiver, event_type: str) -> str | None:
    """The name of the handler that a delivery of this type went to; None where it went to none."""
    outcome = await post(receiver, payload(event_type))
    assert outcome.result is (Result.IGNORED if outcome.handler is None else Result.HANDLED)
    return outcome.handler


@pytest.mark.parametrize(
    ("event_type", "expected"),
    [
        ("consent.revoked", "consent.revoked"),
        ("consent.created", "consent.*"),
        ("consent.created.twice", "consent.*"),
        ("consent.basic.created", "consent.basic.*"),
        ("consent", "*"),
        ("consents.created", "*"),
        ("user.created", "*"),
        ("", "*"),
        ("*", "*"),
        ("consent.*", "consent.*"),
        ("Consent.revoked", "*"),
        (".", "*"),
    ],
)
async def test_the_most_specific_handler_is_taken(event_type: str, expected: str) -> None:
    receiver = receiver_of("*", "consent.*", "consent.revoked", "consent.basic.*")
    assert await handler_for(receiver, event_type) == expected


@pytest.mark.parametrize("event_type", ["user.created", "", "account", "*"])
async def test_a_type_that_no_pattern_has_has_no_handler(event_type: str) -> None:
    receiver = receiver_of("consent.*", "account.updated")
    assert not receiver.accepts_type(event_type)
    assert await handler_for(receiver, event_type) is None


@pytest.mark.parametrize(
    "pattern",
    ["", " ", "consent.", ".created", "con*", "consent.rev*", "*.created", "**", "a.*.b", "consent.* ", "a..b", ".*"],
)
def test_a_pattern_that_is_none_is_refused_at_once(pattern: str) -> None:
    receiver = WebhookReceiver(SECRET)
    with pytest.raises(ConfigurationError):
        receiver.on("user.created", pattern)


def test_on_without_event_types_is_refused() -> None:
    receiver = WebhookReceiver(SECRET)
    with pytest.raises(ConfigurationError, match="at least one"):
        receiver.on()
    with pytest.raises(ConfigurationError, match=r"@receiver\.on needs event types"):
        receiver.on(handler)
    with pytest.raises(ConfigurationError, match="must be a str"):
        receiver.on(7)


def test_a_second_handler_for_a_pattern_is_refused_since_it_would_never_run() -> None:
    receiver = WebhookReceiver(SECRET)
    receiver.on("user.created", "consent.*")(handler)
    receiver.on("user.created")(handler)

    async def other(delivery: Delivery) -> None:
        return None

    with pytest.raises(ConfigurationError, match=r"consent\.\*"):
        receiver.on("*", "consent.*")(other)
    receiver.on("*")(other)


class Service:
    async def method(self, delivery: Delivery) -> None:
        return None

    async def __call__(self, delivery: Delivery) -> None:
        return None


@pytest.mark.parametrize(
    "async_handler",
    [
        handler,
        Service().method,
        Service(),
        partial(handler),
        partial(
            partial(Service()),
        ),
        AsyncMock(),
    ],
)
def test_anything_async_that_takes_a_delivery_is_a_handler(async_handler: object) -> None:
    assert WebhookReceiver(SECRET).on("*")(async_handler) is async_handler


def sync(delivery: Delivery) -> None:
    return None


async def generator(delivery: Delivery) -> object:
    yield delivery


@pytest.mark.parametrize("wrong", [sync, partial(sync), lambda delivery: None, MagicMock(), generator, 7, print])
def test_a_handler_that_is_not_async_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="not async"):
        WebhookReceiver(SECRET).on("*")(wrong)


async def nothing() -> None:
    return None


async def two(delivery: Delivery, client: object) -> None:
    return None


@pytest.mark.parametrize("wrong", [nothing, two])
def test_a_handler_that_cannot_be_called_with_a_delivery_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="one argument"):
        WebhookReceiver(SECRET).on("*")(wrong)


def test_a_callable_that_does_not_tell_its_signature_is_taken() -> None:
    class Odd:
        @property
        def __signature__(self) -> object:
            raise ValueError("unknown")

        async def __call__(self, delivery: Delivery) -> None:
            return None

    odd = Odd()
    assert WebhookReceiver(SECRET).on("*")(odd) is odd


async def test_a_handler_that_is_registered_later_is_found_by_types_that_were_looked_for_before() -> None:
    receiver = receiver_of("*")
    assert await handler_for(receiver, "consent.revoked") == "*"
    receiver.on("consent.*")(handler)
    assert await handler_for(receiver, "consent.revoked") == "handler"


def test_of_ever_new_types_only_some_are_remembered() -> None:
    receiver = receiver_of("consent.*")
    tracemalloc.start()
    try:
        for number in range(5_000):
            assert receiver.accepts_type(f"consent.{number:01000}")
            assert not receiver.accepts_type(f"other.{number:01000}")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2**20  # all of them would be ten times that


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [("consent.revokd", "consent.revoked"), ("user.create", "user.created"), ("consents.*", "consent.*")],
)
def test_a_type_that_is_misspelt_warns_and_names_the_nearest(pattern: str, nearest: str) -> None:
    with pytest.warns(
        UnknownEventTypeWarning, match=f"{re.escape(repr(pattern))}.*did you mean '{re.escape(nearest)}'"
    ):
        WebhookReceiver(SECRET).on(pattern)(handler)


def test_a_type_that_is_new_warns_at_the_line_that_registers_it() -> None:
    with pytest.warns(UnknownEventTypeWarning, match="'hologram.shattered' is not an event type") as caught:
        WebhookReceiver(SECRET).on("user.created", "hologram.shattered")
    assert "did you mean" not in str(caught[0].message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("pattern", [*EVENT_TYPES, "*", "consent.*", "transactions.*"])
def test_a_documented_type_does_not_warn(pattern: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WebhookReceiver(SECRET).on(pattern)(handler)
