"""The promises of an ``Inbox``, as a suite for your own implementation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from . import _inbox_claims as claims
from . import _inbox_model as model
from . import _inbox_quarantine as quarantine
from ._inbox_probe import Check, MakeInbox, PassTime, Probe, made
from ._inbox_storage import Outage, away, raced
from ._runner import keep


async def check_inbox(
    make_inbox: MakeInbox,
    *,
    shared: bool = False,
    leases: bool = True,
    pass_time: PassTime | None = None,
    outage: Outage | None = None,
    processes: bool = False,
    seconds: float = 20.0,
) -> None:
    """Check that an inbox does what ``Inbox`` promises.

    ``make_inbox`` is called for each promise. Pass ``shared=True`` where all inboxes that it makes have one storage,
    such as a file or a server: each promise is then checked across two of them as well. Pass ``leases=False`` where a
    claim ends with its worker, and not by a clock. Leases expire in real time (30 ms each), or by
    ``pass_time(seconds)`` where the inbox has a clock of its own. Keys are new each time, so that a storage may be used
    again. An inbox with ``aclose`` is closed.

    ``outage()`` is an async context manager in which the storage is away, such as a server that is stopped. Every call
    must then fail within its time limit, and what was recorded must be there afterwards. With ``processes=True``, two
    new processes call ``make_inbox`` as well, and take the same keys; it must be possible to pickle it.

    Each promise may take ``seconds``. Raises ``BrokenPromisesError``, an ``AssertionError`` that names every broken
    promise and what happened instead.
    """
    promises: dict[str, Callable[[], Awaitable[None]]] = {}
    for check in _CHECKS:
        if check in (_WITH_LEASES if not leases else _WITHOUT_LEASES):
            continue
        promise = _promise(check)
        promises[promise] = partial(_alone, make_inbox, check, pass_time)
        if shared:
            promises[promise + " (across two workers)"] = partial(_across, make_inbox, check, pass_time)
    if outage is not None:
        promises[_promise(away)] = partial(away, make_inbox, outage)
    if processes:
        promises[_promise(raced)] = partial(raced, make_inbox)
    await keep("the inbox", promises, seconds=seconds)


def _promise(check: Callable[..., object]) -> str:
    return (check.__doc__ or check.__name__).strip().rstrip(".")


async def _alone(make_inbox: MakeInbox, check: Check, pass_time: PassTime | None) -> None:
    async with made(make_inbox) as inbox:
        await check(Probe(inbox, inbox, pass_time))


async def _across(make_inbox: MakeInbox, check: Check, pass_time: PassTime | None) -> None:
    async with made(make_inbox) as inbox, made(make_inbox) as other:
        await check(Probe(inbox, other, pass_time))


_CHECKS = (
    claims.checked,
    claims.free,
    claims.apart,
    claims.again,
    claims.completed,
    claims.seen,
    claims.released,
    claims.knows_since,
    claims.pinned,
    claims.not_mine,
    claims.kept,
    claims.crashed,
    claims.late,
    claims.race,
    claims.cancelled,
    claims.cancelled_anywhere,
    quarantine.failed,
    quarantine.failed_late,
    quarantine.quarantined,
    quarantine.quarantined_by_another,
    quarantine.retried,
    quarantine.retry_given_back,
    quarantine.retry_abandoned,
    claims.holds_on,
    quarantine.dropped,
    quarantine.paged,
    quarantine.odd_letters,
    model.walked,
)
_WITH_LEASES = (
    model.walked,
    claims.again,
    claims.crashed,
    claims.late,
    quarantine.failed_late,
    quarantine.retry_abandoned,
)
_WITHOUT_LEASES = (claims.holds_on,)
