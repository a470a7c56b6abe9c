"""The parts of a fake, and the reports about its requests, deliveries and messages."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

import attrs

from ...transports.base import Request
from ._clock import Clock
from ._deliveries import DeliveredAttempt, Deliveries
from ._faults import DeliveryFault, Fault, Faults
from ._logs import Changes, Recent, RequestRecord, Violation, Violations, size_of
from ._records import Log, Message, Webhook
from ._store import Store
from ._tokens import Tokens

DEFAULT_API_KEY = "ZmFrZS1hcHBsaWNhdGlvbjpub3QtYS1yZWFsLWtleQ=="


@attrs.frozen
class Upcoming:
    """An attempt that is planned or under way."""

    message_id: str
    webhook_id: str
    number: int
    due: datetime


class Inspection:
    """The parts of a fake, which know each other, and the reports about what happened."""

    def __init__(self, store: Store, delivery_timeout: float) -> None:
        self.clock: Clock = store.clock
        self._store = store
        self._changes = Changes()
        self._violations = Violations(store.clock)
        self._tokens = Tokens(store, self._violations)
        self._deliveries = Deliveries(store, self._violations, self._changes, timeout=delivery_timeout)
        self._timeline = self._deliveries.timeline
        self._faults: Faults[Fault] = Faults()
        self._requests: Recent[RequestRecord] = Recent(
            lambda record: size_of(record.request.headers, record.request.body, record.request.url)
        )

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
        return dict(self._deliveries.outages.down)

    @property
    def faults(self) -> Sequence[Fault]:
        """The faults for the next requests."""
        return self._faults.waiting()

    @property
    def delivery_faults(self) -> Sequence[DeliveryFault]:
        """The faults for the next deliveries."""
        return self._deliveries.outages.faults.waiting()

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
