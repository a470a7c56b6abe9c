"""A model of an inbox, and the calls of a script: each must have the result that the model has."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from ..._work.protocol import Claim, ClaimStatus, QuarantinedDelivery, Waiting

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY
SHORT, LONG, LATER = 0.03, 60.0, 3600.0
"""The lease of a worker that dies, that of any other, and for how long something is put off, in seconds."""
PASSED = SHORT * 1.5
WORKERS = "abc"
KEYS = 2
"""The number of keys: one event of two webhooks has two."""
START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


def make_delivery(
    key: str, *, failures: int = 3, at: datetime | None = None, acknowledged: bool = True
) -> QuarantinedDelivery:
    return QuarantinedDelivery(
        key=key,
        delivery_id="msg_1",
        event_type_id="user.created",
        event_id="event-1",
        body=b'{"eventTypeId": "user.created"}',
        signed_at=START,
        error="ValueError: no",
        failures=failures,
        quarantined_at=at or datetime.now(UTC),
        kind="delivery" if acknowledged else "message",
        acknowledged=acknowledged,
    )


Listing = Callable[..., Awaitable[Sequence[QuarantinedDelivery]]]


async def list_all(listing: Listing, beginning: str) -> list[QuarantinedDelivery]:
    """Return the deliveries of all pages whose keys begin so. Other users of the storage may have more."""
    found: list[QuarantinedDelivery] = []
    page = await listing()
    while page:
        found += [delivery for delivery in page if delivery.key.startswith(beginning)]
        page = await listing(after=page[-1])
    return found


# --- calls ---


@attrs.frozen
class Call:
    """The arguments of a call: two keys and the one that it is about, the worker's token, and a delivery to store."""

    keys: Sequence[str]
    key: str
    token: str
    entry: QuarantinedDelivery

    @property
    def webhook_id(self) -> str:
        return self.keys[0]

    def failed(self, *, acknowledged: bool) -> QuarantinedDelivery:
        """Return the delivery as it is put into the quarantine."""
        entry = self.entry
        return make_delivery(self.key, failures=entry.failures + 1, at=entry.quarantined_at, acknowledged=acknowledged)


async def _in_order(entries: Awaitable[Sequence[QuarantinedDelivery]]) -> list[QuarantinedDelivery]:
    return sorted(await entries, key=lambda entry: entry.key)


async def _counts(waiting: Awaitable[Waiting]) -> tuple[int, int]:
    found = await waiting
    return found.count, found.fresh


async def _set_of(keys: Awaitable[Iterable[str]]) -> set[str]:
    return set(await keys)


