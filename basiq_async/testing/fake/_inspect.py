"""The parts of a fake, and the methods that report its requests, deliveries and messages."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches

import attrs

from ...errors import ConfigurationError
from ...transports.base import Request
from ._clock import Clock
from ._deliveries import DeliveredAttempt, Deliveries
from ._faults import DeliveryFault, Fault, Faults
from ._recent import Changes, Recent, RequestRecord, Violation, Violations
from ._records import Log, Message, Webhook
from ._store import Application, Store
from ._tokens import Tokens

DEFAULT_API_KEY = "ZmFrZS1hcHBsaWNhdGlvbjpub3QtYS1yZWFsLWtleQ=="


class Parts:
    """The parts of a fake, and methods to find objects in them. ``FakeBasiq`` creates the parts."""

    clock: Clock
    _store: Store
    _violations: Violations
    _tokens: Tokens
    _deliveries: Deliveries
    _faults: Faults
    _requests: Recent[RequestRecord]
    _changes: Changes

    def _app(self, api_key: str | None) -> Application:
        try:
            return self._store.application(api_key)
        except KeyError:
            raise ConfigurationError("the fake does not accept this api_key") from None

    def _check_types(self, types: Iterable[str]) -> None:
        for name in types:
            if name not in self._store.event_types:
                nearest = get_close_matches(name, list(self._store.event_types), n=1)
                guess = f" (did you mean {nearest[0]!r}?)" if nearest else ""
                raise ConfigurationError(
                    f"there is no event type {name!r}{guess}; types of your own are given when the fake is made"
                )

    def _find_webhook(self, webhook_id: str) -> tuple[Application, Webhook]:
        found = self._store.find_webhook(webhook_id)
        if found is None:
            raise ConfigurationError(f"there is no webhook {webhook_id!r}")
        return found

    def _find_message(self, message_id: str) -> tuple[Application, Webhook, Message]:
        found = self._store.find_message(message_id)
        if found is None:
            raise ConfigurationError(f"there is no message {message_id!r}")
        return found


@attrs.frozen
class Upcoming:
    """An attempt that is planned or under way."""

    message_id: str
    webhook_id: str
    number: int
    due: datetime


class Inspection(Parts):
    """The methods of ``FakeBasiq`` that report what happened."""

    def now(self) -> datetime:
        """Return the time on the fake's clock."""
        return self.clock()

    @property
    def next_due(self) -> datetime | None:
        """The time of the next delivery attempt; None if none is planned."""
        return self._deliveries.agenda.next_due()

    @property
    def requests(self) -> Sequence[Request]:
        """The latest requests, oldest first: at most 10,000 and at most 64 MiB."""
        return tuple(record.request for record in self._requests)

    @property
    def request_log(self) -> Sequence[RequestRecord]:
        """The latest requests, oldest first, each with its status, duration and violations."""
        return tuple(self._requests)

    @property
    def deliveries(self) -> Sequence[DeliveredAttempt]:
        """The latest delivery attempts, oldest first: at most 10,000 and at most 64 MiB."""
        return tuple(self._deliveries.attempts)

    def numbered_deliveries(self) -> Iterator[tuple[int, DeliveredAttempt]]:
        """Return the latest delivery attempts, newest first, each with its number, which counts from 1."""
        return self._deliveries.attempts.numbered()

    def upcoming(self) -> Sequence[Upcoming]:
        """Return the attempts that are planned or under way, in the order of their due times."""
        return [
            Upcoming(planned.message.id, planned.webhook.id, planned.number, planned.due)
            for planned in self._deliveries.agenda.planned()
        ]

    @property
    def pending(self) -> int:
        """The number of attempts that are planned or under way."""
        return len(self._deliveries.agenda)

    @property
    def endpoints_down(self) -> Mapping[str | None, int | None]:
        """The urls of endpoints that are down (None: all), with the status of their responses (None: no response)."""
        return self._deliveries.outages.down

    @property
    def faults(self) -> Sequence[Fault]:
        """The faults for the next requests."""
        return self._faults.waiting()

    @property
    def delivery_faults(self) -> Sequence[DeliveryFault]:
        """The faults for the next deliveries."""
        return self._deliveries.outages.faults

    @property
    def violations(self) -> Sequence[Violation]:
        """The misuses of Basiq by callers and endpoints, such as requests that Basiq would refuse; the first 1,000."""
        return self._violations.seen()

    @property
    def revision(self) -> int:
        """The number of changes so far. While it stays the same, nothing has changed."""
        return self._changes.revision

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call ``changed`` after each change. Return a function that ends the calls."""
        return self._changes.watch(changed)

    def assert_no_violations(self) -> None:
        """Raise an ``AssertionError`` that lists the violations. Do nothing if none was recorded."""
        seen = self.violations
        if seen:
            raise AssertionError("Basiq was misused:" + "".join(f"\n- {v.code}: {v.detail}" for v in seen))

    @property
    def event_types(self) -> Mapping[str, str]:
        """The event types, each with its description."""
        return self._store.event_types

    def webhooks(self) -> Sequence[Webhook]:
        """Return the webhooks of all applications, in the order of their creation."""
        return sorted((webhook for _, webhook in self._store.each()), key=lambda webhook: webhook.serial)

    def find_message(self, message_id: str) -> Message | None:
        """Return the message with this id; None if it does not exist."""
        found = self._store.find_message(message_id)
        return None if found is None else found[2]

    def count_messages(self, webhook_id: str | None = None) -> int:
        """Return the number of messages of a webhook, or of all webhooks."""
        return sum(
            len(app.messages[webhook.id])
            for app, webhook in self._store.each()
            if webhook_id is None or webhook.id == webhook_id
        )

    def message_places(self) -> Mapping[int, int]:
        """Return the number of messages of each webhook, by the webhook's serial number."""
        return {webhook.serial: len(app.messages[webhook.id]) for app, webhook in self._store.each()}

    def messages(self, webhook_id: str | None = None) -> Iterator[Message]:
        """Return the messages of a webhook, or of all webhooks, newest first."""
        return (message for _, message in self.scan_messages(webhook_id))

    def scan_messages(
        self, webhook_id: str | None = None, before: Mapping[int, int] | None = None
    ) -> Iterator[tuple[tuple[int, int], Message]]:
        """Return the messages of a webhook, or of all webhooks, newest first, each with its place.

        A place is the webhook's serial number, and the message's position in the webhook's history.

        before: a position for each webhook, by its serial number; only messages before that position are returned.
            Webhooks that are not in the mapping are left out.
        """
        logs = [
            _placed(webhook.serial, app.messages[webhook.id], None if before is None else before.get(webhook.serial, 0))
            for app, webhook in self._store.each()
            if webhook_id is None or webhook.id == webhook_id
        ]
        return heapq.merge(*logs, key=lambda placed: placed[1].created, reverse=True)


def _placed(serial: int, log: Log[Message], before: int | None) -> Iterator[tuple[tuple[int, int], Message]]:
    if before == 0:
        return iter(())
    return (((serial, position), item) for position, item in log.scan_back(None if before is None else before - 1))
