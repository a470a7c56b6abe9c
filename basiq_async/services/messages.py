"""The messages of a webhook: its history, and test messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._arguments import check_event_type_ids, select_texts
from .._wire.urls import absolute_url
from ..errors import ConfigurationError
from ..filters import Filter
from ..models import Message
from ..pagination import OnUnreadable, Paginator
from .api import MOST_A_PAGE, Api
from .resources import MESSAGES, TEST_MESSAGES


class Messages:
    """``/notifications/webhooks/{webhookId}/messages`` and ``POST /notifications/messages/test``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(
        self,
        webhook_id: str,
        *,
        filter: str | Filter | None = None,
        page_size: int = MOST_A_PAGE,
        cursor: str | None = None,
        prefetch: int = 1,
        on_unreadable: OnUnreadable[Message] | None = None,
    ) -> Paginator[Message]:
        """List the messages of a webhook: its history.

        filter: by date, status, eventTypeId or eventId. Build it with ``F``, or write it as plain text.
        page_size: how many messages a page holds, 1 to 500.
        cursor: the ``cursor`` of an earlier paginator. The list resumes with the next message after it. If Basiq
            refuses its page, the last message is searched for by its id.
        prefetch: 1 to request the next page while the current one is consumed, else 0.
        on_unreadable: called with an ``UnreadableItem`` for a message that cannot be read. It returns a message to
            yield instead, or None to skip the message. Without it, such a message raises ``ResponseDecodeError``.

        Raises ``ConfigurationError`` for invalid arguments.
        """
        return self._api.listing(
            Message,
            self._api.at(MESSAGES.path, webhook_id=webhook_id),
            page_size=page_size or 0,  # refused, as None is
            filter=filter,
            cursor=cursor,
            prefetch=prefetch,
            on_unreadable=on_unreadable,
        )

    async def get(self, webhook_id: str, message_id: str) -> Message:
        """Return one message. Raises ``NotFoundError`` if it does not exist."""
        return await self._api.get(Message, self._api.at(MESSAGES.one, webhook_id=webhook_id, message_id=message_id))

    async def send_test(self, event_type_id: str, *, text: str | None = None) -> None:
        """Have Basiq send a test message of an event type to every webhook. The message repeats ``text``.

        Raises ``BadRequestError`` with code ``no-webhooks-found`` if no webhook exists.
        """
        if not isinstance(event_type_id, str) or not event_type_id.strip():
            raise ConfigurationError("event_type_id must be the id of an event type, such as user.created")
        await self._send({"eventTypeId": event_type_id, **select_texts(Text=text)})

    async def send_test_to(self, url: str, event_type_ids: Sequence[str]) -> None:
        """Have Basiq send test messages of event types to one url, with the request that the vendor's guide shows."""
        await self._send({"URL": absolute_url(url), "Events": check_event_type_ids("event_type_ids", event_type_ids)})

    async def _send(self, body: dict[str, Any]) -> None:
        endpoint = self._api.at(TEST_MESSAGES)
        self._api.acknowledge(await self._api.request("POST", endpoint, body), "POST", endpoint)
