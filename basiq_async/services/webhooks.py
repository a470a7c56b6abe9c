"""Webhooks: the subscriptions of an application."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from .._arguments import Duration, check_event_type_ids, check_seconds, describe_unknown, select_texts
from .._redaction.text import printable
from .._signing.secret_file import TIME_LIMIT, SecretFile, SecretStore, WriteSecret, find_writer
from .._wire.urls import absolute_url, quote_segment
from .._work.clock import LoopClock, clock_of
from .._work.failures import failure_text
from .._work.limits import limit
from .._work.tasks import run_to_completion
from ..errors import (
    BadRequestError,
    ConfigurationError,
    ConflictError,
    RequestTimeoutError,
    ResponseDecodeError,
)
from ..models import EnsuredWebhook, Secret, Webhook
from ..pagination import OnUnreadable, Paginator
from .api import Api, Endpoint, encode
from .resources import WEBHOOKS

if TYPE_CHECKING:
    from .._work.protocol import Inbox
    from .diagnosis import DiagnosedReceiver, Diagnosis

logger = logging.getLogger("basiq_async.webhooks")

_FIRST_POLL, _LONGEST_POLL = 2.0, 30.0
_RACES = 10
_LAST_REQUEST = 0.5
"""How long the last request of ``wait_until_active`` may continue after the timeout, in seconds."""


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
        """Create a webhook that subscribes a url to event types. Keep the ``secret`` of the result.

        Deliveries can take up to 15 minutes to start (the vendor's guide): see ``wait_until_active``. Raises
        ``ConflictError`` if a webhook with this url exists, and ``BadRequestError`` for event types that do not exist.
        """
        return await self._write(self._api.at(WEBHOOKS.path), _body(url, subscribed_events, name, description))

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
    ) -> EnsuredWebhook:
        """Make sure that a webhook with this url, these event types, name and description exists and is not disabled.

        A missing webhook is created, and one that differs is updated. A disabled webhook, which gets no deliveries, is
        reactivated; events that happened meanwhile did not become messages. A ``name`` or ``description`` of None is
        not changed. Several processes may call this at once: after it wrote, it reads again, and adds its event types
        once more if another process has overwritten them.

        ``action`` of the result says what was done. Its ``secret`` is None if nothing was done, because only responses
        to create and update hold it.

        ``move_from``: the former url. If no webhook has the new one, that of the former gets it: its id, and so each
        key in an inbox, stays. Without it a new url makes a second webhook; if another one has the same ``name``,
        ``same_name`` of the result has its id, and the logger warns. Raises ``ConfigurationError`` if both urls have a
        webhook.

        ``secret``: a ``SecretFile``, another ``SecretStore``, or an async function, which stores each secret that Basiq
        returns before this returns, or is cancelled. Raises ``ConfigurationError`` if that fails. A ``SecretFile`` that
        cannot be written is found before the first request.

        Other event types of the webhook are kept, because another service, or an older version of this one, may rely on
        them. ``kept_event_types`` of the result names them, and the logger ``basiq_async.webhooks`` warns of them. With
        ``remove_event_types``, the webhook is unsubscribed from them, and the result has them as
        ``removed_event_types``.
        """
        body = _body(url, subscribed_events, name, description)
        if move_from is not None:
            absolute_url(move_from)
        encode(body)  # text that cannot be sent is refused before the first request
        file = secret if isinstance(secret, SecretFile) else None
        try:
            store = None if secret is None else find_writer(secret)
        finally:
            del secret  # error reporters show local variables, and a caller may have passed the text of a secret
        if file is not None:
            await file.check()
        done: EnsuredWebhook | None = None
        for left in reversed(range(_RACES)):
            listed = [each async for each in self.list()] if done is None else []
            existing = _choose(listed, url, move_from) if done is None else await self.get(done.id)
            if existing is None:
                try:
                    created = await self._write(self._api.at(WEBHOOKS.path), body)
                    await _store_secret(created, store)
                    alike = tuple(each.id for each in listed if name and each.name == name)
                    done = attrs.evolve(EnsuredWebhook.of(created, "created"), same_name=alike)
                    _warn_of_second(done)
                except ConflictError:
                    if not left:
                        raise
                continue
            # Another service may have written what it read before this one wrote. Only a look afterwards shows that.
            if done is not None and set(body["subscribedEvents"]) <= set(existing.subscribed_events):
                return done
            written = await self._bring_up_to(
                existing, body, move_from=move_from, remove=remove_event_types and done is None
            )
            if written.action == "unchanged":
                return written
            await _store_secret(written, store)
            done = written if done is None else attrs.evolve(written, action=done.action)
        raise ConflictError(
            "other services change the event types of this webhook again and again",
            status=409,
            method="POST",
            path=WEBHOOKS.path,
        )

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
        url: str,
        subscribed_events: Sequence[str] | None = None,
        name: str | None = None,
        description: str | None = None,
    ) -> Webhook:
        """Change a webhook. ``url`` is always sent; the other arguments are sent if they are not None.

        The result has the secret. Keep it: no source says whether an update makes a new one. A disabled webhook becomes
        active again. Raises ``NotFoundError`` if the webhook does not exist.
        """
        body = _texts(url, name, description)
        if subscribed_events is not None:
            body["subscribedEvents"] = check_event_type_ids("subscribed_events", subscribed_events)
        return await self._write(self._at(webhook_id), body)

    async def reactivate(self, webhook_id: str) -> Webhook:
        """Make a disabled webhook active again, and change nothing else.

        The webhook is updated with its own url, event types, name and description. The result has the secret. Keep it:
        no source says whether an update makes a new one. Events that happened while the webhook was disabled did not
        become messages: see ``recover``. Raises ``NotFoundError`` if the webhook does not exist.
        """
        found = await self.get(webhook_id)
        # All fields are sent, because the reference does not say whether an update clears a missing field.
        body = _texts(found.url, found.name, found.description)
        if found.subscribed_events:
            body["subscribedEvents"] = list(found.subscribed_events)
        return _with_an_id(await self._api.post(Webhook, self._at(webhook_id), body))

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

        waits = clock_of(self._api.transport) or LoopClock()
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
        identity: str | None = None,
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
        ``identity``: the identity of the webhook's service, if no receiver has noted it in the inbox.

        With ``test`` and a ``receiver`` or a ``secret``, a signed delivery of the event type ``basiq-async.test`` is
        posted to the webhook's url from this machine; a handler for ``*`` gets it. Otherwise nothing is posted. With a
        ``receiver``, the event types are also compared with its handlers. Nothing is changed at Basiq.

        Raises ``ConfigurationError`` for a receiver or an inbox of another webhook, the errors of requests to the API,
        and ``InboxError``. A problem of the webhook or of its endpoint is not raised: it is part of the result.
        """
        from ._diagnosis_data import diagnose

        work = diagnose(
            self._api,
            webhook_id,
            receiver=receiver,
            secret=secret,
            inbox=inbox,
            identity=identity,
            max_items=max_items,
            test=test,
        )
        del secret  # error reporters show local variables
        return await work

    async def _write(self, endpoint: Endpoint, body: dict[str, Any]) -> Webhook:
        """Create or update a webhook. A refusal says which event types are not documented: Basiq names none."""
        try:
            return _with_an_id(await self._api.post(Webhook, endpoint, body))
        except BadRequestError as exc:
            unknown = describe_unknown(body.get("subscribedEvents", ()))
            if unknown:
                exc.args = (f"{exc.detail or exc.title or 'the request was refused'} {', '.join(unknown)}",)
            raise

    def _at(self, webhook_id: str) -> Endpoint:
        return self._api.at(WEBHOOKS.one, webhook_id=webhook_id)

    async def _bring_up_to(
        self, existing: Webhook, body: dict[str, Any], *, move_from: str | None, remove: bool
    ) -> EnsuredWebhook:
        _with_an_id(existing)
        asked: list[str] = body["subscribedEvents"]
        extra = tuple(each for each in existing.subscribed_events if each not in asked)
        kept, removed = ((), extra) if remove else (extra, ())
        if kept:
            logger.warning(
                "the webhook %s stays subscribed to %s, which were not asked for; to remove them, pass "
                "remove_event_types=True",
                printable(existing.id),
                printable(", ".join(kept)),
            )
        body = {**body, "subscribedEvents": [*asked, *kept]}
        from .diagnosis import is_inactive  # it is large, and few programs need it

        inactive = is_inactive(existing)
        moves = move_from is not None and existing.url == move_from
        if not (inactive or moves) and _agrees(existing, body):
            return EnsuredWebhook.of(existing, "unchanged", kept=kept)
        texts = select_texts(name=existing.name, description=existing.description)
        changed = await self._write(self._at(existing.id), {**texts, **body})
        return EnsuredWebhook.of(changed, "reactivated" if inactive else "updated", kept=kept, removed=removed)


async def _store_secret(webhook: Webhook, store: WriteSecret | None) -> None:
    """Store the secret of a webhook, also if this is cancelled meanwhile: Basiq returns it only once."""
    secret = webhook.secret
    if store is None or secret is None:
        return

    async def write() -> None:
        try:
            async with limit(TIME_LIMIT, TimeoutError(f"nothing was stored within {TIME_LIMIT:g} s")):
                await store(secret)
        except Exception as exc:
            why = str(exc) if isinstance(exc, ConfigurationError) else failure_text(exc)
            raise ConfigurationError(
                f"the signing secret of the webhook {webhook.id} was not stored: {why}. Basiq returns it again when "
                "the webhook is updated: see `webhooks.reactivate`, or `basiq-async webhooks secret`"
            ) from None

    await run_to_completion(write)


def _with_an_id(webhook: Webhook) -> Webhook:
    """Return the webhook. Raises ``ResponseDecodeError`` for an id that is no segment of a path.

    Programs name files by it: a server must not choose where they write.
    """
    try:
        quote_segment(webhook.id, "id")
    except ConfigurationError as exc:
        why = str(exc)
    else:
        return webhook
    raise ResponseDecodeError(f"the webhook has no usable id: {why}", location="$.id", path=WEBHOOKS.path)


def _choose(listed: Sequence[Webhook], url: str, move_from: str | None) -> Webhook | None:
    """Return the webhook of a url, else that of the former url, if there is one."""
    of_url = next((each for each in listed if each.url == url), None)
    former = next((each for each in listed if each.url == move_from and move_from != url), None)
    if of_url is not None and former is not None:
        raise ConfigurationError(
            f"both urls have a webhook: {of_url.id!r} has the new one, and {former.id!r} that of move_from. Nothing "
            "was changed: delete one of them, or keep both, without move_from, and with both ids in the receiver's "
            "webhook_id"
        )
    return of_url if former is None else former


def _warn_of_second(created: EnsuredWebhook) -> None:
    if created.same_name:
        logger.warning(
            "the webhook %s was created beside %s, which has the same name, and both send each event: to change a url, "
            "pass move_from; to keep both, give the receiver both ids",
            printable(created.id),
            printable(", ".join(created.same_name)),
        )


def _texts(url: str, name: str | None, description: str | None) -> dict[str, Any]:
    return {"url": absolute_url(url), **select_texts(name=name, description=description)}


def _body(url: str, subscribed_events: Sequence[str], name: str | None, description: str | None) -> dict[str, Any]:
    events = check_event_type_ids("subscribed_events", subscribed_events)
    return {**_texts(url, name, description), "subscribedEvents": events}


def _agrees(existing: Webhook, wanted: dict[str, Any]) -> bool:
    return set(existing.subscribed_events) == set(wanted["subscribedEvents"]) and all(
        getattr(existing, field) == wanted[field] for field in ("name", "description") if field in wanted
    )
