"""Broken inboxes: a table of what each does in place of a call, and one of the promises that find it."""

from __future__ import annotations

import asyncio
import inspect
import math
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from basiq_async import InboxError
from basiq_async.receiver import MemoryInbox
from basiq_async.receiver.protocol import Claim, ClaimStatus
from basiq_async.testing import BrokenPromisesError, ManualClock, check_inbox
from basiq_async.testing.conformance import _inbox as suite  # private: which promise finds which fault

CLAIMED, BUSY, DONE = ClaimStatus.CLAIMED, ClaimStatus.BUSY, ClaimStatus.DONE
Of = SimpleNamespace
"""The arguments of a call, by their names."""
Call = Callable[..., Awaitable[Any]]
Change = Callable[[Any, Call, Of], Any]
"""What an inbox does in place of a call: it gets the inbox, the call that is right, and its arguments."""


def make_broken(name: str, clock: ManualClock) -> MemoryInbox:
    """Make an inbox with the fault of this name."""
    inbox = MemoryInbox(clock=clock, **OPTIONS.get(name, {}))
    for call, change in FAULTS[name].items():
        setattr(inbox, call, _changed(inbox, getattr(inbox, call), change))
    return inbox


def _changed(inbox: MemoryInbox, call: Call, change: Change) -> Callable[..., Any]:
    signature = inspect.signature(call)

    def changed(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return change(inbox, call, Of(**bound.arguments))

    return changed


def found_by(promise: str) -> list[str]:
    """Return the faults that the suite must find by a promise alone."""
    return FOUND_BY.get(promise, "nothing").split("; ")


def check(name: str, *, leases: bool = True) -> dict[str, str]:
    """Return what the suite says of the promises that must find this fault, on the inbox's own clock."""
    clock, checks = ManualClock(), suite.CHECKS.items()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "CHECKS", {each: of for each, of in checks if name in found_by(of[1].__qualname__)})
        try:
            asyncio.run(check_inbox(lambda: make_broken(name, clock), clock=clock, leases=leases))
        except BrokenPromisesError as error:
            return error.broken
    return {}


# --- ways to change a call ---


def fault(
    *,
    before: Callable[[Any, Of], object] = lambda *_: None,
    answer: object = ...,
    keep: str = "",
    when: Callable[[Any, Of], bool] = lambda *_: True,
    then: Callable[[Any, Of, Any], object] = lambda *_: None,
    after: Callable[[Any, Of, Any], Any] | None = None,
    **edits: Callable[[Any, Of], Any],
) -> Change:
    """Change a call.

    before, then: what is done before and after it.
    answer, keep: what it returns or raises without being made, and the record that it leaves as it was, where ``when``.
    edits: for each argument, what is given in its place.
    after: makes another result.
    """

    async def change(inbox: Any, call: Call, of: Of) -> Any:
        before(inbox, of)
        here = when(inbox, of)
        if isinstance(answer, Exception):
            raise answer
        if here and answer is not ...:
            return answer
        kept = dict(getattr(inbox, keep)) if here and keep else None
        result = await call(**{**vars(of), **{name: edit(inbox, of) for name, edit in edits.items()}})
        if kept is not None:
            setattr(inbox, keep, kept)
        then(inbox, of, result)
        return result if after is None else after(inbox, of, result)

    return change


# --- faults that no way above makes ---


async def claim_after_a_look(inbox: Any, call: Call, of: Of) -> Claim:
    free = not inbox._claims
    await asyncio.sleep(0)
    if free:
        inbox._claims.clear()
    return await call(**vars(of))


async def remember_for_the_lease(inbox: Any, call: Call, of: Of) -> bool:
    """As ``SET key done KEEPTTL`` does in Redis."""
    held = inbox._claims.get(of.key)
    recorded = await call(**vars(of))
    if recorded and held is not None:
        inbox.ended = {**getattr(inbox, "ended", {}), of.key: held.ends}
    return recorded


