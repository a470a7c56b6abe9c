"""Register handlers, and find the handler of a delivery."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar, overload

import attrs

from .._callables import accepts, has_parameter, is_async, read_signature, with_session
from ..errors import ConfigurationError
from ._delivery import Delivery

P = TypeVar("P", contravariant=True)
V = TypeVar("V")

Handler = Callable[[Delivery], Awaitable[object]]
SessionHandler = Callable[[Delivery, Any], Awaitable[object]]
"""A handler with a second parameter: the session of the inbox's transaction, such as an ``AsyncSession``."""


class NamedSessionHandler(Protocol):
    """A handler whose session is passed by keyword."""

    def __call__(self, delivery: Delivery, /, *, session: Any) -> Awaitable[object]: ...


AnyHandler = Handler | SessionHandler | NamedSessionHandler
Prepare = Callable[[Delivery], Awaitable[object]]


class PreparedHandler(Protocol[P]):
    """A handler that gets what ``prepare`` returned."""

    def __call__(self, delivery: Delivery, /, *, prepared: P) -> Awaitable[object]: ...


class PreparedSessionHandler(Protocol[P]):
    """A handler that gets what ``prepare`` returned, and the session of the inbox's transaction."""

    def __call__(self, delivery: Delivery, /, *, session: Any, prepared: P) -> Awaitable[object]: ...


class Register(Protocol[V]):
    """Registers a handler that gets a prepared value."""

    @overload
    def __call__(self, handler: PreparedHandler[V], /) -> PreparedHandler[V]: ...
    @overload
    def __call__(self, handler: PreparedSessionHandler[V], /) -> PreparedSessionHandler[V]: ...


@attrs.frozen
class Route:
    """A handler, and its name for logs and metrics. ``call`` accepts a delivery and, with ``session``, a session."""

    function: Callable[..., object]
    name: str
    call: Callable[..., Awaitable[object]]
    session: bool = False
    prepare: Prepare | None = None
    deferred: bool = False


class Routes:
    """Handlers by pattern. A delivery goes to the handler with the most specific pattern that matches.

    A pattern is an event type (``user.created``), a beginning of whole words (``consent.*``, which matches
    ``consent.revoked`` but not ``consent``) or ``*``.
    """

    def __init__(self, *, sessions: bool = False) -> None:
        """``sessions``: whether the inbox has a session for handlers with a second parameter."""
        self._sessions = sessions
        self._routes: dict[str, Route] = {}
        self._most_words = 0
        """The number of words of the longest beginning: a type of many words is not looked through word by word."""

    def __len__(self) -> int:
        return len(self._routes)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns, as they were registered."""
        return tuple(self._routes)

    @property
    def defer_sessions(self) -> bool:
        """Whether a deferred handler takes a session."""
        return any(route.session and route.deferred for route in self._routes.values())

    def add(
        self,
        patterns: tuple[str, ...],
        handler: Callable[..., Awaitable[object]],
        prepare: Prepare | None = None,
        *,
        deferred: bool = False,
    ) -> None:
        """Register a handler for patterns. ``deferred``: it works after the response.

        Raises ``ConfigurationError`` for an invalid pattern or handler, and for a second handler of a pattern.
        """
        check_patterns(patterns)
        for pattern in patterns:
            known = self._routes.get(pattern)
            if known is not None and known.function is not handler:
                raise ConfigurationError(f"{pattern!r} has a handler already, and only one of the two could run")
        route = attrs.evolve(_route(handler, prepare, sessions=self._sessions), deferred=deferred)
        self._routes.update(dict.fromkeys(patterns, route))
        self._most_words = max(pattern.count(".") for pattern in self._routes)

    def find(self, event_type_id: str) -> Route | None:
        """Return the most specific handler: the exact type, else the longest beginning, else ``*``, else None."""
        if (exact := self._routes.get(event_type_id)) is not None:
            return exact
        words = event_type_id.split(".", self._most_words)[:-1]
        while words:
            if (route := self._routes.get(f"{'.'.join(words)}.*")) is not None:
                return route
            words.pop()
        return self._routes.get("*")


def check_patterns(patterns: tuple[str, ...]) -> None:
    """Raise ``ConfigurationError`` for an empty tuple, and for a text that is not a pattern."""
    if not patterns:
        raise ConfigurationError('on() needs at least one event type, such as on("user.created") or on("*")')
    for pattern in patterns:
        _check_pattern(pattern)


def _check_pattern(pattern: str) -> None:
    if callable(pattern):
        raise ConfigurationError('@receiver.on needs event types: write @receiver.on("user.created") or on("*")')
    if not isinstance(pattern, str):
        raise ConfigurationError("an event type must be a str, such as 'user.created'")
    words = pattern.split(".")
    fixed = words[:-1] if words[-1] == "*" else words
    if any(not word or "*" in word or word != word.strip() for word in fixed):
        raise ConfigurationError(
            f"{pattern!r} is not a pattern: write an event type (user.created), a beginning (consent.*), or * for all"
        )


def _route(handler: Callable[..., Awaitable[object]], prepare: Prepare | None, *, sessions: bool) -> Route:
    name = _name(handler)
    for what, function in (("the handler", handler), ("prepare=", prepare)):
        if function is not None and not is_async(function):
            raise ConfigurationError(
                f"{what} {_name(function)} is not async: write `async def`, not a lambda, and use asyncio.to_thread "
                "for calls that block"
            )
    if _has_dependency(handler):
        raise ConfigurationError(
            f"the handler {name} has Depends(...) in its signature, but the receiver calls it, not FastAPI: open its "
            "resources inside the handler, or use the session of a SQLInbox, the second argument"
        )
    if prepare is not None and not accepts(prepare, 1):
        raise ConfigurationError(f"{_name(prepare)} must take one argument, the delivery")
    if (prepare is None) is has_parameter(handler, "prepared"):
        raise ConfigurationError(
            f"the handler {name} has a parameter `prepared`: pass the function that makes its value, on(..., prepare=)"
            if prepare is None
            else f"the handler {name} needs a parameter `prepared`, which gets what {_name(prepare)} returns"
        )
    options = {} if prepare is None else {"prepared": None}
    session_handler = with_session(handler)
    if not accepts(session_handler or handler, 1 if session_handler is None else 2, **options):
        raise ConfigurationError(f"the handler {name} must take one argument, the delivery")
    if session_handler is None:
        return Route(handler, name, handler, prepare=prepare)
    if not sessions:
        raise ConfigurationError(
            f"the handler {name} must take one argument, the delivery. A second one, the session, needs an inbox with "
            "transactions, such as SQLInbox(engine)"
        )
    return Route(handler, name, session_handler, session=True, prepare=prepare)


def _has_dependency(handler: Callable[..., object]) -> bool:
    """Return whether the handler's signature has FastAPI's ``Depends``, as a default or in an ``Annotated``."""
    try:
        signature: inspect.Signature | None = inspect.signature(handler, eval_str=True)
    except Exception:  # an annotation that has no meaning outside of a type checker
        signature = read_signature(handler)
    if signature is None:
        return False
    parameters = signature.parameters.values()
    marks = [mark for each in parameters for mark in (each.default, *getattr(each.annotation, "__metadata__", ()))]
    texts = [each.annotation for each in parameters if isinstance(each.annotation, str)]
    return any(type(mark).__name__ == "Depends" for mark in marks) or any("Depends(" in text for text in texts)


def _name(handler: Callable[..., object]) -> str:
    inner: object = handler
    while isinstance(inner, partial):
        inner = inner.func
    return str(getattr(inner, "__qualname__", None) or type(inner).__qualname__)
