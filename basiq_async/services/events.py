"""Events, and how to fetch the event and the entity that a message or delivery links to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ..errors import ConfigurationError
from ..filters import Filter
from ..models import Event, read_links
from ..pagination import OnUnreadable, Paginator
from .api import Api, ResourceUrl
from .resources import EVENTS

_ENTITY = "{event_entity}"
"""The url template of all entities, because their links lead to any part of the API."""


class HasLinks(Protocol):
    """A message, a delivery, or any other object with an event id and the links of a payload."""

    @property
    def event_id(self) -> str | None:
        """The event's id."""
        ...

    @property
    def links(self) -> Mapping[str, str]:
        """The links, by name."""
        ...


class Events:
    """``GET /events`` and ``GET /events/{id}``, and the events and entities that payloads link to."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(
        self,
        *,
        filter: str | Filter | None = None,
        cursor: str | None = None,
        prefetch: int = 1,
        on_unreadable: OnUnreadable[Event] | None = None,
    ) -> Paginator[Event]:
        """List the events of the last 7 days. Basiq lists no older ones (the vendor's reference).

        ``filter`` accepts the fields ``user.id``, ``event.entity`` and ``event.type``. Build it with ``F``, or write it
        as plain text. The other arguments are the same as for ``messages.list``.
        """
        return self._api.listing(
            Event,
            self._api.at(EVENTS.path),
            filter=filter,
            cursor=cursor,
            prefetch=prefetch,
            on_unreadable=on_unreadable,
        )

    async def get(self, event_id: str) -> Event:
        """Return one event by its id. Raises ``NotFoundError`` if it does not exist."""
        return await self._api.get(Event, self._api.at(EVENTS.one, event_id=event_id))

    async def fetch(self, message_or_delivery: HasLinks) -> Event:
        """Return the event of a message or a delivery, by its link ``event``, or else by its event id.

        Raises ``ConfigurationError`` if it has neither, or if the link leads to another origin: the token is sent only
        to the API.
        """
        link = _link(message_or_delivery, "event")
        if link is None:
            if not message_or_delivery.event_id:
                raise ConfigurationError("cannot fetch the event: there is neither a link 'event' nor an event id")
            return await self.get(message_or_delivery.event_id)
        return await self._api.get(Event, ResourceUrl(self._api.follow(link, "the link 'event'"), EVENTS.one))

    async def fetch_entity(self, source: HasLinks | Event) -> dict[str, Any]:
        """Return the entity of an event as JSON, by the link ``eventEntity`` or by an ``Event``'s ``data_ref``.

        Raises ``ConfigurationError`` if the link is missing, or if it leads to another origin, and
        ``ResponseDecodeError`` for a response that is not a JSON object.
        """
        if isinstance(source, Event):
            link = source.data_ref or source.links.get("eventEntity")
        else:
            link = _link(source, "eventEntity")
        if link is None:
            raise ConfigurationError("cannot fetch the entity: there is no link 'eventEntity'")
        endpoint = ResourceUrl(self._api.follow(link, "the link 'eventEntity'"), _ENTITY)
        return await self._api.get(dict[str, Any], endpoint)


def _link(source: HasLinks, name: str) -> str | None:
    """Return a link by its name. A message has its links in the payload, and a delivery has them itself."""
    if not isinstance(getattr(source, "links", None), Mapping) or not hasattr(source, "event_id"):
        raise ConfigurationError(f"expected a message or a delivery, not {type(source).__name__}")
    payload = getattr(source, "payload", None)
    inner = read_links(payload.get("links")) if isinstance(payload, Mapping) else {}
    return inner.get(name) or source.links.get(name) or None