def know_for_the_lease(inbox: Any, call: Call, of: Of) -> bool:
    ends = getattr(inbox, "ended", {}).get(of.key, math.inf)
    return bool(call(**vars(of))) and ends > inbox._lease_clock()


async def store_after_a_look(inbox: Any, call: Call, of: Of) -> bool:
    if await inbox.known([of.entry.key]):
        return False
    await asyncio.sleep(0)
    inbox._waiting.pop(of.entry.key, None)
    return await call(**vars(of))


async def believe_any_time(inbox: Any, call: Call, of: Of) -> Any:
    every = inbox._waiting
    now = inbox._retention.read()[0] if of.now is None else of.now.timestamp()
    inbox._waiting = {key: wait for key, wait in every.items() if wait.due <= now}
    try:
        return await call(**vars(of))
    finally:
        inbox._waiting = every


async def count_again(inbox: Any, call: Call, of: Of) -> Any:
    if not of.limit:
        for key, wait in inbox._waiting.items():
            wait.attempts += key in inbox._claims and inbox._claims[key].token == of.token
    return await call(**vars(of))


def record_and_forget_what_waits(inbox: Any, call: Call, of: Of) -> None:
    call(**vars(of))
    now, _ = inbox._retention.read()
    inbox._waiting = {key: wait for key, wait in inbox._waiting.items() if wait.stored + inbox._remember > now}


def forget_after(seconds: float) -> Change:
    def is_done(inbox: Any, call: Call, of: Of) -> bool:
        handled = inbox._done.get(of.key, math.inf)
        return bool(call(**vars(of))) and handled + seconds > by_the_clock(inbox).timestamp()

    return is_done


def by_the_clock(inbox: Any) -> datetime:
    return datetime.fromtimestamp(inbox._retention.read()[0], UTC)


def is_unacknowledged(inbox: Any, of: Of) -> bool:
    entry = inbox._quarantined.get(of.key)
    return entry is not None and not entry.acknowledged


def is_quarantined(inbox: Any, of: Of) -> bool:
    return not of.quarantined and of.key in inbox._quarantined


def take_out(inbox: Any, of: Of, claim: Claim) -> None:
    if claim.status is CLAIMED and not of.quarantined:
        inbox._quarantined.pop(of.key, None)


def is_gone(of: Of, kept: Any) -> bool:
    return of.after is not None and of.after.key not in kept


def is_held(inbox: Any, of: Of) -> bool:
    return of.key in inbox._claims


def is_own(inbox: Any, of: Of) -> bool:
    return is_held(inbox, of) and inbox._claims[of.key].token == of.token


def is_too_late(inbox: Any, of: Of) -> bool:
    return not any(held.token == of.token and held.ends > inbox._lease_clock() for held in inbox._claims.values())


def free_all(inbox: Any, of: Of) -> None:
    inbox._claims.clear()


def free(inbox: Any, of: Of, result: object = None) -> None:
    inbox._claims.pop(of.key, None)


def holds_delivery(inbox: Any, of: Of) -> bool:
    return of.entry.key in inbox._claims


def waits(inbox: Any, of: Of) -> bool:
    return of.entry.key in inbox._waiting


def uncount(inbox: Any, found: Any) -> None:
    for each in found:
        inbox._waiting[each.entry.key].attempts -= 1


async def keep_attempts(inbox: Any, call: Call, of: Of) -> bool:
    before = inbox._waiting[of.entry.key].attempts if waits(inbox, of) else 0
    done = await call(**vars(of))
    if done:
        inbox._waiting[of.entry.key].attempts = before
    return done


def stop_waiting(inbox: Any, of: Of) -> None:
    inbox._waiting.pop(of.key, None)


def delay(wait: Any) -> None:
    wait.due += 1


def keep_the_size(inbox: Any, of: Of, found: Any) -> Any:
    inbox.size = max(getattr(inbox, "size", 0), found.size)
    return attrs.evolve(found, size=inbox.size)


