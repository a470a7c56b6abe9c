"""Random walks of an inbox and of a simple model: after each step, both must have the same result."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs

from ..._work.protocol import Claim, ClaimStatus, QuarantinedDelivery, WaitingInbox
from ...errors import InboxError
from ._inbox_probe import BUSY, CLAIMED, DONE, LONG, SHORT, InboxProbe, make_delivery, with_leases
from ._runner import hold

ACTIONS = (
    "claim",
    "claim_quarantined",
    "complete",
    "release",
    "fail",
    "quarantine",
    "set aside",
    "complete both",
    "drop_quarantined",
    "known",
    "quarantined",
    "die",
    "die in a retry",
)
"""The actions of a worker on a key. To "set aside" is a quarantine that was not acknowledged. The last two are claims
with a short lease, which is left to expire."""
WAITING_ACTIONS = (*ACTIONS, "store", "store", "claim due", "claim due", "put off", "put off for long", "waiting")
"""The actions on an inbox that also keeps deliveries to be handled later."""
_LATER = 3600.0
_MORTAL = ("die", "die in a retry")
WORKERS = 3
KEYS = 2
"""The number of keys: one event of two webhooks has two."""
_WALKS = 5
_STEPS = 40
_START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)

Step = tuple[str, int, int]
"""An action, the number of the worker, and the number of the key."""


@attrs.define
class _Key:
    """The expected state of one key.

    ``done``: it was handled, or ``delivery`` is in the quarantine and was acknowledged. ``alive`` is False if the
    holder's lease has run out.
    """

    name: str
    done: bool = False
    failures: int = 0
    holder: str | None = None
    alive: bool = False
    delivery: QuarantinedDelivery | None = None
    waiting: QuarantinedDelivery | None = None
    due: bool = False

    def claim(self, token: str, *, retry: bool, alive: bool) -> ClaimStatus:
        if (self.delivery is None) if retry else self.done:
            return DONE
        if self.holder not in (None, token) and self.alive:
            return BUSY
        self.holder, self.alive = token, alive
        return CLAIMED

    def complete(self, token: str) -> bool:
        handled = self.done and self.delivery is None
        if self.holder != token and (handled or self._is_held()):
            return False
        self.done, self.delivery, self.holder, self.failures, self.waiting = True, None, None, 0, None
        return True

    def set_aside(self, token: str, delivery: QuarantinedDelivery) -> bool:
        if self.holder != token and (self.done or self._is_held()):
            return False
        self.done, self.delivery, self.holder, self.waiting = delivery.acknowledged, delivery, None, None
        return True

    def store(self, delivery: QuarantinedDelivery) -> bool:
        if self.done or self.waiting is not None:
            return False
        self.waiting, self.due, self.delivery = delivery, True, None
        return True

    def claim_due(self, token: str) -> bool:
        if self.waiting is None or not self.due or self._is_held():
            return False
        self.holder, self.alive = token, True
        return True

    def put_off(self, token: str, delivery: QuarantinedDelivery, *, due: bool) -> bool:
        if self.waiting is None or self.holder != token:
            return False
        self.waiting, self.due, self.holder = delivery, due, None
        return True

    def _is_held(self) -> bool:
        return self.holder is not None and self.alive

    def release(self, token: str) -> bool:
        mine = self.holder == token
        if mine:
            self.holder = None
        return mine

    def fail(self, token: str) -> int:
        mine = self.release(token)
        if self.done and not (mine and self.delivery is not None):
            return 0
        self.failures = 1 + max(self.failures, self.delivery.failures if self.done and self.delivery else 0)
        return self.failures

    def drop(self) -> bool:
        if self.delivery is None:
            return False
        self.done, self.delivery, self.holder, self.failures = True, None, None, 0
        return True


@with_leases
async def walked(probe: InboxProbe) -> None:
    """Each call has the right result when workers act on two keys in any order, and some of them die"""
    await walk(probe, ACTIONS)


async def walk(probe: InboxProbe, actions: Sequence[str]) -> None:
    """Follow some random walks of these actions."""
    for seed in range(_WALKS):
        chance = random.Random(seed)
        steps = [(chance.choice(actions), chance.randrange(WORKERS), chance.randrange(KEYS)) for _ in range(_STEPS)]
        await follow(probe, steps, name=f"{probe.key}-{seed}")


async def follow(probe: InboxProbe, steps: Sequence[Step], *, name: str) -> None:
    """Make the steps on keys that begin with ``name``.

    Raises ``AssertionError`` at the first step whose result differs from the model, and names the steps up to it.
    """
    keys = [_Key(f"{name}-{number}") for number in range(KEYS)]
    for number, (action, worker, index) in enumerate(steps):
        found, expected = await _step(probe, action, f"{probe.a}-{worker}", worker, keys, index, number)
        if found != expected:
            taken = "".join(f"\n    {action} by {worker} of {index}" for action, worker, index in steps[: number + 1])
            raise AssertionError(f"the last of these steps had the result {found!r}, not {expected!r}:{taken}")


async def _step(
    probe: InboxProbe, action: str, token: str, worker: int, keys: list[_Key], index: int, number: int
) -> tuple[object, object]:
    """Make a step. Return its result and the expected one."""
    inbox = (probe.inbox, probe.other)[worker % 2]
    key = keys[index]
    name = key.name
    match action:
        case "claim" | "die":
            claim = await inbox.claim(name, token, lease=LONG if action == "claim" else SHORT)
            return await _claimed(probe, claim, key, token, action)
        case "claim_quarantined" | "die in a retry":
            claim = await inbox.claim_quarantined(name, token, lease=LONG if action == "claim_quarantined" else SHORT)
            return await _claimed(probe, claim, key, token, action)
        case "complete":
            return await inbox.complete(name, token), key.complete(token)
        case "complete both":
            recorded = await inbox.complete([each.name for each in keys], token)
            expected = [each.complete(token) for each in keys]
            return recorded, all(expected)
        case "release":
            await inbox.release(name, token)
            key.release(token)
            return None, None
        case "fail":
            return await inbox.fail(name, token), key.fail(token)
        case "quarantine" | "set aside":
            at = _START + timedelta(seconds=number)
            delivery = make_delivery(name, failures=1 + number % 3, at=at, acknowledged=action == "quarantine")
            return await inbox.quarantine(name, token, delivery), key.set_aside(token, delivery)
        case "drop_quarantined":
            return await inbox.drop_quarantined(name), key.drop()
        case "known":
            known = {each.name for each in keys if each.done or each.delivery is not None or each.waiting is not None}
            return set(await inbox.known([each.name for each in keys])), known
        case "store" | "claim due" | "put off" | "put off for long" | "waiting":
            assert isinstance(inbox, WaitingInbox)  # noqa: S101  # others do not walk so
            return await _step_of_waiting(inbox, action, token, keys, index, number)
        case _:
            found = [delivery for delivery in await probe.deliveries() if delivery.key in {each.name for each in keys}]
            quarantined = [each.delivery for each in keys if each.delivery is not None]
            return found, sorted(quarantined, key=lambda delivery: (delivery.quarantined_at, delivery.key))


async def _step_of_waiting(
    inbox: WaitingInbox, action: str, token: str, keys: list[_Key], index: int, number: int
) -> tuple[object, object]:
    key = keys[index]
    webhook_id = keys[0].name
    delivery = make_delivery(key.name, failures=number % 3, at=_START + timedelta(seconds=number))
    if action == "store":
        try:
            stored = await inbox.store(delivery, webhook_id=webhook_id)
        except InboxError:  # of a key that a transaction holds
            return key.holder is not None and key.waiting is None and not key.done, True
        return stored, key.store(delivery)
    if action == "claim due":
        entries = await inbox.claim_due(webhook_id, token, limit=KEYS, lease=LONG)
        return {entry.key for entry in entries}, {each.name for each in keys if each.claim_due(token)}
    if action == "waiting":
        found = await inbox.waiting(webhook_id)
        entries = [entry for entry in await inbox.list_waiting(limit=1000) if entry.key in {each.name for each in keys}]
        waiting = [each.waiting for each in keys if each.waiting is not None]
        order = sorted(waiting, key=lambda entry: (entry.quarantined_at, entry.key))
        fresh = sum(not entry.failures for entry in waiting)
        return (found.count, found.fresh, entries), (len(waiting), fresh, order)
    seconds = 0.0 if action == "put off" else _LATER
    put_off = await inbox.put_off(key.name, token, seconds=seconds, delivery=delivery)
    return put_off, key.put_off(token, delivery, due=not seconds)


async def _claimed(probe: InboxProbe, claim: Claim, key: _Key, token: str, action: str) -> tuple[object, object]:
    dies = action in _MORTAL
    holder = key.holder
    expected = key.claim(token, retry=action in ("claim_quarantined", "die in a retry"), alive=not dies)
    if claim.status is BUSY:
        hold(0 < claim.retry_after <= LONG, f"retry_after was {claim.retry_after}, with a lease of {LONG:g} s")
        hold(claim.holder in (None, holder), f"the holder was {claim.holder!r}, not {holder!r}")
    if dies and claim.status is CLAIMED:
        await probe.wait(SHORT * 1.5)
    return claim.status, expected
