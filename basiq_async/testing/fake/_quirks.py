"""The forms and rules of the fake that Basiq's own sources leave open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import attrs

from ...errors import ConfigurationError


@attrs.frozen(kw_only=True, repr=False)
class Quirks:
    """A switch for each point that Basiq's own sources state in two ways or not at all. The first value is the default.

    Requests are accepted in every form: both bodies of a test message, the messages path with and without a
    trailing slash, and ``subscribedEvents`` as an array or as one string.
    """

    messages_path: Literal["plain", "slash"] = "plain"
    """Links to a webhook's messages: without (reference) or with (guide) a trailing slash."""
    subscribed_events: Literal["array", "string"] = "array"
    """``string``: a single event type is a string, as in the reference's examples, not an array."""
    list_data: Literal["array", "object"] = "array"
    """``object``: ``data`` of a list with one item is that item, as in the reference's example of listing webhooks."""
    type_case: Literal["lower", "title"] = "lower"
    """The spelling of ``type``: ``webhook`` or ``Webhook``."""
    attempts: Literal["objects", "strings", "absent"] = "objects"
    """The ``attempts`` of each message in a list. ``strings``: only their ids, as in the reference's schema.
    ``absent``: none, as in the reference's example of a list."""
    attempts_by_id: Literal["objects", "strings", "absent"] = "objects"
    """The ``attempts`` of a message that is read by its id. ``objects``: as in the reference's example. ``strings``: as
    in its schema, which does not require them either: ``absent``."""
    attempt_order: Literal["newest-first", "oldest-first"] = "newest-first"
    """The order of a message's attempts. The reference's example has the newest first."""
    message_order: Literal["oldest-first", "newest-first"] = "oldest-first"
    """The order of the list of messages. No source states it."""
    event_order: Literal["oldest-first", "newest-first"] = "oldest-first"
    """The order of the list of events. No source states it."""
    paging: Literal["item", "offset", "last-item"] = "item"
    """A ``next`` link names the item that follows, a number of items to skip, or the last item of its page. With
    ``offset`` and the newest items first, two pages overlap if an item arrives between their requests."""
    listed: Literal["emitted", "attempted"] = "emitted"
    """When the list of messages shows a message: at once, or when its first attempt has ended. A message whose first
    attempt takes long then appears among newer ones."""
    payloads: Literal["kept", "expire-90d"] = "kept"
    """``expire-90d``: after 90 days, the ``payload`` of a message is ``{"expired": true}``, and the message is not
    delivered any more."""
    status_filter: Literal["latest", "outcome"] = "latest"
    """What a filter by ``status`` looks at. ``latest``: the message's latest attempt. ``outcome``: ``Success`` is any
    successful attempt; ``Failed`` is none, and no attempt to come."""
    status_code: Literal["integer", "string"] = "integer"
    """The type of an attempt's ``responseStatusCode``: ``200`` or ``"200"``."""
    no_response: Literal["null", "zero"] = "null"
    """The ``responseStatusCode`` of an attempt that got no response: null, or 0."""
    responses: Literal["1000-bytes", "20000-bytes"] = "1000-bytes"
    """How much an attempt keeps of the endpoint's response."""
    binary_responses: Literal["replaced", "base64"] = "replaced"
    """A response that is not UTF-8: what cannot be decoded is replaced, or all of it is in base64."""
    message_ids: Literal["payload", "top", "both"] = "payload"
    """The place of ``eventTypeId`` and ``eventId`` in a message. A delivery's body always has them."""
    links: Literal["object", "list"] = "object"
    """``links`` is one object, or a list with one object."""
    event_data: Literal["object", "list"] = "object"
    """``data`` of an event is one object, or a list with one object."""
    event_type: Literal["split", "dotted"] = "split"
    """An event has ``entity`` and ``eventType``, or ``eventTypeId`` such as ``consent.revoked``."""
    signing_key: Literal["prefixed", "bare", "unpadded"] = "prefixed"
    """The form of a webhook's ``secret``: ``whsec_`` and base64; base64 only; ``whsec_`` and base64 without padding."""
    signing_key_in: Literal["writes", "everywhere", "nowhere"] = "writes"
    """The responses about a webhook that contain its ``secret``: create and update, all, or none."""

    update: Literal["mixed", "replaces", "patches"] = "mixed"
    """An update's effect. ``mixed``: fields that the body omits stay, and a disabled webhook becomes active again.
    ``replaces``: the body is the whole webhook, so that without ``name`` it has none; a disabled webhook becomes active
    again. ``patches``: fields that the body omits stay, and a disabled webhook stays disabled. No source states it."""
    without_events: Literal["all", "absent"] = "all"
    """A webhook that was written without ``subscribedEvents``. ``all``: it shows all event types of that moment, and
    gets those. ``absent``: it shows none, and gets every event, also of types that are added later."""
    signing_key_on_update: Literal["kept", "new"] = "kept"
    """Whether an update keeps a webhook's secret or makes a new one. No source states it. Use ``new`` to rehearse a
    rotation of secrets."""
    former_key: Literal["dropped", "signs-24h"] = "dropped"
    """``signs-24h``: for 24 hours after an update made a new secret, deliveries carry a signature of the former one
    too. No source states it."""
    disables: Literal["exhausted", "failing-120h", "removed"] = "exhausted"
    """When a webhook is disabled. ``exhausted``: after the eighth failed attempt of any message. ``failing-120h``: only
    if another message had its eighth more than 120 hours earlier, and less than 240; a successful attempt clears that,
    and an update does not. ``removed``: after the eighth, the webhook is deleted in place of being disabled, with all
    its messages. The source says "subject to removal or disabling, depending on the specific circumstances"."""
    waits: Literal["fixed", "jittered"] = "fixed"
    """The waits between attempts. ``fixed``: those of the schedule, from the beginning of the attempt before.
    ``jittered``: each up to a fifth shorter or longer, from its end: 22 to 33 hours in all."""
    after_timeout: Literal["as-scheduled", "60s"] = "as-scheduled"
    """``60s``: after an attempt without a response in time, the wait is at least 60 seconds, before the jitter."""
    retry_after: Literal["ignored", "obeyed"] = "ignored"
    """``obeyed``: a wait that the endpoint's ``Retry-After`` asks for is granted, up to twice the scheduled one."""
    failed_connection: Literal["once", "twice"] = "once"
    """``twice``: a connection that fails within a second is tried again at once, with the same headers, as a part of
    the same attempt. An endpoint whose response was lost then gets the delivery twice."""
    resend: Literal["beside", "instead"] = "beside"
    """What ``redeliver`` does to the attempts that are planned for the message. ``beside``: they are made too.
    ``instead``: they are dropped, whatever the result; and a disabled webhook gets nothing."""
    unsubscribed: Literal["retried", "dropped"] = "retried"
    """The further attempts of a message whose type the webhook is no longer subscribed to."""
    webhook_ids: Literal["each", "shared"] = "each"
    """The id of a message, which is its ``webhook-id``: ``shared``: all webhooks get an event with the same one."""
    delivery_order: Literal["emitted", "random"] = "emitted"
    """The order in which deliveries that are due at the same time begin. ``random`` follows from the fake's seed."""
    concurrency: int | None = None
    """How many deliveries are under way at once. None: one that a test makes, and 32 that a server makes."""
    expired_response: Literal["401", "403"] = "401"
    """The status of a response to an expired token; ``403``, with the detail ``Token has expired``, as the page on
    errors has it for about twenty endpoints."""
    unknown_key_response: Literal["400", "404"] = "400"
    """The status of a response to a token call with an unknown API key; ``404`` as on the page on errors."""

    def __attrs_post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigurationError(f"concurrency must be 1 or more, not {self.concurrency!r}")
        for name, forms in _forms().items():
            if (form := getattr(self, name)) not in forms:
                raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, forms))}, not {form!r}")

    def __repr__(self) -> str:
        default = {name: forms[0] for name, forms in self.forms().items()}
        changed = {name: form for name, form in attrs.asdict(self).items() if form != default.get(name)}
        return f"Quirks({', '.join(f'{name}={form!r}' for name, form in changed.items())})"

    @classmethod
    def engine(cls, **changes: Any) -> Self:
        """Return the rules of the engine that Basiq probably runs (svix-server), read from its source.

        changes: quirks to set differently, such as ``Quirks.engine(update="patches")``.
        """
        rules: dict[str, Any] = {
            "attempts": "absent",
            "message_order": "newest-first",
            "event_order": "newest-first",
            "paging": "last-item",
            "listed": "attempted",
            "payloads": "expire-90d",
            "status_filter": "outcome",
            "no_response": "zero",
            "responses": "20000-bytes",
            "binary_responses": "base64",
            "update": "replaces",
            "without_events": "absent",
            "former_key": "signs-24h",
            "disables": "failing-120h",
            "waits": "jittered",
            "after_timeout": "60s",
            "retry_after": "obeyed",
            "failed_connection": "twice",
            "resend": "instead",
            "unsubscribed": "dropped",
            "webhook_ids": "shared",
            "delivery_order": "random",
            "concurrency": 32,
        }
        return cls(**{**rules, **changes})

    @classmethod
    def forms(cls) -> dict[str, tuple[str, ...]]:
        """Return the forms of each quirk, the default first; those of a number are not listed."""
        return dict(_forms())

    @classmethod
    def each_form(cls) -> Iterator[Quirks]:
        """Yield the defaults; then, for each quirk, each of its other forms; then all quirks with their last forms."""
        yield cls()
        last: dict[str, str] = {}
        for name, forms in cls.forms().items():
            for form in forms[1:]:
                yield cls(**{name: form})  # type: ignore[arg-type]  # of the field's own Literal
                last[name] = form
        yield cls(**{**last, "signing_key_in": "writes"})  # type: ignore[arg-type]  # of the fields' own Literals


@cache
def _forms() -> Mapping[str, tuple[str, ...]]:
    return {name: get_args(hint) for name, hint in get_type_hints(Quirks).items() if get_origin(hint) is Literal}
