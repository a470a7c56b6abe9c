"""The line of this program that helps with a problem: a table by the problem's code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from .._wire.hosts import show_place, show_url
from ._shell import PROGRAM

if TYPE_CHECKING:
    from ..models import Webhook
    from ..services.diagnosis import Diagnosis
    from ..services.problems import Problem

Words = tuple[str, ...]


@attrs.frozen
class Given:
    """What a command was given: the receiver (``service:receiver``) or the inbox, and the file of the secret.

    stored: the file in which the receiver itself keeps its secrets.
    posted: the words that name the target of the job that quarantined the oldest entry of that inbox.
    """

    receiver: str | None = None
    inbox: str | None = None
    secret_file: str | None = None
    stored: str | None = None
    posted: Words = ()

    @property
    def kept(self) -> Words:
        """The inbox, unless the receiver has its own."""
        return () if self.inbox is None or self.receiver is not None else ("--inbox", show_place(self.inbox))

    @property
    def read(self) -> Words:
        """Where to look what was handled."""
        return self.kept if self.receiver is None else ("--receiver", self.receiver)

    @property
    def secret(self) -> Words:
        """The file of the secret that the endpoint has."""
        return () if self.secret_file is None else ("--secret-file", self.secret_file)

    @property
    def store(self) -> Words:
        """Where to put a secret that an update may have made."""
        file = self.secret_file or self.stored
        return () if file is None else ("--secret-file", file)

    def target(self, webhook: Webhook) -> Words:
        """Who handles what was missed."""
        return ("--to", show_url(webhook.url), *self.secret) if self.receiver is None else self.read


def find_line(problem: Problem, found: Diagnosis, given: Given) -> Words:
    """Return the command that helps with a problem of a diagnosis, as words; no words if none helps."""
    line = status_line(problem, found.webhook, given.store)
    make = _LINES.get(problem.code)
    return line if line or make is None else make(problem, found, given)


def find_other_line(problem: Problem, found: Diagnosis, given: Given) -> Words:
    """Return the other command that may be right for a problem, which only a person knows; no words without one."""
    if problem.code != "joined-later" or not isinstance(problem.about, datetime):
        return ()
    return _recover(found, given, "--acknowledged", acknowledge_until(problem.about))


def status_line(problem: Problem, webhook: Webhook, store: Words = ()) -> Words:
    """Return the command that helps with a problem of a webhook's status, as words; no words for other problems.

    store: the words that name the file of the receiver's secrets, which keeps the former one beside a new one.
    """
    if problem.code == "disabled":
        return _line("webhooks reactivate", webhook.id, *store)
    return _line("webhooks wait", webhook.id) if problem.code == "pending" else ()


def _line(command: str, argument: str = "", *options: str) -> Words:
    if argument.startswith("-"):  # so that it is not read as an option
        return (PROGRAM, *command.split(), *options, "--", argument)
    return (PROGRAM, *command.split(), *((argument,) if argument else ()), *options)


def count_everything(found: Diagnosis) -> int:
    """Return how many messages a recovery of everything handles that Basiq delivered, or does not tell of."""
    return found.unrecorded + found.passed_over + found.before_joining + found.look.unknown


def _recover(found: Diagnosis, given: Given, *options: str) -> Words:
    count = count_everything(found) if "--everything" in options else found.unrecorded
    unrecorded = ("--unrecorded", str(count)) if count else ()
    return _line("recover", found.webhook.id, *given.target(found.webhook), *given.kept, *unrecorded, *options)


def _doctor(found: Diagnosis, given: Given, *options: str) -> Words:
    return _line("webhooks doctor", found.webhook.id, *given.read, *options)


def _test(problem: Problem, found: Diagnosis, given: Given) -> Words:
    return _doctor(found, given, "--test", *given.secret)


def _secret(problem: Problem, found: Diagnosis, given: Given) -> Words:
    """Return what gets the secret: to the receiver's own file, or else to the screen, for a person to put it there."""
    return _line("webhooks secret", found.webhook.id, *(given.store or ("--show",)))


def _refused(problem: Problem, found: Diagnosis, given: Given) -> Words:
    return _secret(problem, found, given) if problem.about == 401 else _test(problem, found, given)


def _unrecoverable(problem: Problem, found: Diagnosis, given: Given) -> Words:
    until = getattr(problem.about, "until", None)
    return _recover(found, given, *(() if until is None else ("--acknowledged", until.astimezone(UTC).isoformat())))


