"""Work off deferred deliveries in a test, on the clock of the fake."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ..receiver import WebhookReceiver
from .fake._clock import as_seconds

if TYPE_CHECKING:
    from .fake._fake import FakeBasiq

_FIRST_STEP = 1.0
_GROWTH = 1.1
"""Each step of the clock is longer by a tenth, so that a wait of hours needs a hundred steps."""


async def handle_waiting(
    receiver: WebhookReceiver, fake: FakeBasiq, *, within: float | timedelta = timedelta(days=1)
) -> None:
    """Return when none of the receiver's deferred deliveries waits: each was handled, or is in the quarantine.

    .. code-block:: python

        inbox = MemoryInbox(clock=fake.clock)
        receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox, deferred=True, accept_loss=True)
        ...
        await fake.emit("transactions.updated")
        await handle_waiting(receiver, fake)

    Where all that waits was put off after a failure, or Basiq is away, the clock of the fake is advanced, which makes
    the deliveries that are due on the way. The receiver need not be entered. Its inbox needs the clock of the fake.

    within: at most so much is the clock advanced, in seconds or as a timedelta. The default is longer than the eight
        attempts at a delivery take, which is 8.6 hours.

    Raises ``TimeoutError`` if something still waits then, and the errors of the inbox.
    """
    limit = as_seconds(within)
    advanced, step = 0.0, _FIRST_STEP
    while (count := (await receiver.waiting()).count) > 0:
        if await receiver._worker.work_once():
            step = _FIRST_STEP
            continue
        if advanced >= limit:
            raise TimeoutError(
                f"{count:,} deferred deliveries still wait after {limit:,.0f} s by the clock of the fake. Does the "
                "inbox have this clock, as in MemoryInbox(clock=fake.clock)? Is Basiq away at each attempt?"
            )
        step = min(step, limit - advanced)
        await fake.advance(step)
        advanced += step
        step *= _GROWTH
