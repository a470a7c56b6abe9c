"""Read every kind of response of an API, with GETs only. Earlier responses give the ids for later requests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

import attrs

from basiq_async.testing.fake._operations import (  # private: the table of what is compared
    EVENT_TYPES,
    EVENTS,
    MESSAGES,
    RESOURCES,
    WEBHOOKS,
)
from basiq_async.transports.base import Request, Response, Transport

from .shape import Shape

NOWHERE = "11111111-2222-4333-8444-555555555555"
HEADERS = ("content-type", "retry-after", "www-authenticate", "location", "link", "allow")

# An event's data depends on its entity and may be personal, so only its JSON type is recorded.
_CLOSED = {EVENTS.path: frozenset({"$.data[].data", "$.data.data"}), EVENTS.one: frozenset({"$.data"})}
_QUERY = {MESSAGES.path: "?limit=2"}
_ERRORS = {
    f"{WEBHOOKS.one} (unknown)": f"{WEBHOOKS.path}/{NOWHERE}",
    f"{WEBHOOKS.one} (not a UUID)": f"{WEBHOOKS.path}/not-a-uuid",
    f"{MESSAGES.path} (unknown webhook)": f"{WEBHOOKS.path}/{NOWHERE}/messages",
    f"{EVENT_TYPES.one} (unknown)": f"{EVENT_TYPES.path}/no.such",
    f"{EVENTS.one} (unknown)": f"{EVENTS.path}/{'0' * 64}",
}
_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)


@attrs.define
class Seen:
    """The responses to one kind of request."""

    shape: Shape
    statuses: set[int] = attrs.field(factory=set[int])
    headers: dict[str, set[str]] = attrs.field(factory=dict[str, set[str]])
    facts: dict[str, bool] = attrs.field(factory=dict[str, bool])

    def describe(self) -> dict[str, object]:
        return {
            "statuses": sorted(self.statuses),
            "headers": {name: sorted(forms) for name, forms in sorted(self.headers.items())},
            "facts": dict(sorted(self.facts.items())),
            "fields": self.shape.describe(),
        }


class Survey:
    """Reads an API, and records its responses. ``authorized`` sends requests with a token, ``bare`` without.

    ``samples`` is the number of items of a list that are read one by one, ``pages`` the number of its pages.
    """

    def __init__(self, authorized: Transport, bare: Transport, base: str, *, samples: int = 3, pages: int = 2) -> None:
        self._authorized = authorized
        self._bare = bare
        self._base = base
        self._samples = samples
        self._pages = pages
        self.seen: dict[str, Seen] = {}
        self.requests = 0

    async def run(self) -> None:
        """Make every kind of request for which an item was found."""
        known: dict[str, dict[str, None]] = {}  # the ids that items had, by the names of their fields
        for resource in RESOURCES:
            names = re.findall(r"{(\w+)}", resource.path)
            for ids in islice(product(*(known.get(name, ()) for name in names)), self._samples):
                path = resource.path.format_map(dict(zip(names, ids, strict=True)))
                for item in (await self._list(resource.path, path + _QUERY.get(resource.path, "")))[: self._samples]:
                    await self._get(resource.one, f"{path}/{_id(item)}")
                    for name, value in {**item, resource.parameter: _id(item)}.items():
                        if isinstance(value, str) and _ID.fullmatch(value):
                            known.setdefault(name, {})[value] = None
        for kind, path in _ERRORS.items():
            await self._get(kind, path)
        await self._get(f"{WEBHOOKS.path} (no token)", WEBHOOKS.path, transport=self._bare)

    async def _list(self, kind: str, path: str) -> list[Any]:
        """Return the items of the first pages."""
        body = await self._get(kind, path)
        items, link = _items(body), _next(body)
        seen = self.seen[kind]
        if isinstance(body, dict) and "data" in body:
            seen.facts["size is the number of items"] = body.get("size") == len(items)
            seen.facts["count is the number of items"] = body.get("count") == len(items)
        limit = re.search(r"limit=(\d+)", path)
        if limit and items:
            seen.facts["a page holds at most limit items"] = len(items) <= int(limit[1])
        for _ in range(self._pages - 1):
            if link is None or not link.startswith(self._base):
                break
            body = await self._get(kind, link.removeprefix(self._base))
            known, more, link = {_id(item) for item in items}, _items(body), _next(body)
            seen.facts["the next page holds other items"] = known.isdisjoint(map(_id, more))
            items = [*items, *more]
        return [item for item in items if _id(item)]

    async def _get(self, kind: str, path: str, *, transport: Transport | None = None) -> Any:
        self.requests += 1
        headers = {"accept": "application/json"}
        request = Request("GET", self._base + path, headers, None)
        response = await (transport or self._authorized).send(request)
        seen = self.seen.setdefault(kind, Seen(Shape(self._base, _CLOSED.get(kind, frozenset()))))
        seen.statuses.add(response.status)
        for name, form in _headers(response):
            seen.headers.setdefault(name, set()).add(form)
        try:
            body = json.loads(response.body)
        except (ValueError, RecursionError):
            seen.facts["the body is JSON"] = False
            return None
        seen.facts.setdefault("the body is JSON", True)
        seen.shape.add(body)
        return body


def _headers(response: Response) -> Iterator[tuple[str, str]]:
    for name in HEADERS:
        value = response.headers.get(name)
        if value is not None:
            yield name, value.partition(";")[0].strip().lower() if name == "content-type" else "present"


def _items(body: Any) -> list[Any]:
    data = body.get("data") if isinstance(body, Mapping) else None
    return data if isinstance(data, list) else [] if data is None else [data]


def _next(body: Any) -> str | None:
    links = body.get("links") if isinstance(body, Mapping) else None
    if isinstance(links, list) and links:
        links = links[0]
    link = links.get("next") if isinstance(links, Mapping) else None
    return link if isinstance(link, str) else None


def _id(item: Any) -> str:
    """Return an item's id if it can be used in a path, or else an empty text."""
    found = item.get("id") if isinstance(item, Mapping) else None
    return found if isinstance(found, str) and _ID.fullmatch(found) else ""
