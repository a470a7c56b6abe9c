"""The keys of events in an inbox: one key for each event of a webhook, the same for its receivers and its replays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring_ascii as _quoted

from ..errors import ConfigurationError

_LONGEST_KEY = 400
_DIGEST = "sha256:"
_WEBHOOK = "webhook:"
_JOB = "post:"
_MOST_AT_ONCE = 500
"""The number of keys for one statement or script of an inbox."""


def inbox_key(
    event_type_id: str | None, event_id: str | None, message_id: str | None, webhook_id: str | None = None
) -> str:
    """Return the inbox key of an event: the same for a delivery and for a replayed message.

    The key is made from the payload's event type and event id. If one of them is missing, it is made from the id of the
    message (``webhook-id`` of a delivery). A key with a ``webhook_id`` belongs to that webhook alone, so that several
    webhooks can share an inbox and each handles every event; only the keys of a receiver without an id have none. A key
    is ASCII, at most 400 characters. Raises ``ConfigurationError`` if all ids are missing.
    """
    if event_type_id and event_id:
        # JSON keeps the two ids apart, and writes lone surrogates and control characters as ASCII.
        key = f"event:[{_quoted(event_type_id)},{_quoted(event_id)}]"
    elif message_id:
        key = "message:" + _quoted(message_id)
    else:
        raise ConfigurationError("an inbox key needs an event type and event id, or the id of the message")
    if webhook_id:
        key = f"{_WEBHOOK}{_quoted(webhook_id)}:{key}"
    return key if len(key) <= _LONGEST_KEY else _digest(key)


def posting_job(name: str) -> str:
    """Return the id of a job that posts, from its name or from the whole url that it posts to."""
    return f"{_JOB}{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"


def owner_of_job(job: str, identity: str) -> str:
    """Return what stands in place of the webhook's id in the keys of a job that posts: what it posted is not handled.

    identity: the identity of the service whose events it posts.
    """
    return f"{job}:{identity}"


def identity_of(owner: str | None) -> str | None:
    """Return the identity that an owner of keys is, or for which it posts."""
    return owner.split(":", 2)[2] if owner is not None and owner.startswith(_JOB) and owner.count(":") > 1 else owner


def key_at_service(key: str, owner: str, identity: str) -> str | None:
    """Return the service's key for the key of a job that posts; None for a digest."""
    beginning = f"{_WEBHOOK}{_quoted(owner)}:"
    if not key.startswith(beginning):
        return None
    own = f"{_WEBHOOK}{_quoted(identity)}:{key.removeprefix(beginning)}"
    return own if len(own) <= _LONGEST_KEY else _digest(own)


def webhook_of(key: str) -> str | None:
    """Return the webhook that a key names; None if it names none, and for a digest."""
    if not key.startswith(_WEBHOOK):
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(key, len(_WEBHOOK))
    except ValueError:
        return None
    return found if isinstance(found, str) else None


def is_digest(key: str) -> bool:
    """Return whether a key stands for one that is too long: it does not show its webhook."""
    return key.startswith(_DIGEST)


def in_parts(keys: Iterable[str]) -> Iterator[list[str]]:
    """Yield the different keys in parts of at most 500, in order: two calls that meet cannot wait for each other."""
    different = sorted(set(keys))
    for start in range(0, len(different), _MOST_AT_ONCE):
        yield different[start : start + _MOST_AT_ONCE]


def _digest(key: str) -> str:
    return _DIGEST + hashlib.sha256(key.encode()).hexdigest()
