"""The store of a fake: webhooks, messages, events and tokens."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from random import Random
from typing import Any

import attrs

from ...errors import ConfigurationError
from ._checks import require, require_text
from ._clock import FakeClock
from ._histories import IdFactory, Log, SeededEvents, connection_of
from ._items import FakeEvent, FakeMessage, FakeWebhook
from ._quirks import Quirks


@attrs.define
class IssuedToken:
    """An access token, and the number of its uses. ``once``: issued to a program that ends after one command."""

    scope: str
    expires: datetime
    used: int = 0
    once: bool = False


@attrs.define
class Application:
    """What a fake keeps for its callers."""

    webhooks: dict[str, FakeWebhook] = attrs.field(factory=dict[str, FakeWebhook])
    messages: dict[str, Log[FakeMessage]] = attrs.field(factory=dict[str, Log[FakeMessage]])
    events: Log[FakeEvent] = attrs.field(factory=Log[FakeEvent])
    tokens: dict[str, IssuedToken] = attrs.field(factory=dict[str, IssuedToken], repr=False)
    disabled: bool = False
    resources: dict[str, Any] = attrs.field(factory=dict[str, Any])
    """What a test set: an object, a list of objects, or None, by its path."""
    entities: dict[str, FakeEvent] = attrs.field(factory=dict[str, FakeEvent], init=False)
    """The latest event about each entity, by its path."""
    users: dict[str, datetime] = attrs.field(factory=dict[str, datetime], init=False)
    """The time of each user's first event."""
    connections: dict[str, dict[str, None]] = attrs.field(factory=dict[str, dict[str, None]], init=False)
    """The connections that events of each user named, in the order of the events."""

    def index(self, event: FakeEvent) -> None:
        """Index what an event is about: its entity, user and connection."""
        self.entities[event.path] = event
        self.users.setdefault(event.user_id, event.created)
        if event.connection_id is not None:
            self.connections.setdefault(event.user_id, {})[event.connection_id] = None

    def connection_ids(self, user_id: str) -> Sequence[str]:
        """Return the connections of a user: those that events named, or else one."""
        return list(self.connections.get(user_id, ())) or [connection_of(user_id)]

    def has_set(self, path: str) -> bool:
        """Return whether a test set a path, or a list of which it is an item."""
        return bool(self.resources) and (path in self.resources or path.rpartition("/")[0] in self.resources)

    def knows_user(self, user_id: str) -> bool:
        """Return whether an event was about a user, or something was set for the user."""
        beginning = f"/users/{user_id}"
        return (
            user_id in self.users
            or self.first_of_seeded(user_id) is not None
            or any(path == beginning or path.startswith(f"{beginning}/") for path in self.resources)
        )

    def first_of_seeded(self, user_id: str) -> datetime | None:
        """Return the time at which the first seeded history with a user begins; None without one."""
        parts = (part for part in self.events.seeded() if isinstance(part, SeededEvents))
        return next((part.first for part in parts if user_id in part.users), None)

    def by_url(self, url: str) -> FakeWebhook | None:
        return next((webhook for webhook in self.webhooks.values() if webhook.url == url), None)

    def each_webhook(self, start: int | None) -> Iterator[tuple[int, FakeWebhook]]:
        """Return the webhooks from serial number ``start`` on, each with its number, in the order of their creation."""
        return ((hook.serial, hook) for hook in self.webhooks.values() if hook.serial >= (start or 0))

    def entity(self, path: str) -> FakeEvent | None:
        """Return an event about the entity at ``path``, if possible the latest; None if no event is about it."""
        seeded = (part.find_entity(path) for part in self.events.seeded() if isinstance(part, SeededEvents))
        return self.entities.get(path) or next(filter(None, seeded), None)


@attrs.define
class Store:
    """The application of an API key, and the clock, ids and settings for its new records."""

    clock: FakeClock
    ids: IdFactory
    seed: int | str
    quirks: Quirks
    page_size: int
    cool_off: timedelta
    event_types: Mapping[str, str]
    api_key: str
    random: Random
    app: Application = attrs.field(factory=Application)
    serial: int = 0

    def webhook(self, webhook_id: str) -> FakeWebhook:
        """Return the webhook with this id. Raises ``ConfigurationError`` for an unknown id."""
        require_text("webhook_id", webhook_id)
        require(webhook_id in self.app.webhooks, f"there is no webhook {webhook_id!r}")
        return self.app.webhooks[webhook_id]

    def check_types(self, types: Iterable[str]) -> None:
        """Raise ``ConfigurationError`` for an unknown event type."""
        for name in types:
            if name not in self.event_types:
                nearest = get_close_matches(name, list(self.event_types), n=1)
                guess = f" (did you mean {nearest[0]!r}?)" if nearest else ""
                raise ConfigurationError(
                    f"there is no event type {name!r}{guess}; types of your own are given when the fake is made"
                )

    def remove_webhook(self, webhook: FakeWebhook) -> None:
        """Remove a webhook and its messages, if it is still there."""
        self.app.webhooks.pop(webhook.id, None)
        self.app.messages.pop(webhook.id, None)

    def find_messages(self, message_id: str) -> Sequence[tuple[FakeWebhook, FakeMessage]]:
        """Return the messages with this id, each with its webhook: more than one if webhooks share ids."""
        found = ((id, log.find(message_id)) for id, log in self.app.messages.items())
        return [(self.app.webhooks[id], message) for id, message in found if message is not None]

    def add_webhook(
        self,
        url: str,
        events: Iterable[str],
        *,
        name: str | None = None,
        description: str | None = None,
        active: bool = False,
        every_type: bool = False,
    ) -> FakeWebhook:
        self.serial += 1
        now = self.clock()
        webhook = FakeWebhook(
            self.ids.uuid(),
            self.serial,
            url,
            tuple(events),
            secrets.token_bytes(24),
            now if active else now + self.cool_off,
            name,
            description,
            every_type=every_type,
        )
        self.app.webhooks[webhook.id] = webhook
        self.app.messages[webhook.id] = Log()
        return webhook
