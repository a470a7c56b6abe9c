"""Receivers whose handlers are deferred, on an inbox that keeps what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from basiq_async import InboxError
from basiq_async.receiver import Deferred, Outcome, WebhookReceiver
from tests.support.deliveries import SECRET, payload, signed
from tests.support.real_time import PATIENCE

TYPE = "transactions.updated"


def look_often(patch: pytest.MonkeyPatch) -> None:
    """Let a worker look often, pause shortly, and try again at once what failed."""
    patch.setattr("basiq_async.receiver._worker._LOOK_EVERY", 0.02)
    patch.setattr("basiq_async.receiver._trying._WAITS", (0.01,))
    for module in ("_breaker", "_worker"):
        patch.setattr(f"basiq_async.receiver.{module}._SHORTEST", 0.02)
        patch.setattr(f"basiq_async.receiver.{module}._LONGEST", 0.1)


def deferring(
    inbox: Any, handle: Callable[..., Awaitable[object]], *types: str, times: Any = None, **options: Any
) -> WebhookReceiver:
    """A receiver of these types with options of ``Deferred``; ``times`` has others of its own."""
    receiver = WebhookReceiver(SECRET, inbox=inbox, webhook_id="w1", deferred=Deferred(**options), **(times or {}))
    receiver.on(*(types or (TYPE,)))(handle)
    return receiver


async def post_event(
    receiver: WebhookReceiver, event_id: str, type_id: str = TYPE, *, at: Any = None, **more: object
) -> Outcome:
    body = payload(type_id, event_id, **more)
    return await receiver.handle(signed(body, message_id=f"msg_{event_id}", at=at), body)


async def all_handled(receiver: WebhookReceiver) -> None:
    """Wait until nothing waits any more."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if not (await receiver.waiting()).count:
                    return
            except InboxError:
                pass
            await asyncio.sleep(0.02)
