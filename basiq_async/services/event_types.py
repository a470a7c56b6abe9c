"""The event types that Basiq offers."""

from __future__ import annotations

from ..models import EventType
from ..pagination import Paginator
from .api import Api
from .resources import EVENT_TYPES


class EventTypes:
    """``GET /events/types`` and ``GET /events/types/{id}``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self) -> Paginator[EventType]:
        """List all event types. The vendor's reference has 15; Basiq can add new ones."""
        return self._api.listing(EventType, self._api.at(EVENT_TYPES.path), prefetch=0)

    async def get(self, event_type_id: str) -> EventType:
        """Return one event type by its id, such as ``user.created``. Raises ``NotFoundError`` if it does not exist."""
        return await self._api.get(EventType, self._api.at(EVENT_TYPES.one, event_type_id=event_type_id))
