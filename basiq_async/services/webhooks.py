"""Webhooks: the subscriptions of an application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._arguments import Duration, check_event_type_ids, check_seconds, describe_unknown, select_texts
from .._redaction.tracebacks import hide_arguments
from .._signing.secret_store import SecretStore, WriteSecret
from .._wire.urls import absolute_url
from .._work.clock import Clock, LoopClock, clock_of
from .._work.limits import limit
from ..errors import BadRequestError, RequestTimeoutError
from ..models import EnsuredWebhook, Secret, Webhook
from ..pagination import OnUnreadable, Paginator
from ._secret_keeper import SecretKeeper
from .api import Api, ResourceUrl, encode, with_usable_id
from .resources import WEBHOOKS

if TYPE_CHECKING:
    from .._work.protocol import Inbox
    from .diagnosis import DiagnosedReceiver, Diagnosis

_FIRST_POLL, _LONGEST_POLL = 2.0, 30.0
_LAST_REQUEST = 0.5
"""How long the last request of ``wait_until_active`` may continue after the timeout, in seconds."""


class Webhooks:
    """``/notifications/webhooks`` and ``/notifications/webhooks/{webhookId}``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    @property
    def _clock(self) -> Clock:
        return clock_of(self._api.transport) or LoopClock()

    async def create(
        self,
        *,
        url: str,
        subscribed_events: Sequence[str],
        name: str | None = None,
        description: str | None = None,
        secret: SecretStore | WriteSecret | None = None,
    ) -> Webhook:
        """Create a webhook that subscribes a url to event types.

        Keep the ``secret`` of the result, or pass a store as to ``ensure``.
        Deliveries can take up to 15 minutes to start (the vendor's guide): see ``wait_until_active``. Raises
        ``ConflictError`` if a webhook with this url exists, and ``BadRequestError`` for event types that do not exist.
        """
        try:
            keeper = self._keep_in(secret)
        finally:
            del secret  # error reporters show local variables, and a caller may have passed the text of a secret
        body = _body(url, subscribed_events, name, description)
        await keeper.begin()
        return await keeper.keep(await self._write(self._api.at(WEBHOOKS.path), body))

    async def ensure(
        self,
        *,
        url: str,
        subscribed_events: Sequence[str],
        name: str | None = None,
        description: str | None = None,
        move_from: str | None = None,
        remove_event_types: bool = False,
        secret: SecretStore | WriteSecret | None = None,
        inbox: Inbox | None = None,
    ) -> EnsuredWebhook:
        """Make sure that a webhook with this url, these event types, name and description exists and is not disabled.

        A missing webhook is created, and one that differs is updated. A disabled webhook, which gets no deliveries, is
        reactivated; events that happened meanwhile did not become messages. A ``name`` or ``description`` of None is
        not changed. Several processes may call this at once: after it wrote, it reads again, and adds its event types
        once more if another process has overwritten them.

        ``action`` of the result says what was done. Its ``secret`` is None if nothing was done, because only responses
        to create and update hold it.

        ``name``: the name of the service, which no other service of this account has. If a webhook of this name has
        another url, nothing is created, moved or changed: that webhook is returned, with the action ``elsewhere``, and
        an error is logged. So an older version of the service starts after its webhook has moved. Without a name, each
        new url makes another webhook, and each of them gets every event.

        ``move_from``: the former url. If no webhook has the new one, that of the former gets it: its id, and so each
        key in an inbox, stays, and its former url gets no more deliveries. If both urls have a webhook, that of the new
        one is taken, and the logger warns.

        ``secret``: a ``SecretFile``, another ``SecretStore``, or an async function, which stores each secret that Basiq
        returns before this returns, or is cancelled. Raises ``ConfigurationError`` if that fails; or if Basiq returned
        no secret, and the store has none, and still has none after 5 seconds. A store that cannot be read, and a
        ``SecretFile`` that cannot be written, is found before the first request. If another process stores a secret at
        the same time, the webhook is updated once more, so that the newest secret of the store is the valid one.

        ``inbox``: the inbox of the service. One that is empty is founded by this webhook. A webhook that took the place
        of the inbox's joins it by itself where Basiq proves that: it has the name of one that the inbox has noted, none
        of those exists any more, and the API key is one with which Basiq has shown one of them. Else it does not join,
        an error is logged, and a person decides with ``basiq-async inbox join``. ``joined`` of the result says which.
        Raises ``InboxError``, before anything is created or moved, if the inbox cannot be used.

        Other event types of the webhook are kept, because another service, or an older version of this one, may rely on
        them. ``kept_event_types`` of the result names them, and the logger ``basiq_async.webhooks`` warns of them. With
        ``remove_event_types``, the webhook is unsubscribed from them, and the result has them as
        ``removed_event_types``. A webhook that names no event types gets them all, and is left so.

        Raises ``ConfigurationError`` if Basiq says of the updated webhook that it is still disabled.
        """
        body = _body(url, subscribed_events, name, description)
        if move_from is not None:
            absolute_url(move_from)
        encode(body)  # text that cannot be sent is refused before the first request
        try:
            keeper = self._keep_in(secret)
        finally:
            del secret  # error reporters show local variables, and a caller may have passed the text of a secret
        from ._ensure import Wanted, ensure  # what they need is large, and few programs need it
        from ._joining import Joining

        joining = Joining(inbox, self._api.account)
        await joining.begin()
        await keeper.begin()

        types: Sequence[str] = body["subscribedEvents"]
        wanted = Wanted(body["url"], types, name, description, move_from, remove_event_types)
        return await joining.join(self, await ensure(self, wanted, keeper))

    def list(self, *, on_unreadable: OnUnreadable[Webhook] | None = None) -> Paginator[Webhook]:
        """List the application's webhooks, without their secrets. ``on_unreadable`` is as for ``messages.list``."""
        return self._api.listing(Webhook, self._api.at(WEBHOOKS.path), prefetch=0, on_unreadable=on_unreadable)

    async def get(self, webhook_id: str) -> Webhook:
        """Return one webhook, without its secret. Raises ``NotFoundError`` if it does not exist."""
        return await self._api.get(Webhook, self._at(webhook_id))

    async def update(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        subscribed_events: Sequence[str] | None = None,
        name: str | None = None,
        description: str | None = None,
        secret: SecretStore | WriteSecret | None = None,
    ) -> Webhook:
        """Change a webhook. What is None is not changed.

        No source says whether an update clears what a request leaves out. So the whole webhook is sent; what is None is
        read first. A webhook without event types gets all of them, and stays so: none are sent.

        The result has the secret. Keep it, or pass a store as to ``ensure``: no source says whether an update makes a
        new one. No source says either whether a disabled webhook becomes active again: look at the ``status``, or see
        ``reactivate``. Raises ``NotFoundError`` if the webhook does not exist.
        """
        try:
            keeper = self._keep_in(secret)
        finally:
            del secret
        body = select_texts(url=None if url is None else absolute_url(url), name=name, description=description)
        fields: dict[str, Any] = dict(body)
        if subscribed_events is not None:
            fields["subscribedEvents"] = check_event_type_ids("subscribed_events", subscribed_events)
        encode(fields)  # text that cannot be sent is refused before the first request
        await keeper.begin()
        if len(fields) < 4:
            found = await self.get(webhook_id)
            read = select_texts(url=found.url, name=found.name, description=found.description)
            types = {"subscribedEvents": [*found.subscribed_events]} if found.subscribed_events else {}
            fields = {**read, **types, **fields}
        return await keeper.keep(await self._write(self._at(webhook_id), fields))

    async def reactivate(self, webhook_id: str, *, secret: SecretStore | WriteSecret | None = None) -> Webhook:
        """Make a disabled webhook active again, and change nothing else.

        It is updated with its own url, event types, name and description. The result has the secret. Keep it, or pass a
        store as to ``ensure``: no source says whether an update makes a new one. Events that happened while the
        webhook was disabled did not become messages: see ``recover``. Raises ``NotFoundError`` if the webhook does not
        exist, and ``ConfigurationError`` if Basiq says that it is still disabled.
        """
        from ._ensure import check_enabled

        work = self.update(webhook_id, secret=secret)
        del secret  # error reporters show local variables, and a caller may have passed the text of a secret
        updated = await work
        check_enabled(updated)
        return updated

    async def delete(self, webhook_id: str) -> None:
        """Delete a webhook. Raises ``NotFoundError`` if it does not exist.

        If an attempt got no usable response, Basiq may still have deleted the webhook. A 404 to the next attempt then
        counts as success.
        """
        endpoint = self._at(webhook_id)
        response = await self._api.request("DELETE", endpoint)
        if response.status == 404 and response.repeated:
            return
        self._api.acknowledge(response, "DELETE", endpoint)

    async def wait_until_active(self, webhook_id: str, *, timeout: Duration = 1020.0) -> Webhook:
        """Request a webhook again and again until its status is ``active``. The pauses grow from 2 to 30 seconds.

        ``timeout`` is in seconds. The cool-off can take 15 minutes (the vendor's guide). Raises ``RequestTimeoutError``
        when the timeout has passed, and the errors of ``get``.
        """
        timeout = check_seconds("timeout", timeout, from_zero=True)
        import random

        waits = self._clock
        deadline = waits.time() + timeout
        wait = _FIRST_POLL
        seen = "in an unknown status"

        def not_active() -> RequestTimeoutError:
            return RequestTimeoutError(f"the webhook is {seen} after {timeout:g} s")

        async with limit(timeout + _LAST_REQUEST if timeout else None, not_active):
            while True:
                webhook = await self.get(webhook_id)
                if (webhook.status or "").lower() == "active":
                    return webhook
                seen = f"still {webhook.status!r}"
                left = deadline - waits.time()
                if left <= 0:
                    raise not_active()
                await waits.sleep(min(left, wait * random.uniform(0.8, 1.0)))
                wait = min(_LONGEST_POLL, wait * 1.5)

    async def diagnose(
        self,
        webhook_id: str,
        *,
        receiver: DiagnosedReceiver | None = None,
        inbox: Inbox | None = None,
        secret: str | Secret | Sequence[str | Secret] | None = None,
        max_items: int | None = 2_000,
        test: bool = False,
    ) -> Diagnosis:
        """Find out whether a webhook works, and which problems it has.

        Reads the webhook's status, compares its event types with Basiq's list, and reads the first ``max_items`` (None
        for all) of its messages and of the events of the last 7 days. If some were not read, the result has the problem
        ``partial``: in a list that begins with the oldest item, the newest were not.

        The ``inbox`` (by default the receiver's) says which messages and events were handled, live or by a recovery:
        these are no problem. It keeps what recoveries found out, so that what they cover need not be read. If a
        receiver of the webhook has used the inbox, messages that Basiq delivered and the inbox lacks are a problem.

        With ``test`` and a ``receiver`` or a ``secret``, a signed delivery of the event type ``basiq-async.test`` is
        posted to the webhook's url from this machine; a handler for ``*`` gets it. Otherwise nothing is posted. With a
        ``receiver``, the event types are also compared with its handlers. Nothing is changed at Basiq.

        Raises ``ConfigurationError`` for a receiver of another webhook, the errors of requests to the API,
        and ``InboxError``. A problem of the webhook or of its endpoint is not raised: it is part of the result.
        """
        from ._diagnosis_data import diagnose

        work = diagnose(
            self._api,
            webhook_id,
            receiver=receiver,
            secret=secret,
            inbox=inbox,
            max_items=max_items,
            test=test,
        )
        del secret  # error reporters show local variables
        return await work

    async def _write(self, endpoint: ResourceUrl, body: dict[str, Any]) -> Webhook:
        """Create or update a webhook. A refusal says which event types are not documented: Basiq names none."""
        try:
            return with_usable_id(await self._api.post(Webhook, endpoint, body))
        except BadRequestError as exc:
            unknown = describe_unknown(body.get("subscribedEvents", ()))
            if unknown:
                exc.args = (f"{exc.detail or exc.title or 'the request was refused'} {', '.join(unknown)}",)
            raise

    @hide_arguments
    def _keep_in(self, secret: SecretStore | WriteSecret | None) -> SecretKeeper:
        return SecretKeeper(secret, self._clock, self.update)

    def _at(self, webhook_id: str) -> ResourceUrl:
        return self._api.at(WEBHOOKS.one, webhook_id=webhook_id)


def _body(url: str, subscribed_events: Sequence[str], name: str | None, description: str | None) -> dict[str, Any]:
    events = check_event_type_ids("subscribed_events", subscribed_events)
    texts = select_texts(name=name, description=description)
    return {"url": absolute_url(url), **texts, "subscribedEvents": events}
