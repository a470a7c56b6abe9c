"""Pages of what the control API lists: each looks at so many items at the most."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypedDict, TypeVar

from ..._web.guard import ControlError

T = TypeVar("T")
S = TypeVar("S")
MOST_SCANNED = 5_000
"""How many items a call looks at, so that a search of millions does not hold everything up."""
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_PLACES = re.compile(r"[0-9]{1,15}-[0-9]{1,15}(?:\.[0-9]{1,15}-[0-9]{1,15}){0,9999}", re.ASCII)


class Found(TypedDict, Generic[S]):
    """A page: the fields of the shape that it is shown in."""

    items: tuple[S, ...]
    total: int
    next: str | None


def page_of(
    items: Iterator[T],
    total: int,
    values: Mapping[str, Any],
    show: Callable[[T], S],
    texts: Callable[[T], Sequence[str]],
    following: Callable[[T], str],
    wanted: Callable[[T], bool] = lambda item: True,
) -> Found[S]:
    """A page of items; ``following`` returns the ``next`` that leads to the item and those after it.

    It looks at so many items at the most: a page may be short, or empty, and lead on.
    """
    limit, search = values.get("limit", 100), values.get("search", "").casefold()
    shown: list[S] = []
    for looked_at, item in enumerate(items):
        if len(shown) == limit or looked_at == MOST_SCANNED:
            return {"items": tuple(shown), "total": total, "next": following(item)}
        if wanted(item) and (not search or any(search in text.casefold() for text in texts(item))):
            shown.append(show(item))
    return {"items": tuple(shown), "total": total, "next": None}


def page_of_numbered(
    items: Iterator[tuple[int, T]],
    total: int,
    values: Mapping[str, Any],
    show: Callable[[int, T], S],
    texts: Callable[[T], Sequence[str]],
) -> Found[S]:
    """A page of items that come with numbers, the highest first."""
    text = values.get("next")
    if text is not None:
        if not _NUMBER.fullmatch(text):
            raise _no_such_page()
        items = itertools.dropwhile(lambda item: item[0] > int(text), items)
    return page_of(
        items, total, values, lambda item: show(*item), lambda item: texts(item[1]), lambda item: str(item[0])
    )


def read_places(text: str | None) -> dict[int, int] | None:
    """How far the history of each webhook was shown, from a ``next`` of the list of messages."""
    if text is None:
        return None
    if not _PLACES.fullmatch(text):
        raise _no_such_page()
    return {int(serial): int(left) for serial, _, left in (each.partition("-") for each in text.split("."))}


def _no_such_page() -> ControlError:
    return ControlError(400, "not-valid", "next has to be the value of `next` of the page before")
