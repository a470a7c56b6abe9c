"""A model of an inbox, and the calls of a script: each must have the result that the model has."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, get_args

import attrs

from ..._work.protocol import MOST_UNENDED, Claim, ClaimedEntry, ClaimStatus, EntryKind, InboxEntry, Waiting

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY
SHORT, LONG, LATER = 0.03, 60.0, 1800.0
"""The lease of a worker that dies, that of any other, and for how long something is put off, in seconds."""
PASSED = SHORT * 1.5
WORKERS = "abc"
KEYS = 2
"""The number of keys of a script."""
START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


def make_delivery(key: str, *, failures: int = 3, at: datetime | None = None, acknowledged: bool = True) -> InboxEntry:
    return InboxEntry(
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


ODD = 'text with "quotes", a line\nbreak, \x00, ü, \U0001f600 and a lone \ud800'


def make_odd_deliveries(key: str) -> list[InboxEntry]:
    """Return deliveries of different times and kinds, with any bytes and any text."""
    found: list[InboxEntry] = []
    for number, (kind, age) in enumerate(zip((*get_args(EntryKind), "delivery"), (3, 1, 2, 2, 5), strict=True)):
        at = START + timedelta(microseconds=age)
        plain = make_delivery(f"{key}-{number}", failures=0, at=at, acknowledged=number % 2 == 0)
        odd = attrs.evolve(plain, body=bytes(range(256)), delivery_id=ODD, event_id=ODD, error=ODD)
        found.append(
            attrs.evolve(odd, kind=kind, failing_since=START if number % 3 else None, unended=number, idle=number / 7)
        )
    return found


ListEntries = Callable[..., Awaitable[Sequence[InboxEntry]]]


async def list_all(listing: ListEntries, beginning: str) -> list[InboxEntry]:
    """Return the deliveries of all pages whose keys begin so. Other users of the storage may have more."""
    found: list[InboxEntry] = []
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
    entry: InboxEntry

    @property
    def beginning(self) -> str:
        """That of the keys of a script."""
        return self.keys[0][:-1]

    def failed(self, *, acknowledged: bool) -> InboxEntry:
        """Return the delivery as it is put into the quarantine."""
        entry = self.entry
        return make_delivery(self.key, failures=entry.failures + 1, at=entry.quarantined_at, acknowledged=acknowledged)


async def _in_order(claimed: Awaitable[Sequence[ClaimedEntry]]) -> list[tuple[InboxEntry, int]]:
    return sorted(((each.entry, each.attempts) for each in await claimed), key=lambda pair: pair[0].key)


def _claim_due(inbox: Any, of: Call, *, lease: float = LONG, retries: int = KEYS) -> Coroutine[Any, Any, object]:
    return _in_order(inbox.claim_due(of.token, limit=KEYS, retries=retries, lease=lease))


async def _counts(waiting: Awaitable[Waiting]) -> tuple[int, int]:
    found = await waiting
    return found.count, found.fresh


async def _set_of(keys: Awaitable[Iterable[str]]) -> set[str]:
    return set(await keys)


CALLS: dict[str, Callable[[Any, Call], Coroutine[Any, Any, object]]] = {
    "check": lambda inbox, of: inbox.check(),
    "claim": lambda inbox, of: inbox.claim(of.key, of.token, lease=LONG),
    "claim_shortly": lambda inbox, of: inbox.claim(of.key, of.token, lease=SHORT, transaction=False),
    "die": lambda inbox, of: inbox.claim(of.key, of.token, lease=SHORT),
    "retry": lambda inbox, of: inbox.claim(of.key, of.token, lease=LONG, quarantined=True),
    "die_in_retry": lambda inbox, of: inbox.claim(of.key, of.token, lease=SHORT, quarantined=True),
    "complete": lambda inbox, of: inbox.complete(of.key, of.token),
    "release": lambda inbox, of: inbox.release(of.key, of.token),
    "fail": lambda inbox, of: inbox.release(of.key, of.token, failed=True),
    "quarantine": lambda inbox, of: inbox.quarantine(of.key, of.token, of.failed(acknowledged=True)),
    "give_up": lambda inbox, of: inbox.quarantine(of.key, of.token, of.failed(acknowledged=False)),
    "note": lambda inbox, of: inbox.note(of.key),
    "set_note": lambda inbox, of: inbox.set_note(of.key, of.entry.quarantined_at.isoformat()),
    "set_first_note": lambda inbox, of: inbox.set_note(of.key, of.entry.quarantined_at.isoformat(), expected=None),
    "known": lambda inbox, of: _set_of(inbox.known(of.keys)),
    "quarantined": lambda inbox, of: list_all(partial(inbox.entries, waiting=False), of.beginning),
    "store": lambda inbox, of: inbox.store(of.entry),
    "claim_due": _claim_due,
    "claim_fresh": lambda inbox, of: _claim_due(inbox, of, retries=0),
    "claim_again": lambda inbox, of: _in_order(inbox.claim_due(of.token, limit=0, retries=0, lease=LONG)),
    "die_of_due": lambda inbox, of: _claim_due(inbox, of, lease=SHORT),
    "put_off": lambda inbox, of: inbox.put_off(of.entry, of.token, seconds=0.0),
    "put_off_shortly": lambda inbox, of: inbox.put_off(of.entry, of.token, seconds=SHORT),
    "put_off_for_long": lambda inbox, of: inbox.put_off(of.entry, of.token, seconds=LATER),
    "waiting": lambda inbox, of: _counts(inbox.waiting()),
    "list_waiting": lambda inbox, of: list_all(partial(inbox.entries, waiting=True), of.beginning),
}
"""The calls of a script."""
WAITING_CALLS = frozenset(tuple(CALLS)[tuple(CALLS).index("store") :])
WALKED = tuple(name for name in CALLS if not name.endswith("shortly"))
"""The calls of a random walk: without those of which something ends at a time that no script waits for."""
LEASED = frozenset({"claim_shortly", "claim_again"})
"""The calls of an inbox with leases alone, beside those of ``DYING``."""
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
    entry: InboxEntry | None = None
    waits: InboxEntry | None = None
    attempts: int = 0
    due: float = 0.0
    note: str | None = None
    unended: tuple[str, ...] = ()

    def complete(self, token: str, now: float) -> bool:
        if self.holder != token and (self.waits or (self.done and self.entry is None) or self.is_held(now)):
            return False
        self.done, self.entry, self.holder, self.waits, self.unended = True, None, None, None, ()
        return True

    def fail(self, token: str) -> int:
        retried = self.done and self.entry is not None and self.holder == token
        self.release(token)
        if self.done and not retried:
            return 0
        self.failures = 1 + max(self.failures, self.entry.failures if self.done and self.entry is not None else 0)
        return self.failures

    def release(self, token: str) -> None:
        self.holder = None if self.holder == token else self.holder
        self.unended = tuple(each for each in self.unended if each != token)

    def is_held(self, now: float) -> bool:
        return self.holder is not None and self.ends > now


@attrs.define
class Model:
    """What the calls do to some keys, as simple as possible. Its time passes when a script says so."""

    keys: dict[str, _Key]
    now: float = 0.0

    @classmethod
    def of(cls, names: Sequence[str]) -> Model:
        return cls({name: _Key() for name in names})

    def copy(self) -> Model:
        return Model({name: attrs.evolve(key) for name, key in self.keys.items()}, self.now)

    def pass_time(self) -> bool:
        """Let a short lease run out. Return whether anything comes to its end by that."""
        before, self.now = self.now, self.now + PASSED
        ends = [each.ends for each in self.keys.values() if each.holder is not None]
        ends += [each.due for each in self.keys.values() if each.waits is not None]
        return any(before < end <= self.now for end in ends)

    def may_refuse(self, name: str) -> bool:
        """Return whether a key is in a transaction, and would else be stored."""
        key = self.keys[name]
        return key.holder is not None and key.waits is None and not key.done

    def make(self, action: str, of: Call) -> object:
        """Make a call, and return its result."""
        key, token, every = self.keys[of.key], of.token, self.keys.values()
        others = key.holder != token and key.is_held(self.now)
        lease = self.now + (SHORT if action in {"claim_shortly", *DYING} else LONG)
        match action:
            case "claim" | "claim_shortly" | "die" | "retry" | "die_in_retry":
                if key.entry is None if "retry" in action else key.done:
                    return Claim(DONE)
                if others:
                    return Claim(BUSY, holder=key.holder)
                if key.holder not in (None, token):
                    key.unended = (*key.unended, key.holder)[:MOST_UNENDED]
                key.holder, key.ends = token, lease
                return Claim(CLAIMED, unended=len(key.unended))
            case "complete":
                return key.complete(token, self.now)
            case "release":
                key.release(token)
                return 0
            case "fail":
                return key.fail(token)
            case "quarantine" | "give_up":
                if others or (key.holder != token and (key.done or key.waits)):
                    return False
                if key.waits and action == "give_up":
                    return False
                key.entry = of.failed(acknowledged=action == "quarantine")
                key.done, key.holder, key.waits = key.entry.acknowledged, None, None
                return True
            case "note":
                return key.note
            case "set_note":
                key.note = of.entry.quarantined_at.isoformat()
                return True
            case "set_first_note":
                if key.note is not None:
                    return False
                key.note = of.entry.quarantined_at.isoformat()
                return True
            case "known":
                return {name for name, each in self.keys.items() if each.done or each.entry or each.waits}
            case "quarantined":
                return _in_order_of_time(each.entry for each in every)
            case "store":
                if key.done or key.waits is not None:
                    return False
                key.waits, key.attempts, key.due, key.entry = of.entry, of.entry.failures, self.now, None
                return True
            case "claim_due" | "claim_fresh" | "die_of_due":
                due = [each for each in every if each.waits and each.due <= self.now and not each.is_held(self.now)]
                if action == "claim_fresh":
                    due = [each for each in due if each.waits and not each.waits.failures]
                for each in due:
                    each.holder, each.ends, each.attempts = token, lease, each.attempts + 1
                return [(each.waits, each.attempts) for each in due]
            case "claim_again":
                mine = [each for each in every if each.waits and each.holder == token]
                for each in mine:
                    each.ends = lease
                return [(each.waits, each.attempts) for each in mine]
            case "put_off" | "put_off_shortly" | "put_off_for_long":
                if key.waits is None or key.holder != token:
                    return False
                seconds = {"put_off_shortly": SHORT, "put_off_for_long": LATER}.get(action, 0.0)
                key.waits, key.attempts = of.entry, of.entry.failures
                key.due, key.holder = self.now + seconds, None
                return True
            case "waiting":
                waiting = [each.waits for each in every if each.waits]
                return len(waiting), sum(not each.failures for each in waiting)
            case "list_waiting":
                return _in_order_of_time(each.waits for each in every)
        return None


def _in_order_of_time(entries: Iterable[InboxEntry | None]) -> list[InboxEntry]:
    return sorted(filter(None, entries), key=lambda entry: (entry.quarantined_at, entry.key))
