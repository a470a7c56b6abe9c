"""The resources of the API: one table of their models and paths, which every service uses.

``tests/test_resources.py`` names each place that does not know a resource of this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import attrs

from ..models import Event, EventType, Message, Webhook

T = TypeVar("T")


@attrs.frozen
class Resource(Generic[T]):
    """A resource whose items are listed and retrieved.

    name: the attribute of the client that holds its service.
    path: the template of its list's path. ``id`` names the last part of an item's path.
    """

    name: str
    model: type[T]
    path: str
    id: str
    one: str = attrs.field(
        init=False, default=attrs.Factory(lambda self: f"{self.path}/{{{self.id}}}", takes_self=True)
    )
    """The template of an item's path."""


WEBHOOKS = Resource("webhooks", Webhook, "/notifications/webhooks", "webhook_id")
MESSAGES = Resource("messages", Message, f"{WEBHOOKS.one}/messages", "message_id")
EVENT_TYPES = Resource("event_types", EventType, "/events/types", "event_type_id")
EVENTS = Resource("events", Event, "/events", "event_id")
RESOURCES: Sequence[Resource[Any]] = (WEBHOOKS, MESSAGES, EVENT_TYPES, EVENTS)

TEST_MESSAGES = "/notifications/messages/test"
"""The path to which a test message is posted."""
