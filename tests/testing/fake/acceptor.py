"""An acceptor of the rules in ``docs/the-fake.md``. It shares no code with the fake, and looks at public reports alone.

It is told what a test does and which attempts were made, in this order, and says which attempt no rule allows, and
which one is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import attrs

from basiq_async.testing import DeliveredAttempt

WAITS = [5, 300, 1800, 7200, 18000, 36000, 36000]
HOUR = timedelta(hours=1)


def _end_of(made: DeliveredAttempt) -> datetime:
    return made.at + timedelta(seconds=made.duration)


@attrs.define
class State:
    """A value that changes. At the moment of a change, it may be seen before and after it."""

    changes: list[tuple[datetime, object]]

    def set(self, at: datetime, value: object) -> None:
        self.changes.append((at, value))

    def now(self) -> object:
        return self.changes[-1][1]

    def at(self, moment: datetime) -> list[object]:
        before = [value for at, value in self.changes if at < moment]
        return [*before[-1:], *(value for at, value in self.changes if at == moment)]


@attrs.define
class Hook:
    types: State
    disabled: State
    failing: datetime | None = None
    renewed: list[datetime] = attrs.field(factory=list[datetime])


@attrs.define
class Sent:
    """One message of one webhook.

    window: the earliest and latest time of its next scheduled attempt; None if none is to come.
    """

    type_id: str
    window: tuple[datetime, datetime] | None
    number: int = 1
    succeeded: bool = False
    resent: bool = False
    to_resend: list[datetime] = attrs.field(factory=list[datetime])


@attrs.define
class Acceptor:
    rules: Mapping[str, object]
    hooks: dict[str, Hook] = attrs.field(factory=dict[str, Hook])
    messages: dict[tuple[str, str], Sent] = attrs.field(factory=dict[tuple[str, str], Sent])

    # --- what the test does ---

    def add(self, at: datetime, webhook_id: str, types: frozenset[str]) -> None:
        self.hooks[webhook_id] = Hook(State([(at, types)]), State([(at, False)]))

    def emit(self, at: datetime, type_id: str, ids: Mapping[str, str]) -> None:
        expected = {id for id, hook in self.hooks.items() if type_id in hook.types.now() and not hook.disabled.now()}  # type: ignore[operator]  # a set of types
        assert set(ids) == expected, "an event has a message for each active webhook that is subscribed to it"
        assert len(set(ids.values())) == (1 if self.rules["webhook_ids"] == "shared" and ids else len(ids))
        for webhook_id, id in ids.items():
            self.messages[webhook_id, id] = Sent(type_id, (at, at))

    def update(self, at: datetime, webhook_id: str, types: frozenset[str], *, renewed: bool) -> None:
        hook = self.hooks[webhook_id]
        hook.types.set(at, types)
        if self.rules["update"] != "patches":
            hook.disabled.set(at, False)
        if renewed:
            hook.renewed.append(at)

    def resend(self, at: datetime, webhook_id: str, message_id: str, *, planned: bool) -> None:
        hook, sent = self.hooks[webhook_id], self.messages[webhook_id, message_id]
        ends = self.rules["resend"] == "instead"
        assert planned == (not (ends and hook.disabled.now())), "a disabled webhook may get no resend"
        if planned:
            sent.to_resend.append(at)
            sent.resent = sent.resent or ends
            if ends:
                sent.window = None

    # --- what was made ---

    def attempt(self, made: DeliveredAttempt, *, timed_out: bool, retry_after: float) -> None:
        hook, sent = self.hooks[made.webhook_id], self.messages[made.webhook_id, made.message_id]
        ok = made.status is not None and made.status // 100 == 2
        self._check_try(hook, made)
        if ok:
            hook.failing, sent.succeeded = None, True
        if made.at in sent.to_resend:
            sent.to_resend.remove(made.at)
            return
        assert sent.window is not None, "no attempt was to come"
        assert sent.window[0] <= made.at <= sent.window[1], f"{made.at} is not in {sent.window}"
        assert False in hook.disabled.at(made.at), "a disabled webhook gets no attempt"
        if sent.number > 1 and self.rules["unsubscribed"] == "dropped":
            assert any(sent.type_id in types for types in hook.types.at(made.at)), "its retries ended"  # type: ignore[operator]  # a set of types
        sent.window = None
        if ok or sent.resent:
            return
        if sent.number < 8:
            sent.window = self._window(sent.number, made, timed_out=timed_out, retry_after=retry_after)
            sent.number += 1
        else:
            self._exhaust(made, hook)

    def _check_try(self, hook: Hook, made: DeliveredAttempt) -> None:
        keeps = self.rules["former_key"] == "signs-24h"
        certain = [at for at in hook.renewed if keeps and at < made.at < at + 24 * HOUR]
        perhaps = [at for at in hook.renewed if keeps and at == made.at]
        low, high = (1 + min(each, 10) for each in (len(certain), len(certain) + len(perhaps)))
        assert low <= len(made.headers["webhook-signature"].split()) <= high, "a former secret signs for 24 hours"

    def _window(
        self, number: int, made: DeliveredAttempt, *, timed_out: bool, retry_after: float
    ) -> tuple[datetime, datetime]:
        wait = float(WAITS[number - 1])
        if timed_out and self.rules["after_timeout"] == "60s":
            wait = max(wait, 60.0)
        jittered = self.rules["waits"] == "jittered"
        low, high = (0.8 * wait, 1.2 * wait) if jittered else (wait, wait)
        if self.rules["retry_after"] == "obeyed":
            low, high = (max(each, min(retry_after, 2 * each)) for each in (low, high))
        ended, slack = _end_of(made), timedelta(microseconds=1)
        begin = ended if jittered else made.at
        due = begin + timedelta(seconds=low) - slack, begin + timedelta(seconds=high) + slack
        return max(due[0], ended), max(due[1], ended)  # not before the attempt before has ended

    def _exhaust(self, made: DeliveredAttempt, hook: Hook) -> None:
        at, rule = _end_of(made), self.rules["disables"]
        if rule != "failing-120h":
            hook.disabled.set(at, "removed" if rule == "removed" else True)
        elif hook.failing is None or at - hook.failing >= 240 * HOUR:
            hook.failing = at
        elif at - hook.failing >= 120 * HOUR:
            hook.disabled.set(at, True)

    # --- at the end ---

    def finish(self, now: datetime) -> None:
        """Say which attempt is missing."""
        for (webhook_id, _), sent in self.messages.items():
            hook = self.hooks[webhook_id]
            assert not sent.to_resend, "a resend was not made"
            if sent.window is None or sent.window[1] >= now:
                continue
            low, high = sent.window
            moments = [
                low,
                *(at for state in (hook.disabled, hook.types) for at, _ in state.changes if low <= at <= high),
            ]
            refused = any(True in hook.disabled.at(each) or "removed" in hook.disabled.at(each) for each in moments)
            dropped = self.rules["unsubscribed"] == "dropped" and sent.number > 1
            refused |= dropped and any(
                sent.type_id not in types  # type: ignore[operator]  # a set of types
                for each in moments
                for types in hook.types.at(each)
            )
            assert refused, f"attempt {sent.number} was due by {high}, and was not made"
            sent.window = None

    def outcome(self, webhook_id: str, message_id: str, now: datetime) -> str | None:
        """Return the outcome of a message; None if its next attempt may be over, because the webhook refused it."""
        sent = self.messages[webhook_id, message_id]
        if sent.succeeded:
            return "Success"
        return "Failed" if sent.window is None else "Pending" if sent.window[0] > now else None
