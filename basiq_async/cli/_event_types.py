"""Types of event as they are named on the line: a beginning stands for all of its types, and a typo is refused.

What the library documents is known without a question. For other names Basiq's own list is asked for, since new types
appear; where there is no Basiq to ask, they are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from .._arguments import EVENT_TYPES
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..client import BasiqClient


async def expand_event_types(basiq: BasiqClient, given: Sequence[str]) -> list[str]:
    """Return the types that were given, in the place of a beginning such as ``consent.*`` those that Basiq has.

    Raises ``ConfigurationError`` for a name that is no type, and for a beginning of none.
    """
    if not any(each not in EVENT_TYPES for each in given):
        return list(given)
    known = await _ask(basiq)
    _require_known(given, known)
    found = [name for each in given for name in ([each] if not each.endswith("*") else _beginning(each, known))]
    return list(dict.fromkeys(found))


async def check_event_types(basiq: BasiqClient, given: Sequence[str] | None) -> None:
    """Raise ``ConfigurationError`` for a name that is no type of event, and for a beginning of none."""
    if any(not _is_known(each, EVENT_TYPES) for each in given or ()):
        _require_known(given or (), {*EVENT_TYPES, *await _ask(basiq)})


def check_documented(given: Iterable[str] | None, hint: str = "") -> None:
    """The same where there is no Basiq to ask."""
    _require_known(given or (), EVENT_TYPES, hint)


def name_nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the nearest of the known names; empty where none is near."""
    nearest = get_close_matches(name, list(known), n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


async def _ask(basiq: BasiqClient) -> list[str]:
    return [each.id async for each in basiq.event_types.list()]


def _beginning(pattern: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(pattern[:-1])]


def _is_known(given: str, known: Iterable[str]) -> bool:
    if given.endswith("*"):
        return (given == "*" or given.endswith(".*")) and bool(_beginning(given, known))
    return given in known


def _require_known(given: Iterable[str], known: Iterable[str], hint: str = "") -> None:
    beginnings = {"*", *(name.partition(".")[0] + ".*" for name in known)}
    wrong = [
        f"{each!r} is not {'the beginning of any type' if each.endswith('*') else 'a type'} of event"
        + name_nearest(each, beginnings if each.endswith("*") else known)
        for each in given
        if not _is_known(each, known)
    ]
    if wrong:
        raise ConfigurationError(f"{', '.join(wrong)}; 'basiq-async events types' lists them{hint}")
