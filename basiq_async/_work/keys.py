"""The keys of events in an inbox: the event's id, the same for each delivery, replay and recovery."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring_ascii as _quoted

from ..errors import ConfigurationError

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)
_LONGEST_KEY = 370
"""With a job that posts before it, a key is at most 400 characters."""
_POST = "post:"
_AGAIN = "again:"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_LONGEST = 400
_MOST_AT_ONCE = 500
"""The number of keys for one statement or script of an inbox."""


def inbox_key(event_id: str | None, message_id: str | None) -> str:
    """Return the inbox key of an event: its id, the same for a delivery and for a replayed message.

    Without an event id, it is made from the id of the message (``webhook-id`` of a delivery), so that such an event is
    handled once for each webhook that sends it. A key is ASCII, at most 400 characters; an id that is not has another
    form. Raises ``ConfigurationError`` if both are missing.
    """
    if event_id:
        # Every other form has a colon. JSON writes lone surrogates and control characters as ASCII.
        key = event_id if _PLAIN.fullmatch(event_id) else "event:" + _quoted(event_id)
    elif message_id:
        key = "message:" + _quoted(message_id)
    else:
        raise ConfigurationError("an inbox key needs an event id, or the id of the message")
    return key if len(key) <= _LONGEST_KEY else f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def posting_job(name: str) -> str:
    """Return the id of a job that posts, from its name or from the whole url that it posts to."""
    return f"{_POST}{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"


def key_of_post(job: str, key: str) -> str:
    """Return the key under which a job that posts records an event: what it posted is not handled."""
    return f"{job}:{key}"


def key_of_repeat(name: str, key: str) -> str:
    """Return the key under which an event is handled again, once for each name. It is an event of the service's."""
    found = f"{_AGAIN}{name}:{key}"
    return found if len(found) <= _LONGEST else f"{_AGAIN}{name}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def name_of_repeat(key: str) -> str | None:
    """Return the name under which the event of a key is handled again; None for any other key."""
    return key.removeprefix(_AGAIN).partition(":")[0] if key.startswith(_AGAIN) else None


def check_repeat_name(name: object) -> str:
    """Return a name under which events are handled again. Raises ``ConfigurationError`` for one that is not plain."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            'again must be a short name of letters, digits, "-", "_" and ".", such as "bug-1234": each event is '
            "handled again once for each name"
        )
    return name


def split_key(key: str) -> tuple[str | None, str]:
    """Return the job that posts, or None, and the service's key of the event."""
    if not key.startswith(_POST):
        return None, key
    job, _, rest = key.removeprefix(_POST).partition(":")
    return _POST + job, rest


def in_parts(keys: Iterable[str]) -> Iterator[list[str]]:
    """Yield the different keys in parts of at most 500, in order: two calls that meet cannot wait for each other."""
    different = sorted(set(keys))
    for start in range(0, len(different), _MOST_AT_ONCE):
        yield different[start : start + _MOST_AT_ONCE]
