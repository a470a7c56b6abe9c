"""Look at what users pass to be called: how many arguments it takes, whether it is async, whether it has a session."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from .errors import ConfigurationError

T = TypeVar("T")


def read_signature(function: Callable[..., object]) -> inspect.Signature | None:
    """Return the signature of a user's callable; None if it has none that can be read.

    Annotations are not evaluated, so that they may name what only a type checker imports.
    """
    try:
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            return inspect.signature(function, annotation_format=Format.STRING)
        return inspect.signature(function)
    except Exception:  # before Python 3.11.3, that of an AsyncMock is an error of any kind
        return None


def accepts(function: Callable[..., object], count: int, **options: object) -> bool:
    """Whether a function can be called with ``count`` positional arguments, and options by keyword.

    True if its signature is not known.
    """
    signature = read_signature(function)
    try:
        return signature is None or signature.bind(*[None] * count, **options) is not None
    except TypeError:
        return False


def is_async(function: object) -> bool:
    """Whether a call of the function returns an awaitable, as far as its definition shows."""
    while isinstance(function, partial):
        function = function.func
    import asyncio.coroutines  # here, because it is slow, and the help of the command line needs this module too

    # Before Python 3.12, asyncio recognises an AsyncMock by this mark.
    mark = getattr(asyncio.coroutines, "_is_coroutine", function)
    return (
        inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # callable() does not show whether it is async
        or getattr(function, "_is_coroutine", None) is mark
    )


def with_session(function: Callable[..., T]) -> Callable[..., T] | None:
    """Return a handler as a function of an item and a session, by position; None if it has no parameter for a session.

    That is a parameter with the name ``session``, also one with a default, or else a second one that needs a value.
    Raises ``ConfigurationError`` for a parameter ``connection``, which no inbox passes.
    """
    signature = read_signature(function)
    if signature is None:
        return None
    parameters = list(signature.parameters.values())[1:]
    bound = function.keywords if isinstance(function, partial) else {}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if any(each.name == "connection" and each.name not in bound for each in parameters):
        name = getattr(function, "__qualname__", type(function).__qualname__)
        raise ConfigurationError(
            f"the handler {name} has a parameter `connection`, which no inbox passes: name it `session`, and call "
            "`await session.connection()`"
        )
    if any(each.name == "session" and each.kind in by_name for each in parameters) and "session" not in bound:
        return lambda item, session, **options: function(item, session=session, **options)
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        each
        for each in parameters
        if each.kind in by_position and each.default is inspect.Parameter.empty and each.name != "prepared"
    ]
    return function if needed else None


def has_parameter(function: Callable[..., object], name: str) -> bool:
    """Whether the function has a parameter of this name that can be passed by keyword."""
    signature = read_signature(function)
    found = None if signature is None else signature.parameters.get(name)
    return found is not None and found.kind is not inspect.Parameter.POSITIONAL_ONLY


def has_own(value: object, name: str) -> bool:
    """Whether an object or its class has an attribute. A mock of a function makes any other one when it is asked."""
    return inspect.getattr_static(value, name, None) is not None
