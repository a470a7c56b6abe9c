"""Webhooks: the subscriptions of an application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._arguments import check_event_type_ids, check_from_zero, select_texts
from .._concurrency.clock import LoopClock, clock_of
from .._redaction.text import printable
from .._wire.urls import absolute_url
from ..errors import ConflictError, RequestTimeoutError
from ..models import EnsuredWebhook, Secret, Webhook
from ..pagination import OnUnreadable, Paginator
from .api import Api, Endpoint
from .diagnosis import is_inactive

if TYPE_CHECKING:
    from .._inbox.protocol import Inbox
    from .diagnosis import DiagnosedReceiver, Diagnosis, Recovered

logger = logging.getLogger("basiq_async.webhooks")

_ALL = "/notifications/webhooks"
_ONE = "/notifications/webhooks/{webhook_id}"
_FIRST_POLL, _LONGEST_POLL = 2.0, 30.0
_RACES = 3
_LAST_REQUEST = 0.5
"""How long the last request of ``wait_until_active`` may take beyond its timeout, in seconds."""


class Webhooks:
    """``/notifications/webhooks`` and ``/notifications/webhooks/{webhookId}``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def create(
        self,
        *,
        url: str,
        subscribed_events: Sequence[str],
        name: str | None = None,
        description: str | None = None,
    ) -> Webhook:
        """Subscribe a url to event types. No later response has the ``secret``: keep it.

        Deliveries can take up to 15 minutes to start (the vendor's guide): see ``wait_until_active``. Raises
        ``ConflictError`` where a webhook with this url exists, ``BadRequestError`` for types that do not exist.
        """
        return await self._api.post(Webhook, self._api.at(_ALL), _body(url, subscribed_events, name, description))

    async def ensure(
        self,
        *,
        url: str,
        subscribed_events: Sequence[str],
        name: str | None = None,
        description: str | None = None,
        remove_event_types: bool = False,
    ) -> EnsuredWebhook:
        """Have a webhook with this url, these event types and texts: find it, create it, update or reactivate it.

        Two processes may do the same at once. ``action`` of the result says what was done. A disabled webhook,
        which gets no deliveries, is reactivated: what happened meanwhile did not become messages. ``secret`` is there
        only where something was done: no other response holds it. A ``name`` or ``description`` of None is left as
        it is.

        Event types that the webhook has beside these stay (``kept_event_types``, and a warning in the log of
        ``basiq_async.webhooks``): another service, or an older version of this one, may rely on them. With
        ``remove_event_types`` they are taken away (``removed_event_types``).
        """
        body = _body(url, subscribed_events, name, description)
        races = _RACES
        while True:
            existing = await self._find(url)
            if existing is not None:
                return await self._bring_up_to(existing, body, remove=remove_event_types)
            races -= 1
            try:
                return EnsuredWebhook.of(await self._api.post(Webhook, self._api.at(_ALL), body), "created")
            except ConflictError:
                if not races:
                    raise

    def list(self, *, on_unreadable: OnUnreadable[Webhook] | None = None) -> Paginator[Webhook]:
        """All webhooks of the application, without their secrets. ``on_unreadable`` is that of ``messages.list``."""
        return self._api.listing(Webhook, self._api.at(_ALL), prefetch=0, on_unreadable=on_unreadable)

    async def get(self, webhook_id: str) -> Webhook:
        """One webhook, without its secret. Raises ``NotFoundError`` if it does not exist."""
        return await self._api.get(Webhook, self._at(webhook_id))

    async def update(
        self,
        webhook_id: str,
        *,
        url: str,
        subscribed_events: Sequence[str] | None = None,
        name: str | None = None,
        description: str | None = None,
    ) -> Webhook:
        """Change a webhook. ``url`` is always sent, the rest where it is not None. The result has the secret.

        Keep that secret: no source says whether an update makes a new one.

        A disabled webhook becomes active again. Raises ``NotFoundError`` if it does not exist.
        """
        body = _texts(url, name, description)
        if subscribed_events is not None:
            body["subscribedEvents"] = check_event_type_ids("subscribed_events", subscribed_events)
        return await self._api.post(Webhook, self._at(webhook_id), body)

    async def reactivate(self, webhook_id: str) -> Webhook:
        """Make a disabled webhook active again, and change nothing else. The result has the secret.

        It is updated with its own url, event types, name and description. No source says whether an update makes a new
        secret, so keep the one of the result. What happened while it was disabled did not
        become messages: see ``recover``. Raises ``NotFoundError`` if it does not exist.
        """
        found = await self.get(webhook_id)
        # Everything is sent: the reference does not say what becomes of a field that an update leaves out.
        body = _texts(found.url, found.name, found.description)
        if found.subscribed_events:
            body["subscribedEvents"] = list(found.subscribed_events)
        return await self._api.post(Webhook, self._at(webhook_id), body)

    async def delete(self, webhook_id: str) -> None:
        """Delete a webhook. Raises ``NotFoundError`` if it does not exist.

        Where an attempt that may have been carried out got no usable response, and the next one finds nothing, the
        first one did it.
        """
        endpoint = self._at(webhook_id)
        response = await self._api.request("DELETE", endpoint)
        if response.status == 404 and response.repeated:
            return
        self._api.acknowledge(response, "DELETE", endpoint)

    async def wait_until_active(self, webhook_id: str, *, timeout: float = 1020.0) -> Webhook:
        """Wait until the webhook's status is ``active``; ``timeout`` is in seconds. The pauses grow from 2 to 30 s.

        The cool-off can take 15 minutes (the vendor's guide). Raises ``RequestTimeoutError`` when the time is
        over, and what ``get`` raises.
        """
        check_from_zero("timeout", timeout, "of seconds")
        import random

        waits = clock_of(self._api.transport) or LoopClock()
        deadline = waits.time() + timeout
        wait = _FIRST_POLL
        limit = asyncio.timeout(timeout + _LAST_REQUEST if timeout else None)
        seen = "of a status that is not known yet"
        try:
            async with limit:
                while True:
                    webhook = await self.get(webhook_id)
                    if (webhook.status or "").lower() == "active":
                        return webhook
                    seen = f"still {webhook.status!r}"
                    left = deadline - waits.time()
                    if left <= 0:
                        break
                    await waits.sleep(min(left, wait * random.uniform(0.8, 1.0)))
                    wait = min(_LONGEST_POLL, wait * 1.5)
        except TimeoutError:
            if not limit.expired():
                raise
        raise RequestTimeoutError(f"the webhook is {seen} after {timeout:g} s")

    async def diagnose(
        self,
        webhook_id: str,
        *,
        receiver: DiagnosedReceiver | None = None,
        inbox: Inbox | None = None,
        secret: str | Secret | Sequence[str | Secret] | None = None,
        recovered: Recovered | None = None,
        max_items: int = 2_000,
    ) -> Diagnosis:
        """Find out whether a webhook works, and its problems if not.

        Looks at its status, its event types beside the vendor's list, and the newest ``max_items`` (0 for all) of its
        messages and of the events of the last 7 days. A list that begins with the oldest is read to its end. If
        more are left, that is a problem too: ``partial``.

        A message or event that was recovered is not a problem. It is known to be from ``inbox``, the receiver's by
        default, or from ``recovered``, which ``replay.recovered_by`` reads from the checkpoints of ``recover``:
        messages and events that they cover are not looked at.

        With a ``receiver`` or a ``secret``, also posts a signed delivery of the event type ``basiq-async.test`` to the
        webhook's url from here; a handler for ``*`` gets it. With a ``receiver``, also compares the event types with
        its handlers'. Changes nothing at Basiq.

        Raises what the requests to the API raise, and ``InboxError``; a problem of the webhook or of the endpoint is
        part of the result.
        """
        from ._diagnose import diagnose

        work = diagnose(
            self._api,
            webhook_id,
            receiver=receiver,
            secret=secret,
            inbox=inbox,
            recovered=recovered,
            max_items=max_items,
        )
        del secret  # error reporters show local variables
        return await work

    def _at(self, webhook_id: str) -> Endpoint:
        return self._api.at(_ONE, webhook_id=webhook_id)

    async def _find(self, url: str) -> Webhook | None:
        async for webhook in self.list():
            if webhook.url == url:
                return webhook
        return None

    async def _bring_up_to(self, existing: Webhook, body: dict[str, Any], *, remove: bool) -> EnsuredWebhook:
        asked: list[str] = body["subscribedEvents"]
        extra = tuple(each for each in existing.subscribed_events if each not in asked)
        kept, removed = ((), extra) if remove else (extra, ())
        if kept:
            logger.warning(
                "the webhook %s is subscribed to %s as well, and stays so: remove_event_types=True takes them away",
                printable(existing.id),
                printable(", ".join(kept)),
            )
        body = {**body, "subscribedEvents": [*asked, *kept]}
        deaf = is_inactive(existing)
        if not deaf and _agrees(existing, body):
            return EnsuredWebhook.of(existing, "unchanged", kept=kept)
        texts = select_texts(name=("name", existing.name), description=("description", existing.description))
        changed = await self._api.post(Webhook, self._at(existing.id), {**texts, **body})
        return EnsuredWebhook.of(changed, "reactivated" if deaf else "updated", kept=kept, removed=removed)


def _texts(url: str, name: str | None, description: str | None) -> dict[str, Any]:
    texts = select_texts(name=("name", name), description=("description", description))
    return {"url": absolute_url(url), **texts}


def _body(url: str, subscribed_events: Sequence[str], name: str | None, description: str | None) -> dict[str, Any]:
    events = check_event_type_ids("subscribed_events", subscribed_events)
    return {**_texts(url, name, description), "subscribedEvents": events}


def _agrees(existing: Webhook, wanted: dict[str, Any]) -> bool:
    return set(existing.subscribed_events) == set(wanted["subscribedEvents"]) and all(
        getattr(existing, field) == wanted[field] for field in ("name", "description") if field in wanted
    )