# --- the table ---

OPTIONS: dict[str, dict[str, Any]] = {
    "forgets by the clock alone": {"remember": timedelta(days=30)},
    "forgets the oldest of a few": {"max_entries": 50},
}
FAULTS: dict[str, dict[str, Change]] = {
    "hangs": {"claim": fault(answer=TimeoutError())},
    "is never ready": {"check": fault(answer=InboxError("away"))},
    # claim
    "busy is never returned": {
        "claim": fault(after=lambda _, of, claim: Claim(CLAIMED) if claim.status is BUSY else claim)
    },
    "no retry_after": {"claim": fault(after=lambda _, of, claim: Claim(claim.status))},
    "ignores case": {"claim": fault(key=lambda _, of: of.key.lower())},
    "locks itself out": {"claim": fault(token=lambda _, of: of.token + uuid.uuid4().hex)},
    "keeps the first lease": {"claim": fault(keep="_claims", when=is_own)},
    "endless lease": {"claim": fault(lease=lambda _, of: 1e9)},
    "not atomic": {"claim": claim_after_a_look},
    "counts no attempt without an end": {"claim": fault(after=lambda _, of, claim: attrs.evolve(claim, unended=0))},
    "a release forgives attempts without an end": {
        "release": fault(then=lambda inbox, of, _: inbox._unended.pop(of.key, None)),
    },
    "a late release changes nothing": {"release": fault(answer=0, when=is_too_late)},
    "a late release leaves the attempt without an end": {"release": fault(keep="_unended", when=is_too_late)},
    "what a job quarantined is done": {"claim": fault(answer=Claim(DONE), when=is_quarantined)},
    "an attempt takes out what a job quarantined": {"claim": fault(then=take_out)},
    "cuts keys": {
        "claim": fault(key=lambda _, of: of.key[:255]),
        "complete": fault(key=lambda _, of: of.key[:255]),
    },
    # complete
    "completes in lower case": {"complete": fault(key=lambda _, of: of.key.lower())},
    "forgets": {"complete": fault(before=lambda inbox, of: is_own(inbox, of) and free(inbox, of), answer=True)},
    "forgets with the lease": {"complete": remember_for_the_lease, "_is_done": know_for_the_lease},
    "completes twice": {"complete": fault(after=lambda *_: True)},
    "completes for anybody": {"complete": fault(before=free_all)},
    "too late is too late": {"complete": fault(answer=False, when=is_too_late)},
    "a late worker leaves the quarantine": {"complete": fault(keep="_quarantined", when=is_unacknowledged)},
    "anybody completes what waits": {"complete": fault(before=stop_waiting)},
    "handled but waits": {"complete": fault(keep="_waiting")},
    # known, notes
    "knows the first of many": {"known": fault(keys=lambda _, of: of.keys[:500])},
    "knows all of very many": {"known": fault(after=lambda _, of, found: of.keys if len(of.keys) > 1_000 else found)},
    "sees claims": {"known": fault(after=lambda inbox, of, found: inbox._claims.keys() & set(of.keys) or found)},
    "knows not what a job quarantined": {
        "known": fault(after=lambda inbox, of, found: {key for key in found if inbox._is_done(key)}),
    },
    "knows not what waits": {"known": fault(after=lambda inbox, of, found: set(found) - inbox._waiting.keys())},
    "knows nothing of time zones": {"known_since": fault(after=lambda inbox, of, since: since.replace(tzinfo=None))},
    "knows since it began though it forgets": {
        "known_since": fault(after=lambda inbox, *_: datetime.fromtimestamp(inbox._known_since, UTC)),
    },
    "knows since now": {
        "known_since": fault(after=lambda inbox, *_: datetime.fromtimestamp(inbox._retention.read()[0], UTC)),
    },
    "knows since ever": {"known_since": fault(after=lambda *_: datetime.fromtimestamp(0, UTC))},
    "knew before it began": {"known_since": fault(after=lambda inbox, of, since: since - timedelta(days=365))},
    "notes are short": {"set_note": fault(text=lambda _, of: of.text[:65_535])},
    "notes begin empty": {"note": fault(after=lambda _, of, text: text or "")},
    "notes stay": {"set_note": fault(text=lambda inbox, of: inbox._notes.get(of.name, of.text))},
    "notes are not compared": {"set_note": fault(expected=lambda *_: ...)},
    "notes are never replaced": {"set_note": fault(answer=False, when=lambda _, of: isinstance(of.expected, str))},
    "notes are compared and stored anyway": {
        "set_note": fault(then=lambda inbox, of, stored: stored or inbox._notes.update({of.name: of.text})),
    },
    "forgets after a day": {"_is_done": forget_after(86_400)},
    "forgets by the clock alone": {"_is_done": forget_after(30 * 86_400)},
    "knows since by the clock alone": {
        "known_since": fault(after=lambda inbox, of, since: max(since, by_the_clock(inbox) - timedelta(days=30))),
    },
    "forgets the oldest of a few": {},
    # release
    "never releases": {"release": fault(answer=0, when=lambda _, of: not of.failed)},
    "releases anybody's": {"release": fault(before=lambda inbox, of: of.failed or free_all(inbox, of))},
    "release undoes": {"release": fault(then=lambda inbox, of, _: of.failed or inbox._done.clear())},
    "a release ends the wait": {"release": fault(before=lambda inbox, of: of.failed or stop_waiting(inbox, of))},
    "each release counts": {"release": fault(failed=lambda *_: True)},
    "never counts": {"release": fault(after=lambda _, of, n: 1 if of.failed else n)},
    "keeps the failed claim": {
        "release": fault(keep="_claims", when=lambda inbox, of: of.failed and is_held(inbox, of))
    },
    "a late failure frees the successor": {"release": fault(then=lambda inbox, of, _: of.failed and free(inbox, of))},
    "a failed attempt counts the job's failures": {
        "release": fault(
            after=lambda inbox, of, n: (
                n + inbox._quarantined[of.key].failures if of.failed and is_unacknowledged(inbox, of) else n
            )
        ),
    },
    "a failed retry loses the delivery": {
        "release": fault(then=lambda inbox, of, _: of.failed and inbox._quarantined.pop(of.key, None)),
    },
    "a failure ends the wait": {"release": fault(before=lambda inbox, of: of.failed and stop_waiting(inbox, of))},
    # the quarantine
    "quarantine is forgotten": {"quarantine": fault(then=lambda inbox, *_: inbox._quarantined.clear())},
    "quarantine is open": {"claim": fault(answer=Claim(CLAIMED), when=is_quarantined)},
    "anybody quarantines": {
        "quarantine": fault(answer=True, when=lambda inbox, of: inbox._quarantined.update({of.key: of.entry}) is None),
    },
    "what a job quarantined stays": {"quarantine": fault(answer=False, when=is_unacknowledged)},
    "bodies are text": {
        "quarantine": fault(
            entry=lambda _, of: attrs.evolve(of.entry, body=of.entry.body.decode(errors="ignore").encode())
        ),
    },
    "quarantined but waits": {"quarantine": fault(keep="_waiting")},
    "a job quarantines what waits": {
        "quarantine": fault(before=lambda inbox, of: of.entry.acknowledged or stop_waiting(inbox, of)),
    },
    "retries twice": {"claim": fault(before=lambda inbox, of: of.quarantined and free(inbox, of))},
    "retries during an attempt": {
        "claim": fault(before=lambda inbox, of: of.quarantined and is_unacknowledged(inbox, of) and free(inbox, of)),
    },
    "a retry removes the delivery": {
        "claim": fault(
            then=lambda inbox, of, claim: of.quarantined and claim.status is CLAIMED and inbox._quarantined.pop(of.key)
        ),
    },
    "a completed retry leaves the delivery": {"complete": fault(keep="_quarantined")},
    "a retry claims what waits": {
        "claim": fault(answer=Claim(CLAIMED), when=lambda inbox, of: of.quarantined and of.key in inbox._waiting),
    },
    "pages from the start": {"entries": fault(answer=[], when=lambda _, of: not of.waiting and of.after is not None)},
    "pages from what is still there": {
        "entries": fault(answer=[], when=lambda inbox, of: is_gone(of, inbox._quarantined) and not of.waiting),
    },
    "no limit": {"entries": fault(limit=lambda _, of: of.limit if of.waiting else 1000)},
    "the quarantine has what waits": {
        "entries": fault(
            after=lambda inbox, of, found: (
                found if of.waiting or of.after else [*found, *(wait.entry for wait in inbox._waiting.values())]
            )
        ),
    },
    # what waits
    "stores twice": {"store": fault(after=lambda *_: True)},
    "looks before it stores": {"store": store_after_a_look},
    "stores what was handled": {"store": fault(before=lambda inbox, of: inbox._done.pop(of.entry.key, None))},
    "stores what failed as new": {
        "store": fault(then=lambda inbox, of, stored: stored and setattr(inbox._waiting[of.entry.key], "attempts", 0)),
    },
    "does not store what a job quarantined": {
        "store": fault(answer=False, when=lambda inbox, of: of.entry.key in inbox._quarantined),
    },
    "does not store what is claimed": {
        "store": fault(answer=False, when=lambda inbox, of: of.entry.key in inbox._claims)
    },
    "storing ends the claim": {"store": fault(before=lambda inbox, of: inbox._claims.pop(of.entry.key, None))},
    "stores for later": {
        "store": fault(then=lambda inbox, of, stored: stored and delay(inbox._waiting[of.entry.key])),
    },
    "loses the first failure": {"store": fault(entry=lambda _, of: attrs.evolve(of.entry, failing_since=None))},
    "what waits is handled": {"claim": fault(answer=Claim(DONE), when=lambda inbox, of: of.key in inbox._waiting)},
    "the newest is due first": {"claim_due": fault(after=lambda inbox, of, found: found[::-1])},
    "claims all that is due": {"claim_due": fault(limit=lambda _, of: 1000)},
    "a lost claim is lost": {"claim_due": fault(answer=[], when=lambda _, of: not of.limit)},
    "a lost claim counts twice": {"claim_due": count_again},
    "claims what is left out": {"claim_due": fault(without=lambda *_: ())},
    "due for two": {"claim_due": fault(before=free_all)},
    "claims nothing that is due": {"claim_due": fault(keep="_claims")},
    "the claim of what is due never ends": {"claim_due": fault(lease=lambda _, of: 1e9)},
    "a dead claim takes the delivery away": {
        "claim_due": fault(then=lambda inbox, of, found: [inbox._waiting.pop(each.entry.key) for each in found]),
    },
    "an attempt counts when it ends": {"claim_due": fault(then=lambda inbox, of, found: uncount(inbox, found))},
    "claims what failed in any case": {"claim_due": fault(retries=lambda _, of: of.limit)},
    "waits as long as a wrong clock says": {"claim_due": believe_any_time},
    "claims at the inbox's time": {"claim_due": fault(now=lambda *_: None)},
    "puts off at the inbox's time": {"put_off": fault(now=lambda *_: None)},
    "put off keeps the attempts": {"put_off": keep_attempts},
    "the first failure was now": {
        "waiting": fault(after=lambda _, of, found: attrs.evolve(found, failing_age=found.failing_age and 0.0)),
    },
    "puts off for no time": {"put_off": fault(seconds=lambda _, of: 0)},
    "puts off for ever": {"put_off": fault(seconds=lambda _, of: of.seconds + 1e3)},
    "puts off without the failure": {
        "put_off": fault(entry=lambda inbox, of: inbox._waiting[of.entry.key].entry if waits(inbox, of) else of.entry),
    },
    "puts off and keeps the claim": {"put_off": fault(keep="_claims", when=holds_delivery)},
    "puts off what does not wait": {"put_off": fault(after=lambda *_: True)},
    "anybody puts off": {
        "put_off": fault(
            token=lambda inbox, of: inbox._claims[of.entry.key].token if holds_delivery(inbox, of) else of.token
        ),
    },
    "putting off ends any claim": {
        "put_off": fault(
            then=lambda inbox, of, _: (
                holds_delivery(inbox, of)
                and inbox._claims[of.entry.key].token == of.token
                and inbox._claims.pop(of.entry.key)
            )
        ),
    },
    "all is fresh": {"waiting": fault(after=lambda inbox, of, found: attrs.evolve(found, fresh=found.count))},
    "the size stays": {"waiting": fault(after=keep_the_size)},
    "the age is of the newest": {
        "waiting": fault(after=lambda _, of, found: attrs.evolve(found, age=None if found.age is None else 0.0)),
    },
    "lists from the start": {"entries": fault(answer=[], when=lambda _, of: of.waiting and of.after is not None)},
    "lists from what still waits": {
        "entries": fault(answer=[], when=lambda inbox, of: is_gone(of, inbox._waiting) and of.waiting),
    },
    "lists in the order of keys": {
        "entries": fault(
            after=lambda inbox, of, found: sorted(found, key=lambda entry: entry.key) if of.waiting else found
        ),
    },
    "forgets what waits for long": {"_record": record_and_forget_what_waits},
}
FOUND_BY: dict[str, str] = {
    "InboxPromises.check_the_storage": "hangs; is never ready",
    "InboxPromises.claim_what_is_free": "busy is never returned; no retry_after; endless lease",
    "InboxPromises.claim_again": "keeps the first lease",
    "InboxPromises.stay_completed": "locks itself out; forgets; completes twice",
    "InboxPromises.release": "never releases; releases anybody's",
    "InboxPromises.obey_the_holder_alone": "releases anybody's; completes for anybody",
    "InboxPromises.stay_completed_when_released": "release undoes",
    "InboxPromises.take_over": "endless lease; releases anybody's; completes for anybody",
    "InboxPromises.count_attempts_without_an_end": (
        "counts no attempt without an end; a release forgives attempts without an end; never releases"
    ),
    "InboxPromises.take_an_attempt_back": (
        "a late release changes nothing; a late release leaves the attempt without an end; counts no attempt without "
        "an end"
    ),
    "InboxPromises.complete_late": "forgets with the lease; too late is too late",
    "InboxPromises.know": "knows not what a job quarantined; sees claims",
    "InboxPromises.count_failures": "each release counts; never counts; keeps the failed claim",
    "InboxPromises.count_late_failures": "a late failure frees the successor",
    "InboxPromises.quarantine": "quarantine is forgotten; quarantine is open; a failed retry loses the delivery",
    "InboxPromises.quarantine_for_the_holder": "anybody quarantines",
    "InboxPromises.retry": "a completed retry leaves the delivery; retries twice",
    "InboxPromises.keep_after_a_failed_retry": "keeps the failed claim; a failed retry loses the delivery",
    "InboxPromises.keep_after_an_expired_retry": (
        "quarantine is forgotten; quarantine is open; a retry removes the delivery"
    ),
    "InboxPromises.claim_what_was_quarantined": (
        "an attempt takes out what a job quarantined; a failed attempt counts the job's failures"
    ),
    "InboxPromises.claim_or_retry": "retries during an attempt",
    "InboxPromises.replace_what_was_quarantined": "what a job quarantined is done; what a job quarantined stays",
    "InboxPromises.complete_what_was_quarantined": (
        "a late worker leaves the quarantine; a completed retry leaves the delivery"
    ),
    "InboxPromises.survive_a_cancellation": (
        "never releases; quarantine is forgotten; a retry removes the delivery; notes are not compared"
    ),
    "InboxPromises.walk": "notes begin empty",
    "InboxPromises.keep_apart": "ignores case; cuts keys; completes in lower case",
    "InboxPromises.race": "not atomic",
    "InboxPromises.hold_on": "busy is never returned",
    "InboxPromises.know_many": "knows the first of many; knows all of very many",
    "InboxPromises.keep_notes": "notes are short; notes stay",
    "InboxPromises.compare_notes": (
        "notes are not compared; notes are never replaced; notes are compared and stored anyway"
    ),
    "InboxPromises.list_in_order": "bodies are text; pages from the start; pages from what is still there; no limit",
    "InboxPromises.remember": (
        "knows since it began though it forgets; forgets after a day; forgets the oldest of a few"
    ),
    "InboxPromises.outlive_a_wrong_clock": "forgets by the clock alone; knows since by the clock alone",
    "WaitingPromises.store_what_is_open": (
        "stores what was handled; the quarantine has what waits; stores what failed as new; does not store what a job "
        "quarantined; all is fresh"
    ),
    "WaitingPromises.put_off": (
        "stores for later; puts off for no time; puts off for ever; puts off without the failure; puts off and keeps "
        "the claim; put off keeps the attempts"
    ),
    "WaitingPromises.hold_what_waits": "due for two; anybody puts off; anybody completes what waits",
    "WaitingPromises.put_off_what_waits_alone": "sees claims; puts off what does not wait",
    "WaitingPromises.leave_the_lease": "putting off ends any claim",
    "WaitingPromises.end_the_wait": (
        "handled but waits; a release ends the wait; a failure ends the wait; quarantined but waits; a retry claims "
        "what waits"
    ),
    "WaitingPromises.stop_waiting_when_quarantined": "stores what was handled",
    "WaitingPromises.wait_until_it_was_claimed": "anybody completes what waits; a job quarantines what waits",
    "WaitingPromises.count_attempts": "an attempt counts when it ends; put off keeps the attempts",
    "WaitingPromises.claim_again": "a lost claim is lost; a lost claim counts twice",
    "WaitingPromises.hold_back_what_failed": (
        "stores for later; claims all that is due; due for two; claims nothing that is due; claims what failed in any "
        "case; puts off for ever; puts off without the failure; puts off and keeps the claim"
    ),
    "WaitingPromises.go_by_the_given_time": (
        "claims at the inbox's time; puts off at the inbox's time; the first failure was now"
    ),
    "WaitingPromises.mistrust_a_clock": "waits as long as a wrong clock says; claims what failed in any case",
    "WaitingPromises.store_what_is_claimed": "does not store what is claimed; storing ends the claim",
    "WaitingPromises.be_due_after_a_death": (
        "the claim of what is due never ends; an attempt counts when it ends; anybody puts off"
    ),
    "WaitingPromises.survive_a_cancelled_call": "a release ends the wait",
    "WaitingPromises.store_once": "stores twice; looks before it stores; what waits is handled",
    "WaitingPromises.claim_in_turn": "the newest is due first; puts off for no time",
    "WaitingPromises.leave_types_out": "claims what is left out",
    "WaitingPromises.measure": "completes for anybody; handled but waits; the size stays; the age is of the newest",
    "WaitingPromises.list_in_order": (
        "loses the first failure; lists from the start; lists from what still waits; lists in the order of keys"
    ),
    "WaitingPromises.keep_for_long": (
        "knows not what a job quarantined; knows not what waits; a dead claim takes the delivery away; forgets what "
        "waits for long"
    ),
    "known_since_opened": "knows nothing of time zones; knows since now; knows since ever; knew before it began",
}
"""For each promise, faults that the suite must find by it, with a semicolon between two."""
