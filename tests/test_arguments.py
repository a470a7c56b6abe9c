"""What every public name accepts in the same way: lengths of time, and what a wrong one raises."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from basiq_async import (
    AiohttpTransport,
    BasiqClient,
    ConfigurationError,
    InMemoryTransport,
    RetryPolicy,
    TargetError,
)
from basiq_async.receiver import Deferred, MemoryInbox, SQLInbox, SQLiteInbox, WebhookReceiver, verify
from basiq_async.replay import HttpTarget, Replay
from basiq_async.testing import FakeBasiq
from tests.support.api import MODULES
from tests.support.deliveries import SECRET
from tests.support.inboxes import open_on

LENGTH = re.compile(r"timeout|lease|max_pause|max_wait|max_elapsed|remember|tolerance|cool_off|latency|patience|every")
ENGINE = create_async_engine("sqlite+aiosqlite://")


async def _handler(message: object) -> None: ...


def _client(**arguments: Any) -> BasiqClient:
    return BasiqClient("key", transport=InMemoryTransport(), **arguments)


MAKE: list[tuple[Callable[..., object], str]] = [
    (_client, "timeout"),
    (AiohttpTransport, "timeout"),
    (AiohttpTransport, "connect_timeout"),
    (InMemoryTransport, "timeout"),
    (RetryPolicy, "base"),
    (RetryPolicy, "max_wait"),
    (RetryPolicy, "max_elapsed"),
    *[
        (lambda **more: WebhookReceiver(SECRET, **more), name)
        for name in ("tolerance", "handler_timeout", "body_timeout", "inbox_timeout", "lease")
    ],
    (MemoryInbox, "remember"),
    *[(lambda **more: SQLiteInbox(Path("inbox.db"), **more), name) for name in ("remember", "busy_timeout")],
    *[(lambda **more: SQLInbox(ENGINE, **more), name) for name in ("remember", "timeout")],
    *[(lambda **more: open_on(AsyncExitStack(), "redis://", **more), name) for name in ("remember", "timeout")],
    (lambda **more: Replay(_client(), "w", _handler, inbox=MemoryInbox(), **more), "max_pause"),
    *[(Deferred, name) for name in ("timeout", "keep_trying")],
    (lambda **more: HttpTarget("https://a.example", SECRET, **more), "timeout"),
    *[(FakeBasiq, name) for name in ("cool_off", "latency", "delivery_timeout")],
]


@pytest.mark.parametrize(("make", "name"), MAKE, ids=[f"{number}-{name}" for number, (_, name) in enumerate(MAKE)])
def test_a_length_of_time_is_seconds_or_a_timedelta_and_nothing_else(make: Callable[..., object], name: str) -> None:
    make(**{name: 11})
    make(**{name: 11.5})
    made = make(**{name: timedelta(seconds=11.5)})
    if isinstance(made, RetryPolicy):
        assert getattr(made, name) == 11.5
    of_another_type = () if make is FakeBasiq else ("1", True, [])
    for wrong in (-1, timedelta(seconds=-1), math.nan, math.inf, *of_another_type):
        with pytest.raises(ConfigurationError, match=name):
            make(**{name: wrong})


def test_the_errors_and_the_signature_accept_a_timedelta_too() -> None:
    assert TargetError("down", retry_after=timedelta(minutes=2)).retry_after == 120.0
    with pytest.raises(ConfigurationError, match="tolerance must be a finite number of seconds of at least 0"):
        verify(SECRET, headers={}, body=b"", tolerance=timedelta(seconds=-1))


def _parameters() -> Iterator[tuple[str, str, str]]:
    """Each parameter of the public interface: where, its name, its annotation."""
    for module in MODULES:
        if module.endswith("protocol"):
            continue
        for public in import_module(module).__all__:
            value = getattr(import_module(module), public)
            members = {"": value}
            if inspect.isclass(value):
                members = {name: held for name, held in vars(value).items() if name == "__init__" or name[0] != "_"}
            for member, held in members.items():
                if inspect.isfunction(held):
                    for name, parameter in inspect.signature(held).parameters.items():
                        yield f"{public}.{member}", name, str(parameter.annotation)


def test_each_parameter_that_is_a_length_of_time_accepts_both() -> None:
    """The leases that an inbox gets come from the library: always seconds."""
    found = {
        f"{place}({name}: {annotation})"
        for place, name, annotation in _parameters()
        if LENGTH.fullmatch(name) or name.endswith("_timeout")
        if not any(kind in annotation for kind in ("Duration", "timedelta", "Literal"))
    }
    own = {each for each in found if "lease" not in each}
    assert own == set()
