"""Inspecting a fake: what happened, and what there is."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from datetime import datetime

from ...transports.base import Request
from ._deliveries import DeliveredAttempt
from ._parts import Parts
from ._recent import RequestRecord
from ._records import Message, Webhook
from ._violations import Violation


class Inspection(Parts):
    """The methods of ``FakeBasiq`` that tell what happened."""

    def now(self) -> datetime:
        """The time on its clock."""
        return self.clock()

    @property
    def next_due(self) -> datetime | None:
        """When the next attempt to deliver is due; None where there is none to come."""
        return self._deliveries.next_due()

    @property
    def requests(self) -> Sequence[Request]:
        """The latest requests, oldest first: at most ten thousand, and at most 64 MiB of them."""
        return tuple(record.request for record in self._requests)

    @property
    def request_log(self) -> Sequence[RequestRecord]:
        """The latest requests, oldest first, each with its status, duration and violations."""
        return tuple(self._requests)

    @property
    def deliveries(self) -> Sequence[DeliveredAttempt]:
        """The latest attempts to deliver, oldest first: at most ten thousand, and at most 64 MiB of them."""
        return self._deliveries.recent()

    @property
    def violations(self) -> Sequence[Violation]:
        """What a caller or an endpoint did that the real Basiq would refuse, or that misuses it."""
        return self._violations.seen()

    @property
    def revision(self) -> int:
        """How many changes there were: the same number means that nothing changed."""
        return self._changes.revision

    def assert_no_violations(self) -> None:
        """Raise an AssertionError that tells every violation, where there is one."""
        seen = self.violations
        if seen:
            raise AssertionError("Basiq was misused:" + "".join(f"\n- {v.code}: {v.detail}" for v in seen))

    def webhooks(self) -> Sequence[Webhook]:
        """Every webhook of every application, in the order of their creation."""
        return sorted((webhook for _, webhook in self._state.each()), key=lambda webhook: webhook.serial)

    def messages(self, webhook_id: str | None = None) -> Iterator[Message]:
        """The messages of a webhook, by default of every webhook, the newest first."""
        logs = [
            app.messages[webhook.id].newest_first()
            for app, webhook in self._state.each()
            if webhook_id is None or webhook.id == webhook_id
        ]
        return heapq.merge(*logs, key=lambda message: message.created, reverse=True)
