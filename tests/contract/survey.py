"""Read every kind of response of an API. Earlier responses give the ids for later requests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import islice, product
from typing import Any

import attrs

from basiq_async._wire.order import ListOrder, raw_time
from basiq_async.testing.fake._operations import (  # private: the table of what is compared
    EVENT_TYPES,
    EVENTS,
    MESSAGES,
    RESOURCES,
    WEBHOOKS,
)
from basiq_async.transports.base import Request, Transport

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
STATS = f"{WEBHOOKS.one}/stats"
"""The statistics of a webhook, of which no schema is published. The fake has none."""
_ATTEMPTS = f"{MESSAGES.path}: attempts"
_TOKEN = {
    "authorization": "Basic dW5rbm93bjp1bmtub3du",
    "basiq-version": "3.0",
    "content-type": "application/x-www-form-urlencoded",
    "accept": "application/json",
}
_TOKEN_ERRORS = {
    "POST /token (unknown key)": _TOKEN,
    "POST /token (no version)": {name: value for name, value in _TOKEN.items() if name != "basiq-version"},
}
_EVENT_TYPE = re.compile(r"[a-z]+\.[a-z]+")
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
        self.orders: dict[str, ListOrder] = {}
        """The order of each list by time."""
        self.event_types: set[str] = set()

    async def run(self) -> None:
        """Make every kind of request for which an item was found."""
        known: dict[str, dict[str, None]] = {}  # the ids that items had, by the names of their fields
        for resource in RESOURCES:
            names = re.findall(r"{(\w+)}", resource.path)
            for ids in islice(product(*(known.get(name, ()) for name in names)), self._samples):
                path = resource.path.format_map(dict(zip(names, ids, strict=True)))
                items = await self._list(resource.path, path + _QUERY.get(resource.path, ""))
                if resource is EVENT_TYPES:
                    self.event_types |= {_id(item) for item in items if _EVENT_TYPE.fullmatch(_id(item))}
                if resource is MESSAGES:
                    self._see_order(resource.path, _items(await self._get(resource.path, path)))
                self._see_order(resource.path, items)
                for item in items[: self._samples]:
                    await self._get(resource.one, f"{path}/{_id(item)}")
                    for name, value in {**item, resource.parameter: _id(item)}.items():
                        if isinstance(value, str) and _ID.fullmatch(value):
                            known.setdefault(name, {})[value] = None
        for webhook_id in islice(known.get(WEBHOOKS.parameter, ()), self._samples):
            await self._get(STATS, STATS.format_map({WEBHOOKS.parameter: webhook_id}))
        for kind, path in _ERRORS.items():
            await self._get(kind, path)
        await self._get(f"{WEBHOOKS.path} (no token)", WEBHOOKS.path, transport=self._bare)
        unknown = Request("GET", self._base + WEBHOOKS.path, {"authorization": "Bearer unknown"}, None)
        await self._send(f"{WEBHOOKS.path} (unknown token)", unknown, self._bare)
        for kind, headers in _TOKEN_ERRORS.items():
            await self._send(kind, Request("POST", f"{self._base}/token", headers, b"scope=SERVER_ACCESS"), self._bare)

    def _see_order(self, path: str, items: list[Any]) -> None:
        """Find the order of a list of messages or events by time, and that of the attempts of each message."""
        if path not in (MESSAGES.path, EVENTS.path):
            return
        order = ListOrder(self.orders.setdefault(path, ListOrder()).steps)
        for item in items:
            order.see(raw_time(item))
            attempts = item.get("attempts") if isinstance(item, Mapping) else None
            own = ListOrder(self.orders.setdefault(_ATTEMPTS, ListOrder()).steps)
            for attempt in attempts if isinstance(attempts, list) else ():
                own.see(raw_time({"attempts": [attempt]}) if isinstance(attempt, Mapping) else None)

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
        request = Request("GET", self._base + path, {"accept": "application/json"}, None)
        return await self._send(kind, request, transport or self._authorized)

    async def _send(self, kind: str, request: Request, transport: Transport) -> Any:
        self.requests += 1
        response = await transport.send(request)
        seen = self.seen.setdefault(kind, Seen(Shape(self._base, _CLOSED.get(kind, frozenset()))))
        seen.statuses.add(response.status)
        for name in HEADERS:
            if (value := response.headers.get(name)) is not None:
                form = value.partition(";")[0].strip().lower() if name == "content-type" else "present"
                seen.headers.setdefault(name, set()).add(form)
        try:
            body = json.loads(response.body)
        except (ValueError, RecursionError):
            seen.facts["the body is JSON"] = False
            return None
        seen.facts.setdefault("the body is JSON", True)
        seen.shape.add(body)
        return body


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