CALLS: dict[str, Callable[[Any, Call], Coroutine[Any, Any, object]]] = {
    "check": lambda inbox, of: inbox.check(),
    "claim": lambda inbox, of: inbox.claim(of.key, of.token, lease=LONG),
    "claim_shortly": lambda inbox, of: inbox.claim(of.key, of.token, lease=SHORT),
    "die": lambda inbox, of: inbox.claim(of.key, of.token, lease=SHORT),
    "retry": lambda inbox, of: inbox.claim_quarantined(of.key, of.token, lease=LONG),
    "die_in_retry": lambda inbox, of: inbox.claim_quarantined(of.key, of.token, lease=SHORT),
    "complete": lambda inbox, of: inbox.complete(of.key, of.token),
    "complete_both": lambda inbox, of: inbox.complete(of.keys, of.token),
    "release": lambda inbox, of: inbox.release(of.key, of.token),
    "fail": lambda inbox, of: inbox.fail(of.key, of.token),
    "quarantine": lambda inbox, of: inbox.quarantine(of.key, of.token, of.failed(acknowledged=True)),
    "set_aside": lambda inbox, of: inbox.quarantine(of.key, of.token, of.failed(acknowledged=False)),
    "drop": lambda inbox, of: inbox.drop_quarantined(of.key),
    "note": lambda inbox, of: inbox.note(of.key),
    "set_note": lambda inbox, of: inbox.set_note(of.key, of.entry.quarantined_at.isoformat()),
    "known": lambda inbox, of: _set_of(inbox.known(of.keys)),
    "quarantined": lambda inbox, of: list_all(inbox.quarantined, of.webhook_id[:-1]),
    "store": lambda inbox, of: inbox.store(of.entry, webhook_id=of.webhook_id),
    "claim_due": lambda inbox, of: _in_order(inbox.claim_due(of.webhook_id, of.token, limit=KEYS, lease=LONG)),
    "die_of_due": lambda inbox, of: _in_order(inbox.claim_due(of.webhook_id, of.token, limit=KEYS, lease=SHORT)),
    "put_off": lambda inbox, of: inbox.put_off(of.key, of.token, seconds=0.0, delivery=of.entry),
    "put_off_shortly": lambda inbox, of: inbox.put_off(of.key, of.token, seconds=SHORT),
    "put_off_for_long": lambda inbox, of: inbox.put_off(of.key, of.token, seconds=LATER, delivery=of.entry),
    "waiting": lambda inbox, of: _counts(inbox.waiting(of.webhook_id)),
    "list_waiting": lambda inbox, of: list_all(inbox.list_waiting, of.webhook_id[:-1]),
}
"""The calls of a script: of an inbox, or of the model, which has the same methods."""
WAITING_CALLS = frozenset(tuple(CALLS)[tuple(CALLS).index("store") :])
WALKED = tuple(name for name in CALLS if not name.endswith("shortly"))
"""The calls of a random walk: without those of which something ends at a time that no script waits for."""
DYING = frozenset({"die", "die_in_retry", "die_of_due"})
"""Claims of a worker that dies: a short lease, which runs out."""


_WALKS = 5
_STEPS = 40


def random_walks(calls: Sequence[str]) -> Iterator[str]:
    """Return scripts of these calls."""
    for seed in range(_WALKS):
        chance = random.Random(seed)
        steps = (f"{chance.choice(calls)} {chance.choice(WORKERS)} {chance.randrange(KEYS)}" for _ in range(_STEPS))
        yield "; ".join(steps)


# --- the model ---


@attrs.define
class _Key:
    """``done``: it was handled, or ``entry`` is in the quarantine and was acknowledged. ``waits``: what waits."""

    done: bool = False
    failures: int = 0
    holder: str | None = None
    ends: float = 0.0
    entry: QuarantinedDelivery | None = None
    waits: QuarantinedDelivery | None = None
    due: float = 0.0
    note: str | None = None


