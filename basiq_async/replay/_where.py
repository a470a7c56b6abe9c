"""Select the messages to replay after they are read: predicates that can be combined."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

import attrs

from .._arguments import check_event_type_ids, check_whole, warn_of_unknown_types
from .._callables import accepts, is_async
from .._wire.order import item_time
from ..errors import ConfigurationError
from ..models import Message
from ..services.details import RememberedMessage, tells_attempts
from ._sources import UnreadableMessage

Predicate = Callable[[Message], bool | None]
"""Says whether a message is selected; None if the message does not tell."""
SUBMITTED: ContextVar[datetime | None] = ContextVar("submitted", default=None)
"""The moment from which a ``timedelta`` counts, where processes share a job; None where it counts from now."""


@attrs.frozen
class Where:
    """A predicate to combine with ``&``, ``|`` and ``~``: ``since(timedelta(days=2)) & ~event_types("user.*")``.

    It returns None for a message that does not tell, such as whether it was delivered. A run does not hand such a
    message out, counts it as ``unknown``, and is not finished.

    ``limit`` is the maximum number of messages for one run, None for all. ``description`` is the selection in words; a
    limit is not part of it. What is ``_steady`` will never select a message that it does not select now, so that the
    next run need not look at it again. A function has no description, and is not steady.
    """

    _predicate: Predicate = attrs.field(repr=False)
    limit: int | None = None
    description: str = attrs.field(default="", kw_only=True)
    _steady: bool = attrs.field(default=False, kw_only=True, alias="steady")
    _early: Predicate | None = attrs.field(default=None, kw_only=True, alias="early", repr=False)
    """The same predicate for a message whose attempts the list does not tell, and that was not read by its id yet."""

    def __call__(self, message: Message) -> bool | None:
        return self._predicate(message)

    def __and__(self, other: Where | Predicate) -> Where:
        if not callable(other):
            return NotImplemented
        right = as_where(other)
        limits = [each for each in (self.limit, right.limit) if each is not None]
        most = min(limits, default=None)
        if self._predicate is everything or right._predicate is everything:
            chosen = right if self._predicate is everything else self
            return attrs.evolve(chosen, limit=most)
        return Where(
            _all(self._predicate, right._predicate),
            most,
            early=_all(self._judges, right._judges),
            description=f"{self.description} & {right.description}",
            steady=self._steady and right._steady,
        )

    __rand__ = __and__

    def __or__(self, other: Where | Predicate) -> Where:
        if not callable(other):
            return NotImplemented
        right = as_where(other)
        return Where(
            _any(self._unlimited("|"), right._unlimited("|")),
            early=_any(self._judges, right._judges),
            description=f"({self.description or 'all'} | {right.description or 'all'})",
        )

    __ror__ = __or__

    def __invert__(self) -> Where:
        inner, early = self._unlimited("~"), self._judges
        return Where(
            lambda message: _not(inner(message)),
            description=f"~({self.description or 'all'})",
            early=lambda message: _not(early(message)),
        )

    @property
    def _judges(self) -> Predicate:
        return self._predicate if self._early is None else self._early

    def _unlimited(self, operator: str) -> Predicate:
        if self.limit is not None:
            raise ConfigurationError(f"limit() can only be combined by &, not by {operator}")
        return self._predicate


def _not(found: bool | None) -> bool | None:
    return None if found is None else not found


def _all(one: Predicate, other: Predicate) -> Predicate:
    """Select what both select: False if one of them is false, else None if one of them does not know."""

    def both(message: Message) -> bool | None:
        found = one(message)
        if found is not None and not found:
            return False
        second = other(message)
        return found if second is not None and second else second

    return both


def _any(one: Predicate, other: Predicate) -> Predicate:
    """Select what one of them selects: True if one of them is true, else None if one of them does not know."""
    none = _all(lambda message: _not(one(message)), lambda message: _not(other(message)))
    return lambda message: _not(none(message))


def _compare(message: Message, is_selected: Callable[[datetime], bool]) -> bool | None:
    """Return whether the time of a message is selected. One that was not attempted yet is: it must not be lost."""
    time = message_time(message)
    if time is not None:
        return is_selected(time)
    return True if message.delivered is False and not message.attempts else None


def as_where(value: Where | Predicate | None) -> Where:
    """Return a ``where`` argument of any form as a ``Where``. Raises ``ConfigurationError``."""
    if value is None:
        return Where(everything, steady=True)
    if isinstance(value, Where):
        return value
    if not callable(value) or is_async(value):
        raise ConfigurationError("where must be a function, not an async one, from a Message to a bool")
    if not accepts(value, 1):
        name = getattr(value, "__name__", "where")
        raise ConfigurationError(f"where must accept a Message; {name}() with its arguments may return such a function")
    function = value

    def early(message: Message) -> bool | None:
        is_whole = tells_attempts(message) and not isinstance(message, RememberedMessage)
        return function(message) if is_whole else None

    return Where(function, early=early)


def choose(where: Where, message: Message, *, early: bool = False) -> tuple[bool | None, Exception | None]:
    """Return whether a run passes a message to the handler, and the error with which it then counts as failed at once.

    None: the message does not tell. ``early``: before it is read by its id, where the list does not tell its attempts.
    Run and plan ask this. A message that cannot be read, or for which the
    predicate raises, is passed to the handler as a failure, whatever was selected: it must not be lost.
    """
    if isinstance(message, UnreadableMessage):
        return True, message.error
    try:
        found = (where._judges if early else where._predicate)(message)
        return None if found is None else bool(found), None
    except Exception as exc:
        return True, exc


def selects_everything(where: Where) -> bool:
    """Return whether it selects every message, but for a limit."""
    return where._predicate is everything


def is_steady(where: Where) -> bool:
    """Return whether it will never select a message that it does not select now: see ``Where``."""
    return where._steady


def message_time(message: Message) -> datetime | None:
    """Return the time of a message's first attempt, the only time that a message has; None if it is not known.

    For an event of the event list, return the time of its creation.
    """
    return item_time(message)


def since(moment: datetime | timedelta) -> Where:
    """Select messages whose first attempt was at ``moment`` or later. A timedelta counts back from now.

    A message that was not attempted yet is selected too. One that does not tell its time is neither selected nor left
    out: see ``Where``. Raises ``ConfigurationError``.
    """
    first = _moment(moment, "since")
    return Where(
        lambda message: _compare(message, lambda time: time >= _fixed(moment, first)),
        description=f"since({_describe(moment)})",
        steady=isinstance(moment, datetime),
    )


def until(moment: datetime | timedelta) -> Where:
    """Select messages whose first attempt was before ``moment``. See ``since``."""
    end = _moment(moment, "until")
    return Where(
        lambda message: _compare(message, lambda time: time < _fixed(moment, end)),
        description=f"until({_describe(moment)})",
        steady=isinstance(moment, datetime),
    )


def failed_only() -> Where:
    """Select messages that have no successful attempt."""
    return Where(lambda message: _not(message.delivered), description="failed_only()")


def event_types(*ids: str) -> Where:
    """Select messages of these types: exact, such as ``consent.revoked``, or a beginning, such as ``consent.*``.

    Warns (``UnknownEventTypeWarning``) of a type that Basiq does not document: it is misspelled or new.

    Raises ``ConfigurationError``.
    """
    wanted = check_event_type_ids("event_types", ids, patterns=True)
    if any(
        "*" in entry[:-1] or (entry.endswith("*") and entry != "*" and not entry.endswith(".*")) for entry in wanted
    ):
        raise ConfigurationError("event_types accepts exact types, a beginning that ends in '.*', or '*'")
    warn_of_unknown_types(wanted, stacklevel=3)
    exact = frozenset(wanted)
    beginnings = tuple(entry[:-1] for entry in wanted if entry.endswith("*"))
    return Where(
        lambda message: (found := message.event_type_id or "") in exact or found.startswith(beginnings),
        description=f"event_types({', '.join(repr(each) for each in sorted(exact))})",
        steady=True,
    )


def limit(count: int) -> Where:
    """Hand at most ``count`` messages to the target in one run; the next run continues after them.

    Messages that were handled before, or have no handler, do not count. Raises ``ConfigurationError``.
    """
    return Where(everything, check_whole("limit", count, least=1), steady=True)


def everything(message: Message) -> bool:
    """Select every message."""
    return True


def _fixed(moment: datetime | timedelta, made: datetime) -> datetime:
    """Return a relative moment counted from that of a shared job, so that all its workers agree."""
    if isinstance(moment, timedelta) and (anchor := SUBMITTED.get()) is not None:
        return anchor - moment
    return made


def _describe(moment: datetime | timedelta) -> str:
    if isinstance(moment, timedelta):
        return str(moment)
    return moment.astimezone(UTC).isoformat()


def _moment(value: datetime | timedelta, name: str) -> datetime:
    if isinstance(value, timedelta):
        try:
            return datetime.now(UTC) - value
        except OverflowError:
            raise ConfigurationError(f"{name} is too long ago") from None
    if not isinstance(value, datetime):
        raise ConfigurationError(f"{name} must be a datetime, or a timedelta before now")
    if value.tzinfo is None:
        raise ConfigurationError(f"{name} must be a datetime with a time zone, such as datetime.now(UTC)")
    return value
