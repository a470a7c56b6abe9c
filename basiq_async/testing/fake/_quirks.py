"""The forms that a response of Basiq can take where its sources contradict each other, or say nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args, get_type_hints

import attrs


@attrs.frozen(kw_only=True)
class Quirks:
    """One switch for each thing that Basiq's own sources say in two ways, or not at all; the default comes first.

    What goes *in* is always taken in every form: both bodies of a test message, the messages path with and
    without a trailing slash, ``subscribedEvents`` as an array or as one string.
    """

    messages_path: Literal["plain", "slash"] = "plain"
    """Links to a webhook's messages: without (reference) or with (guide) a trailing slash."""
    subscribed_events: Literal["array", "string"] = "array"
    """``string``: a single event type stands by itself, as in the reference's examples."""
    list_data: Literal["array", "object"] = "array"
    """``object``: a list of one has that object as its ``data``, as in the example of listing webhooks."""
    type_case: Literal["lower", "title"] = "lower"
    """``type`` as ``webhook`` or as ``Webhook``."""
    attempts: Literal["objects", "strings"] = "objects"
    """``strings``: the attempts' ids alone, as the reference's schema has it."""
    attempt_order: Literal["newest-first", "oldest-first"] = "newest-first"
    """A message's attempts: the newest first, as in the reference's example, or the oldest."""
    message_order: Literal["oldest-first", "newest-first"] = "oldest-first"
    """The list of messages begins with the oldest or with the newest; no source says which."""
    event_order: Literal["oldest-first", "newest-first"] = "oldest-first"
    """The same for the list of events."""
    paging: Literal["item", "offset"] = "item"
    """A next link leads to the item that follows, or to a number of items from the list's beginning. With ``offset``
    the pages of a list that begins with the newest overlap where an item arrives between two of them."""
    status_code: Literal["integer", "string"] = "integer"
    """``responseStatusCode`` of an attempt: ``200`` or ``"200"``."""
    message_ids: Literal["payload", "top", "both"] = "payload"
    """Where ``eventTypeId`` and ``eventId`` of a message are; a delivery's body always has them."""
    links: Literal["object", "list"] = "object"
    """``links`` as one object or as a list of one."""
    event_data: Literal["object", "list"] = "object"
    """``data`` of an event as one object or as a list of one."""
    event_type: Literal["split", "dotted"] = "split"
    """``entity`` and ``eventType``, or ``eventTypeId`` such as ``consent.revoked``."""
    signing_key: Literal["prefixed", "bare", "unpadded"] = "prefixed"
    """A webhook's ``secret``: ``whsec_`` and base64; base64 alone; ``whsec_`` and base64 without its padding."""
    signing_key_in: Literal["writes", "everywhere", "nowhere"] = "writes"
    """Which responses about a webhook have it as ``secret``: create and update, all of them, none."""

    signing_key_on_update: Literal["kept", "new"] = "kept"
    """Whether an update leaves a webhook its secret or makes a new one: no source says. With ``new`` a rotation can be
    rehearsed."""

    @classmethod
    def each_form(cls) -> Iterator[Quirks]:
        """The default, then each other form by itself, then all of the last forms together."""
        yield cls()
        last: dict[str, str] = {}
        for name, hint in get_type_hints(cls).items():
            for form in get_args(hint)[1:]:
                yield cls(**{name: form})
                last[name] = form
        yield cls(**{**last, "signing_key_in": "writes"})  # type: ignore[arg-type]  # of the fields' own Literals
