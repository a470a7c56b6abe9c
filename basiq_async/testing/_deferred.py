"""Handle deferred deliveries in a test, on the clock of the fake."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from .._redaction.text import amount
from ..receiver import WebhookReceiver
from .fake._checks import read_seconds

if TYPE_CHECKING:
    from .fake._fake import FakeBasiq

_FIRST_STEP = 1.0
_GROWTH, _LONGEST_STEP = 1.1, 600.0
"""While nothing is handled or fails, as without a handler, each step of the clock is longer by a tenth."""


async def handle_waiting(
    receiver: WebhookReceiver, fake: FakeBasiq, *, within: float | timedelta | None = None
) -> None:
    """Return when none of the receiver's deferred deliveries waits: each was handled, or is in the quarantine.

    .. code-block:: python

        receiver = WebhookReceiver(
            secret, webhook_id=webhook_id, inbox=MemoryInbox(), deferred=True, clock=fake.clock
        )
        ...
        await fake.emit("transactions.updated")
        await handle_waiting(receiver, fake)

    Where all that waits was put off, the clock of the fake is advanced, which makes the deliveries that are due on the
    way. The receiver needs the clock of the fake, with any inbox; or a ``MemoryInbox`` or ``SQLiteInbox`` has it. The
    receiver need not be entered. There are no pauses.

    within: at most so much is the clock advanced, in seconds or as a timedelta. The default is a day more than the
        receiver keeps trying.

    Raises ``TimeoutError`` if something still waits then, and the errors of the inbox.
    """
    longest = timedelta(days=1, seconds=receiver._backlog.settings.keep_trying)
    limit = read_seconds("within", longest if within is None else within)
    advanced, shortest = 0.0, _FIRST_STEP
    while (count := (await receiver.waiting()).count) > 0:
        if await receiver._worker.work_once():
            shortest = _FIRST_STEP
            continue
        if advanced >= limit:
            what = amount(count, "deferred delivery still waits", "deferred deliveries still wait")
            raise TimeoutError(
                f"{what} after {limit:,.0f} s by the clock of the fake. Has the receiver this clock, as in "
                "WebhookReceiver(..., clock=fake.clock)?"
            )
        step = min(max(await receiver._backlog.seconds_until_due(fake.now().timestamp()), shortest), limit - advanced)
        await fake.advance(step)
        advanced, shortest = advanced + step, min(shortest * _GROWTH, _LONGEST_STEP)
