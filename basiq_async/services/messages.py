"""The messages of a webhook: its history, and test messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._arguments import checked_event_type_ids, optional_text
from .._urls import absolute_url, segment
from ..errors import ConfigurationError
from ..filters import Filter, filter_text
from ..models import Message
from ..pagination import Paginator
from ._api import Api

_MOST_A_PAGE = 500


class Messages:
    """``/notifications/webhooks/{webhookId}/messages`` and ``POST /notifications/messages/test``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(
        self,
        webhook_id: str,
        *,
        filter: str | Filter | None = None,
        limit: int = _MOST_A_PAGE,
        cursor: str | None = None,
        prefetch: int = 1,
    ) -> Paginator[Message]:
        """The history of a webhook, streamed.

        ``limit`` is how many messages a page holds, 1 to 500. ``filter`` is by date, status, eventTypeId or
        eventId, built with ``F`` or as plain text. ``cursor`` is what an earlier paginator's ``.cursor`` gave:
        it goes on with the very next message. ``prefetch`` is 1 to ask for the next page while this one is
        consumed, else 0. Raises ``ConfigurationError`` for arguments that cannot be.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _MOST_A_PAGE:
            raise ConfigurationError(f"limit must be a whole number from 1 to {_MOST_A_PAGE}")
        return self._api.listing(
            Message,
            f"/notifications/webhooks/{segment(webhook_id, 'webhook_id')}/messages",
            query={"limit": str(limit)},
            filter=filter_text(filter),
            cursor=cursor,
            prefetch=prefetch,
        )

    async def get(self, webhook_id: str, message_id: str) -> Message:
        """One message. Raises ``NotFoundError`` where there is none."""
        webhook, message = segment(webhook_id, "webhook_id"), segment(message_id, "message_id")
        url = self._api.base.url(f"/notifications/webhooks/{webhook}/messages/{message}")
        return self._api.read(Message, await self._api.answer("GET", url), "GET", url)

    async def send_test(self, event_type_id: str, *, text: str | None = None) -> None:
        """Have Basiq send a test message of a type of event to every webhook; ``text`` is played back.

        Raises ``BadRequestError`` with code ``no-webhooks-found`` where there is no webhook.
        """
        if not isinstance(event_type_id, str) or not event_type_id.strip():
            raise ConfigurationError("event_type_id must be the id of a type of event, such as user.created")
        body = {"eventTypeId": event_type_id, **optional_text(Text=("text", text))}
        await self._send(body)

    async def send_test_to(self, url: str, event_type_ids: Sequence[str]) -> None:
        """Have Basiq send test messages to one url: the form that the vendor's guide shows."""
        body = {"URL": absolute_url(url), "Events": checked_event_type_ids(event_type_ids, "event_type_ids")}
        await self._send(body)

    async def _send(self, body: dict[str, Any]) -> None:
        url = self._api.base.url("/notifications/messages/test")
        self._api.acknowledge(await self._api.answer("POST", url, body), "POST", url)
