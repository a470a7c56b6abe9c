"""Events, and the way from a thin payload to the event and the entity behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from .._urls import LinkError, segment
from ..errors import ConfigurationError
from ..filters import Filter, filter_text
from ..models import Event, read_links
from ..pagination import Paginator
from ._api import Api


class HasLinks(Protocol):
    """A message, a delivery, or whatever else has the links of a thin payload."""

    @property
    def event_id(self) -> str | None:
        """The event's id."""
        ...

    @property
    def links(self) -> Mapping[str, str]:
        """The links, by name."""
        ...


class Events:
    """``GET /events`` and ``GET /events/{id}``, and whatever a payload links to."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self, *, filter: str | Filter | None = None) -> Paginator[Event]:
        """The events of the last 7 days; there are no older ones (the vendor's reference).

        ``filter`` is by ``user.id``, ``event.entity`` or ``event.type``, built with ``F`` or as plain text.
        """
        return self._api.listing(Event, "/events", filter=filter_text(filter))

    async def get(self, event_id: str) -> Event:
        """One event, by its opaque id. Raises ``NotFoundError`` where there is none."""
        return await self._get(self._api.base.url(f"/events/{segment(event_id, 'event_id')}"))

    async def fetch(self, message_or_delivery: HasLinks) -> Event:
        """The event behind a message or a delivery, by its link ``event``, or else by its event id.

        Raises ``ConfigurationError`` where it has neither, or where the link leads to another origin: the token
        goes nowhere but to the API.
        """
        link = _link(message_or_delivery, "event")
        if link is None:
            if not message_or_delivery.event_id:
                raise ConfigurationError("it has neither a link 'event' nor an event id to fetch the event by")
            return await self.get(message_or_delivery.event_id)
        return await self._get(self._own_url(link, "event"))

    async def fetch_entity(self, message_or_delivery: HasLinks) -> Any:
        """The entity that the event is about, by the link ``eventEntity``: its JSON, decoded.

        Raises ``ConfigurationError`` where there is no such link, or where it leads to another origin.
        """
        link = _link(message_or_delivery, "eventEntity")
        if link is None:
            raise ConfigurationError("it has no link 'eventEntity' to fetch the entity by")
        url = self._own_url(link, "eventEntity")
        return self._api.read_json(await self._api.answer("GET", url), "GET", url)

    async def _get(self, url: str) -> Event:
        return self._api.read(Event, await self._api.answer("GET", url), "GET", url)

    def _own_url(self, link: str, name: str) -> str:
        try:
            return self._api.base.resolve(link, self._api.base.url("/events"))
        except LinkError as exc:
            why = self._api.redactor.text(str(exc))
        raise ConfigurationError(f"the link {name!r} {why}; it was not followed")


def _link(source: HasLinks, name: str) -> str | None:
    """A message has the links in its payload, a delivery at its own level."""
    if not isinstance(getattr(source, "links", None), Mapping) or not hasattr(source, "event_id"):
        raise ConfigurationError(f"expected a message or a delivery, not {type(source).__name__}")
    payload = getattr(source, "payload", None)
    inner = read_links(payload.get("links")) if isinstance(payload, Mapping) else {}
    return inner.get(name) or source.links.get(name) or None
