"""Make sure that a service has its one webhook: find it by its url, its former url or its name, else create it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from .._redaction.text import printable
from .._wire.hosts import show_url
from ..errors import ConfigurationError, ConflictError
from ..models import EnsureAction, EnsuredWebhook, EventTypeId, Webhook
from ._secret_keeper import SecretKeeper
from .api import with_usable_id
from .problems import is_inactive
from .resources import WEBHOOKS

if TYPE_CHECKING:
    from .webhooks import Webhooks

logger = logging.getLogger("basiq_async.webhooks")

_RACES = 10


@attrs.frozen
class Wanted:
    """What ``webhooks.ensure`` is asked for."""

    url: str
    event_types: Sequence[str]
    name: str | None
    description: str | None
    move_from: str | None
    remove_event_types: bool


async def ensure(webhooks: Webhooks, wanted: Wanted, keeper: SecretKeeper) -> EnsuredWebhook:
    """Do what ``Webhooks.ensure`` says."""
    done: EnsuredWebhook | None = None
    for left in reversed(range(_RACES)):
        existing = _choose(await webhooks.list().collect(), wanted) if done is None else await webhooks.get(done.id)
        if existing is None:
            try:
                done = await _create(webhooks, wanted, keeper)
            except ConflictError:
                if not left:
                    raise
            continue
        with_usable_id(existing)
        if done is None and wanted.url != existing.url != wanted.move_from:
            _log_elsewhere(existing, wanted)
            await keeper.keep(attrs.evolve(existing, secret=None))  # it may be another service's, so none is stored
            return _ensured(existing, "elsewhere")
        # Another service may have written what it read before this one wrote. Only a look afterwards shows that.
        if done is not None and _has_types(existing, wanted.event_types):
            return done
        written = await _bring_up_to(webhooks, existing, wanted, remove=wanted.remove_event_types and done is None)
        kept = await keeper.keep(written)
        written = attrs.evolve(written, secret=kept.secret)
        if written.action == "unchanged":
            return written
        check_enabled(written)
        done = written if done is None else attrs.evolve(written, action=done.action, same_name=done.same_name)
    raise ConflictError(
        "other services change the event types of this webhook again and again",
        status=409,
        method="POST",
        path=WEBHOOKS.path,
    )


def check_enabled(webhook: Webhook) -> None:
    """Raise ``ConfigurationError`` if a webhook still gets no deliveries after an update."""
    if is_inactive(webhook):
        raise ConfigurationError(
            f"Basiq has updated the webhook {printable(webhook.id)}, and its status is still "
            f"{printable(webhook.status)}: it gets no deliveries. The update may have made a new secret. Ask Basiq to "
            "enable the webhook; or recover what it missed (`recover`), delete it, and create it again "
            "(`webhooks.ensure`): it then has another id and another secret"
        )


def _choose(listed: Sequence[Webhook], wanted: Wanted) -> Webhook | None:
    """Return the webhook of the url, else that of the former url, else one of the same name; None without any."""
    of_url = next((each for each in listed if each.url == wanted.url), None)
    former = next((each for each in listed if each.url == wanted.move_from), None)
    if of_url is not None:
        if former is not None and former is not of_url:
            logger.warning(
                "both urls have a webhook: %s has the new one, and %s that of move_from, which still gets each event. "
                "Recover what it missed, then delete it",
                printable(of_url.id),
                printable(former.id),
            )
        return of_url
    return former or next(iter(_of_same_name(listed, wanted.name)), None)


def _of_same_name(listed: Sequence[Webhook], name: str | None) -> Sequence[Webhook]:
    """Return the webhooks of a name, those that get deliveries first. A list shows no order that stays."""
    return sorted(
        (each for each in listed if name and each.name == name), key=lambda each: (is_inactive(each), each.id)
    )


def _log_elsewhere(existing: Webhook, wanted: Wanted) -> None:
    logger.error(
        "the webhook %s with the name %s is at %s, and not at %s: nothing was created, moved or changed, and this url "
        "gets no deliveries. If the service has moved, its former url belongs into move_from of ensure: the webhook "
        "then delivers to the new url, and to the former one no more. A second service needs another name",
        printable(existing.id),
        printable(repr(existing.name)),
        printable(show_url(existing.url)),
        printable(show_url(wanted.url)),
    )


async def _create(webhooks: Webhooks, wanted: Wanted, keeper: SecretKeeper) -> EnsuredWebhook:
    created = await webhooks.create(
        url=wanted.url, subscribed_events=wanted.event_types, name=wanted.name, description=wanted.description
    )
    created = await keeper.keep(created)
    # Another process may have created one of this name, at another url, after this one has looked.
    listed = await webhooks.list().collect()
    alike = tuple(each.id for each in _of_same_name(listed, wanted.name) if each.id != created.id)
    if alike:
        logger.error(
            "the webhook %s was created at the same moment as %s, which has the same name, and each gets every event: "
            "delete one of them, after its events were recovered",
            printable(created.id),
            printable(", ".join(alike)),
        )
    return attrs.evolve(_ensured(created, "created"), same_name=alike)


async def _bring_up_to(webhooks: Webhooks, existing: Webhook, wanted: Wanted, *, remove: bool) -> EnsuredWebhook:
    asked = wanted.event_types
    extra = tuple(each for each in existing.subscribed_events if each not in asked)
    kept, removed = ((), extra) if remove else (extra, ())
    if kept:
        logger.warning(
            "the webhook %s stays subscribed to %s, which were not asked for; to remove them, pass "
            "remove_event_types=True",
            printable(existing.id),
            printable(", ".join(kept)),
        )
    # A webhook that names no types gets them all. Naming them would leave out those that Basiq adds later.
    types = None if _has_all_types(existing) and not remove else [*asked, *kept]
    inactive = is_inactive(existing)
    if not inactive and existing.url == wanted.url and _agrees(existing, wanted, types):
        return _ensured(existing, "unchanged", kept=kept)
    changed = await webhooks.update(
        existing.id, url=wanted.url, subscribed_events=types, name=wanted.name, description=wanted.description
    )
    return _ensured(changed, "reactivated" if inactive else "updated", kept=kept, removed=removed)


def _has_all_types(webhook: Webhook) -> bool:
    return not webhook.subscribed_events


def _has_types(webhook: Webhook, types: Sequence[str]) -> bool:
    return _has_all_types(webhook) or set(types) <= set(webhook.subscribed_events)


def _agrees(existing: Webhook, wanted: Wanted, types: Sequence[str] | None) -> bool:
    texts = ((existing.name, wanted.name), (existing.description, wanted.description))
    return (types is None or set(existing.subscribed_events) == set(types)) and all(
        asked is None or asked == found for found, asked in texts
    )


def _ensured(
    webhook: Webhook,
    action: EnsureAction,
    *,
    kept: tuple[EventTypeId, ...] = (),
    removed: tuple[EventTypeId, ...] = (),
) -> EnsuredWebhook:
    """Return a webhook together with the action, and the event types that were kept and removed."""
    fields = {field.name: getattr(webhook, field.name) for field in attrs.fields(Webhook)}
    return EnsuredWebhook(**fields, action=action, kept_event_types=kept, removed_event_types=removed)
