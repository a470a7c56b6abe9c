"""What an inbox has noted about itself: the webhooks that deliver into it, and the jobs that post with it.

An inbox is one service at one Basiq account. A webhook that is not noted is refused before each use.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from functools import partial

import attrs

from ..errors import ConfigurationError, InboxError

NOTE = "webhooks"
"""The name of the note."""
JOBS = "posting jobs"
HANDLED = "handled types"
_MOST = 500
"""The number of webhooks and of jobs that are noted; an inbox has a few."""
_MOST_KEYS = 20
"""The number of API keys of the account that are known by their digests."""


Account = Callable[[str], str]
"""Returns a digest of the API key of whoever asks, for a salt."""


@attrs.frozen
class NotedWebhook:
    """A webhook of an inbox: since when the inbox has its live deliveries, or None; and its name at Basiq, if known."""

    since: datetime | None = None
    name: str | None = None


@attrs.frozen
class Noted:
    """The webhooks of an inbox, in the order in which they were noted, and whose account they are of.

    text: the note that says so; None for an inbox that was never used.
    """

    webhooks: Mapping[str, NotedWebhook] = attrs.field(factory=dict)
    salt: str = attrs.field(factory=partial(secrets.token_hex, 16))
    keys: tuple[str, ...] = ()
    """The salted digests of API keys with which Basiq has shown one of the webhooks."""
    text: str | None = attrs.field(default=None, eq=False)

    def is_of(self, account: Account) -> bool:
        """Return whether an API key is known to be of the account."""
        return account(self.salt) in self.keys

    def live(self) -> list[str]:
        """Return the webhooks whose live deliveries the inbox has."""
        return [each for each, webhook in self.webhooks.items() if webhook.since is not None]

    def admits(self, webhook_ids: Collection[str]) -> bool:
        """Return whether webhooks may use the inbox: it is empty, or has noted one of them."""
        return not self.webhooks or any(each in self.webhooks for each in webhook_ids)

    def is_replaced_by(self, name: str | None, listed: Collection[str], account: Account) -> bool:
        """Return whether it is proven that a webhook of this name, which Basiq has shown, took the place of these."""
        has_name = name is not None and any(each.name == name for each in self.webhooks.values())
        return has_name and not any(each in self.webhooks for each in listed) and self.is_of(account)

    def add(
        self,
        webhook_ids: Iterable[str],
        *,
        live: datetime | None = None,
        names: Mapping[str, str | None] = {},
        account: Account | None = None,
    ) -> Noted:
        """Return the note with these webhooks too.

        live: since when the inbox has their live deliveries, unless that is known. ``names``: those at Basiq.
        ``account``: of a key with which Basiq has shown one of them.
        """
        webhooks = dict(self.webhooks)
        for each in webhook_ids:
            found = webhooks.get(each, NotedWebhook())
            webhooks[each] = NotedWebhook(found.since or live, names.get(each) or found.name)
        key = None if account is None else account(self.salt)
        keys = self.keys if key is None or key in self.keys else (*self.keys, key)[-_MOST_KEYS:]
        return attrs.evolve(self, webhooks=dict(list(webhooks.items())[-_MOST:]), keys=keys)

    def write(self) -> str:
        """Return the note as text."""
        webhooks = {
            each: [found.since and found.since.isoformat(), found.name] for each, found in self.webhooks.items()
        }
        return json.dumps({"webhooks": webhooks, "salt": self.salt, "keys": self.keys})

    @classmethod
    def read(cls, text: str | None) -> Noted:
        """Parse the text of ``write``. Raises ``InboxError`` for any other text."""
        if text is None:
            return cls()
        try:
            fields = json.loads(text)
            webhooks = {str(each): _read_webhook(*found) for each, found in fields["webhooks"].items()}
            return cls(webhooks, str(fields["salt"]), tuple(map(str, fields["keys"])), text)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InboxError(
                "the inbox's note of its webhooks is damaged, so nothing says whose events it has: restore the inbox "
                "from a copy, or name its webhooks with `basiq-async inbox join`"
            ) from None


def refusal(known: Noted, webhook_ids: Collection[str]) -> ConfigurationError:
    """Return the error for webhooks that an inbox does not know."""
    others, own = (", ".join(map(repr, each)) for each in (known.webhooks, webhook_ids))
    return ConfigurationError(
        f"the inbox is of the webhook {others}, and not of {own}: nothing was handled or changed. If {own} is of "
        "another service, give it an inbox of its own: service= of a SQLInbox, another file, or another prefix. If it "
        "took the place of the other one, a person says so with `basiq-async inbox join`, which shows what waits and "
        "is in the quarantine"
    )


def refuse_others(webhook_ids: Collection[str], webhook_id: str) -> None:
    """Raise ``ConfigurationError`` for a webhook that is none of a receiver's."""
    if webhook_ids and webhook_id not in webhook_ids:
        raise ConfigurationError(
            f"the receiver is of the webhook {', '.join(map(repr, webhook_ids))}, not of {webhook_id!r}: it cannot "
            "tell what was handled of the other"
        )


def read_jobs(text: str | None) -> list[str]:
    """Return the jobs that have posted with an inbox, from its note."""
    try:
        return [str(each) for each in list(json.loads(text or "[]"))]
    except (ValueError, TypeError, RecursionError):
        return []


def add_job(text: str | None, job: str) -> str:
    """Return that note with one more job."""
    return json.dumps([*read_jobs(text)[1 - _MOST :], job])


def read_handled(text: str | None) -> tuple[str, ...]:
    """Return the patterns of event types for which receivers of an inbox had handlers, from its note."""
    return tuple(read_jobs(text))


def add_handled(text: str | None, patterns: Iterable[str]) -> str:
    """Return that note with these patterns too. They stay: a deploy may have lost a handler by mistake."""
    return json.dumps(list(dict.fromkeys([*read_jobs(text), *patterns]))[-_MOST:])


def _read_webhook(since: str | None, name: str | None) -> NotedWebhook:
    moment = datetime.fromisoformat(since) if since else None
    if moment is not None and moment.tzinfo is None:
        raise ValueError("not a moment")
    return NotedWebhook(moment, name if name is None else str(name))