@attrs.define
class Model:
    """What the calls do to some keys, as simple as possible. Its time passes when a script says so."""

    keys: dict[str, _Key]
    now: float = 0.0

    @classmethod
    def of(cls, names: Sequence[str]) -> Model:
        return cls({name: _Key() for name in names})

    def pass_time(self) -> bool:
        """Let a short lease run out. Return whether anything comes to its end by that."""
        before, self.now = self.now, self.now + PASSED
        ends = [each.ends for each in self.keys.values() if each.holder is not None]
        ends += [each.due for each in self.keys.values() if each.waits is not None]
        return any(before < end <= self.now for end in ends)

    def _is_held(self, key: _Key) -> bool:
        return key.holder is not None and key.ends > self.now

    def may_refuse(self, name: str) -> bool:
        """Return whether a key is in a transaction, and would else be stored."""
        key = self.keys[name]
        return key.holder is not None and key.waits is None and not key.done

    def _claim(self, key: _Key, token: str, lease: float, *, over: bool) -> Claim:
        if over:
            return Claim(DONE)
        if key.holder != token and self._is_held(key):
            return Claim(BUSY, holder=key.holder)
        key.holder, key.ends = token, self.now + lease
        return Claim(CLAIMED)

    async def check(self) -> None:
        pass

    async def claim(self, name: str, token: str, *, lease: float) -> Claim:
        return self._claim(self.keys[name], token, lease, over=self.keys[name].done)

    async def claim_quarantined(self, name: str, token: str, *, lease: float) -> Claim:
        return self._claim(self.keys[name], token, lease, over=self.keys[name].entry is None)

    async def complete(self, names: str | Sequence[str], token: str) -> bool:
        recorded = [self._complete(self.keys[name], token) for name in ([names] if isinstance(names, str) else names)]
        return all(recorded)

    def _complete(self, key: _Key, token: str) -> bool:
        if key.holder != token and ((key.done and key.entry is None) or self._is_held(key)):
            return False
        key.done, key.entry, key.holder, key.failures, key.waits = True, None, None, 0, None
        return True

    async def release(self, name: str, token: str) -> None:
        key = self.keys[name]
        key.holder = None if key.holder == token else key.holder

    async def fail(self, name: str, token: str) -> int:
        key = self.keys[name]
        mine = key.holder == token
        await self.release(name, token)
        if key.done and not (mine and key.entry is not None):
            return 0
        key.failures = 1 + max(key.failures, key.entry.failures if key.done and key.entry is not None else 0)
        return key.failures

    async def quarantine(self, name: str, token: str, entry: QuarantinedDelivery) -> bool:
        key = self.keys[name]
        if key.holder != token and (key.done or self._is_held(key)):
            return False
        key.done, key.entry, key.holder, key.waits = entry.acknowledged, entry, None, None
        return True

    async def drop_quarantined(self, name: str) -> bool:
        key = self.keys[name]
        if key.entry is None:
            return False
        key.done, key.entry, key.holder, key.failures = True, None, None, 0
        return True

    async def note(self, name: str) -> str | None:
        return self.keys[name].note

    async def set_note(self, name: str, text: str) -> None:
        self.keys[name].note = text

    async def known(self, names: Sequence[str]) -> set[str]:
        found = {name: self.keys[name] for name in names}
        return {name for name, key in found.items() if key.done or key.entry is not None or key.waits is not None}

    async def quarantined(self, *, after: QuarantinedDelivery | None = None) -> Sequence[QuarantinedDelivery]:
        return _page([key.entry for key in self.keys.values()], after)

    async def store(self, entry: QuarantinedDelivery, *, webhook_id: str) -> bool:
        key = self.keys[entry.key]
        if key.done or key.waits is not None:
            return False
        key.waits, key.due, key.entry = entry, self.now, None
        return True

    async def claim_due(
        self, webhook_id: str, token: str, *, limit: int, lease: float
    ) -> Sequence[QuarantinedDelivery]:
        found: list[QuarantinedDelivery] = []
        for key in self.keys.values():
            if key.waits is not None and key.due <= self.now and not self._is_held(key):
                key.holder, key.ends = token, self.now + lease
                found.append(key.waits)
        return found

    async def put_off(
        self, name: str, token: str, *, seconds: float, delivery: QuarantinedDelivery | None = None
    ) -> bool:
        key = self.keys[name]
        if key.waits is None or key.holder != token:
            return False
        key.waits, key.due, key.holder = delivery or key.waits, self.now + seconds, None
        return True

    async def waiting(self, webhook_id: str) -> Waiting:
        found = await self.list_waiting()
        return Waiting(count=len(found), fresh=sum(not entry.failures for entry in found))

    async def list_waiting(self, *, after: QuarantinedDelivery | None = None) -> Sequence[QuarantinedDelivery]:
        return _page([key.waits for key in self.keys.values()], after)


def _page(
    entries: Iterable[QuarantinedDelivery | None], after: QuarantinedDelivery | None
) -> Sequence[QuarantinedDelivery]:
    """Return all on the first page."""
    found = [entry for entry in entries if entry is not None and after is None]
    return sorted(found, key=lambda entry: (entry.quarantined_at, entry.key))