def acknowledge_reach(reach: datetime) -> str:
    """Return the moment to acknowledge where nothing tells of the time before ``reach``, which moves on with the clock.

    A person has a day to run the line: what happened since is in the event list, which the same run reads.
    """
    return (reach + timedelta(days=1)).astimezone(UTC).isoformat()


def acknowledge_until(last: datetime) -> str:
    """Return the moment to acknowledge what was delivered up to ``last``, and nothing later."""
    return (last.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)).isoformat()


def _unknown_activity(problem: Problem, found: Diagnosis, given: Given) -> Words:
    before = problem.about
    known = () if not isinstance(before, datetime) else ("--acknowledged", acknowledge_reach(before))
    return _recover(found, given, *known)


def _quarantined(problem: Problem, found: Diagnosis, given: Given) -> Words:
    if given.receiver is not None:
        return _line("quarantine retry", "", "--receiver", given.receiver)
    if given.posted and given.inbox is not None:
        return _line("quarantine retry", "", *given.posted, *given.kept, "--webhook", found.webhook.id, *given.secret)
    if given.inbox is not None:  # it may be the service's, whose receiver must be named to try again
        return _line("quarantine list", "", *given.kept, "--webhook", found.webhook.id)
    return _line("quarantine retry", "", *given.target(found.webhook), "--webhook", found.webhook.id)


def _waiting(problem: Problem, found: Diagnosis, given: Given) -> Words:
    if given.receiver is not None:
        return _line("work", "", "--receiver", given.receiver)
    return _line("inbox waiting", "", *given.kept, "--webhook", found.webhook.id) if given.kept else ()


def _failing(problem: Problem, found: Diagnosis, given: Given) -> Words:
    if given.receiver is not None:
        return _line("inbox waiting", "", "--receiver", given.receiver)
    return _waiting(problem, found, given)


def _subscribe(found: Diagnosis, types: Iterable[str]) -> Words:
    named = _events(types)
    return _line("webhooks update", found.webhook.id, *named) if named else _line("events types")


def _events(types: Iterable[str]) -> Words:
    return tuple(word for each in dict.fromkeys(types) for word in ("--event", each))


def _kept_types(found: Diagnosis) -> list[str]:
    return [each for each in found.webhook.subscribed_events if each not in found.types.retired]


def _unhandled(problem: Problem, found: Diagnosis, given: Given) -> Words:
    """Return what shows the deliveries, and not what unsubscribes: a deploy may have lost the handler."""
    if found.waiting.count and given.receiver is not None:
        return _line("inbox waiting", "", "--receiver", given.receiver)
    return _line("messages tail", found.webhook.id, *_events(found.types.unhandled))


def _unsubscribed(problem: Problem, found: Diagnosis, given: Given) -> Words:
    wanted = [each for each in found.types.unsubscribed if each not in found.types.unknown]
    return _subscribe(found, [*_kept_types(found), *wanted] if wanted else ())


_LINES: Mapping[str, Callable[[Problem, Diagnosis, Given], Words]] = {
    "forbidden": lambda problem, found, given: _line("whoami"),
    "not-joined": lambda problem, found, given: _line("inbox join", found.webhook.id, *given.read),
    "no-event-types": lambda problem, found, given: _line("events types"),
    "retired-event-types": lambda problem, found, given: _subscribe(found, _kept_types(found)),
    "unknown-event-types": lambda problem, found, given: _line("events types"),
    "unhandled-event-types": _unhandled,
    "unsubscribed-event-types": _unsubscribed,
    "failing": lambda problem, found, given: _line("messages tail", found.webhook.id, "--failed"),
    "refused": _refused,
    "endpoint-unreachable": _test,
    "endpoint-refuses": _test,
    "no-secret": _secret,
    "undelivered": lambda problem, found, given: _recover(found, given),
    "unknown": lambda problem, found, given: _recover(found, given, "--everything"),
    "never-sent": lambda problem, found, given: _recover(found, given),
    "unrecorded": lambda problem, found, given: _recover(found, given),
    "joined-later": lambda problem, found, given: _recover(found, given, "--everything"),
    "unreadable": lambda problem, found, given: _line("messages list", found.webhook.id),
    "partial": lambda problem, found, given: _doctor(found, given, "--limit", "0"),
    "quarantined": _quarantined,
    "waiting": _waiting,
    "deferred-failing": _failing,
    "unrecoverable": _unrecoverable,
    "unknown-activity": _unknown_activity,
}
