"""The operations of Basiq's API reference, and their paths."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import parse_qsl, unquote

import attrs

from ...transports.base import Request, Response
from ._checks import is_url
from ._deliveries import Deliveries
from ._histories import UUID, Log
from ._items import FakeEvent, FakeMessage, FakeWebhook
from ._lists import MAX_LIMIT, Fields, attributes, page_of, properties
from ._logs import Misuses
from ._resources import kind_of, look_up
from ._responses import Json, Refusal, Renderer, json_response
from ._store import Application, Store

T = TypeVar("T")
L = TypeVar("L", bound=FakeEvent | FakeMessage)
EVENTS_SHOWN = timedelta(days=7)
FORMER_KEY_SIGNS = timedelta(hours=24)
MOST_FORMER_KEYS = 10
_EVENT_ID = re.compile(r"[0-9A-Za-z_-]{1,128}", re.ASCII)
_EVENT_TYPE_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z][A-Za-z0-9_-]*)+", re.ASCII)


@attrs.define
class ApiCall:
    """One request to an operation, with the parts of the fake that the operation needs."""

    store: Store
    deliveries: Deliveries
    misuses: Misuses
    render: Renderer
    request: Request
    path: str
    query_text: str
    now: datetime
    params: dict[str, str] = attrs.field(factory=dict[str, str])

    @property
    def app(self) -> Application:
        return self.store.app

    def query(self) -> dict[str, str]:
        """Return the query's parameters. Raises ``Refusal`` for a repeated one."""
        try:
            pairs = parse_qsl(self.query_text, keep_blank_values=True, max_num_fields=100)
        except ValueError:
            raise Refusal("parameter-not-valid", "The query has too many parameters.", "query") from None
        query: dict[str, str] = {}
        for name, value in pairs:
            if name in query:
                raise Refusal("parameter-not-valid", "The parameter occurs more than once.", name or "query")
            query[name] = value
        return query

    def json(self) -> Json:
        """Return the body, a JSON object. Raises ``Refusal`` for any other body."""
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal("invalid-content", "The content type must be application/json.", "Content-Type")
        try:
            body = json.loads(self.request.body or b"")
        except (ValueError, RecursionError):
            raise Refusal("invalid-content", "The body is not JSON.", "body") from None
        if not isinstance(body, dict):
            raise Refusal("invalid-content", "The body is not a JSON object.", "body")
        return body

    def webhook(self) -> FakeWebhook:
        """Return the webhook that the path names. Raises ``Refusal`` for an unknown one."""
        return WEBHOOKS.find(self)


def _listing(
    call: ApiCall,
    self_path: str,
    items: Callable[[int | None], Iterable[tuple[int, T]]],
    show: Callable[[T], Json],
    fields: Fields | None = None,
    *,
    newest_first: bool = False,
) -> Response:
    """Return a page of a list. ``items`` returns the items from a position on, or from the beginning for None."""
    query = call.query()
    limit = query.get("limit", "")[:10]  # Python refuses to read thousands of digits
    if limit.isdecimal() and int(limit) > MAX_LIMIT:
        call.misuses.add("limit", f"a limit of {limit}: the maximum is {MAX_LIMIT}")
    paging = call.render.quirks.paging
    # A cursor of another list, order or kind is refused.
    scope = f"{self_path.removeprefix(call.render.base)} {newest_first} {paging}"
    taken, cursor = page_of(scope, query, call.store.page_size, items, fields, paging)
    links = {"self": self_path}
    if cursor is not None:
        links["next"] = f"{self_path}?next={cursor}"
    return json_response(call.render.listing([show(item) for item in taken], links))


@attrs.frozen
class WebhookBody:
    """The checked body of a create or an update. What it does not have is None."""

    url: str
    events: tuple[str, ...] | None
    name: str | None
    description: str | None


def _read_webhook(call: ApiCall, itself: FakeWebhook | None) -> WebhookBody:
    body = call.json()
    url, names = _url(body), body.get("subscribedEvents")
    events = _event_list(call, names, "subscribedEvents") if "subscribedEvents" in body else None
    found = WebhookBody(url, events, _text(body, "name"), _text(body, "description"))
    if call.app.by_url(url) not in (None, itself):
        raise Refusal("resource-already-exists", "A webhook with this url exists.", "url")
    return found


def _subscription(call: ApiCall, body: WebhookBody) -> tuple[tuple[str, ...], bool]:
    """Return the event types that a webhook is subscribed to, and whether it gets those that are added later too."""
    if body.events is not None:
        return body.events, False
    return tuple(call.store.event_types), call.store.quirks.without_events == "absent"


def create_webhook(call: ApiCall) -> Response:
    """Create a webhook. Without ``subscribedEvents``, which the reference leaves optional, it gets every event type."""
    body = _read_webhook(call, None)
    events, every_type = _subscription(call, body)
    webhook = call.store.add_webhook(
        body.url, events, name=body.name, description=body.description, every_type=every_type
    )
    return json_response(call.render.webhook(webhook, call.now, written=True), 201)


def update_webhook(call: ApiCall) -> Response:
    """Update a webhook. The quirk ``update`` says what becomes of fields that the body omits, and of the status.

    No source says whether the secret stays the same. It does, unless the quirk ``signing_key_on_update`` is ``new``.
    """
    webhook, rule = call.webhook(), call.store.quirks.update
    body = _read_webhook(call, webhook)
    if rule == "replaces":
        webhook.name = webhook.description = None
    if rule == "replaces" or body.events is not None:
        webhook.events, webhook.every_type = _subscription(call, body)
    webhook.url = body.url
    webhook.name = webhook.name if body.name is None else body.name
    webhook.description = webhook.description if body.description is None else body.description
    if rule != "patches":
        webhook.disabled = False
    if call.store.quirks.signing_key_on_update == "new":
        if call.store.quirks.former_key == "signs-24h":
            former = ((call.now + FORMER_KEY_SIGNS, webhook.key), *webhook.former_keys)
            webhook.former_keys = former[:MOST_FORMER_KEYS]
        webhook.key = secrets.token_bytes(24)
    return json_response(call.render.webhook(webhook, call.now, written=True))


def delete_webhook(call: ApiCall) -> Response:
    call.store.remove_webhook(call.webhook())
    return Response(204, {}, b"")


def _url(body: Json) -> str:
    url = body.get("url")
    if isinstance(url, str) and is_url(url):
        return url
    raise Refusal("invalid-content", "The url must be an absolute http or https URL.", "url")


def _text(body: Json, name: str) -> str | None:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise Refusal("invalid-content", f"The {name} must be text.", name)
    return value if name in body else None


def _event_list(call: ApiCall, value: object, parameter: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names:
        raise Refusal("invalid-content", f"{parameter} must be an array of event types.", parameter)
    for name in names:
        if not isinstance(name, str) or name not in call.store.event_types:
            raise Refusal("invalid-content", f"{parameter} contains unsupported event types.", parameter)
    return tuple(dict.fromkeys(map(str, names)))


def send_test(call: ApiCall) -> Response:
    """Send a test message to all subscribed webhooks (the reference's form) or to one url (the guide's form)."""
    body = call.json()
    if "URL" in body or "Events" in body:
        url, types, text = body.get("URL"), _event_list(call, body.get("Events"), "Events"), None
        if not isinstance(url, str):
            raise Refusal("invalid-content", "The URL must be a webhook's url.", "URL")
    else:
        url, text = None, _text(body, "Text")
        if not isinstance(body.get("eventTypeId"), str):
            raise Refusal("invalid-content", "The eventTypeId is missing or is not text.", "eventTypeId")
        types = _event_list(call, body["eventTypeId"], "eventTypeId")
    webhooks = [hook for hook in call.app.webhooks.values() if url is None or hook.url == url]
    if not webhooks:
        detail = f"No webhooks found for this {'app' if url is None else 'URL'}; at least one is needed."
        raise Refusal("no-webhooks-found", detail, "eventTypeId" if url is None else "URL")
    for type_id in types:
        call.deliveries.emit(type_id, webhooks=webhooks, text=text, even_unsubscribed=url is not None)
    return Response(201, {}, b"")


def get_resource(call: ApiCall) -> Response:
    """Return an object or a list that handlers fetch: what the test set, or what follows from the events."""
    found = look_up(call.app, call.render, call.path)
    if found is None:
        raise Refusal("resource-not-found", "There is no such entity.")
    if not isinstance(found, list):
        return json_response(found)
    return _listing(
        call,
        call.render.base + call.path,
        lambda start: islice(enumerate(found), start or 0, None),
        lambda item: item,
        properties(kind_of(call.path), found),
    )


# The fields that can be filtered, each with its attribute. The reference names the filters of messages without their
# exact spelling. So each is accepted alone, after ``message.``, and as entity.property like the filters of other lists.
_MESSAGE_FIELDS = {
    "status": "status",
    "eventTypeId": "event.type_id",
    "eventId": "event.id",
    "webhookId": "webhook_id",
    "date": "created",
}
MESSAGE_FIELDS: Mapping[str, str] = {
    **_MESSAGE_FIELDS,
    **{f"message.{name}": attribute for name, attribute in _MESSAGE_FIELDS.items()},
    "eventType.id": "event.type_id",
    "event.id": "event.id",
    "webhook.id": "webhook_id",
}
MESSAGE_OUTCOMES: Mapping[str, str] = {
    name: "outcome" if attribute == "status" else attribute for name, attribute in MESSAGE_FIELDS.items()
}
EVENT_FIELDS: Mapping[str, str] = {
    "event.entity": "entity",
    "event.type": "kinds",
    "user.id": "user_id",
    "connection.id": "connection_id",
    **dict.fromkeys(("event.createdDate", "event.date", "createdDate", "date"), "created"),
}


@attrs.frozen
class FakeResource(Generic[T]):
    """A resource whose items are listed and retrieved. Its two routes follow from it.

    path: the path of its list. ``parameter`` names the id in an item's path, and ``name`` the item in an error.
    is_id: the form of an id.
    scan: returns a function that yields the items from a position on, each with its position. The flag asks for the
        newest first.
    get: returns the item with an id; None if it does not exist.
    order: the quirk that says in which order the items are listed.
    show_listed: the form of an item in the list, if it is another one.
    """

    path: str
    parameter: str
    name: str
    is_id: re.Pattern[str]
    scan: Callable[[ApiCall, bool], Callable[[int | None], Iterable[tuple[int, T]]]]
    get: Callable[[ApiCall, str], T | None]
    show: Callable[[ApiCall, T], Json]
    fields: Callable[[ApiCall], Fields] | None = None
    order: Literal["message_order", "event_order"] | None = None
    show_listed: Callable[[ApiCall, T], Json] | None = None

    @property
    def one(self) -> str:
        """The path of an item."""
        return f"{self.path}/{{{self.parameter}}}"

    def find(self, call: ApiCall) -> T:
        """Return the item that the path names. Raises ``Refusal`` for an id that is malformed or unknown."""
        id = call.params[self.parameter]
        if not self.is_id.fullmatch(id):
            raise Refusal("path-parameter-not-valid", f"The {self.parameter} is not valid.", self.parameter)
        found = self.get(call, id)
        if found is None:
            raise Refusal("resource-not-found", f"There is no {self.name} with this id.")
        return found

    def list(self, call: ApiCall) -> Response:
        newest_first = self.order is not None and getattr(call.render.quirks, self.order) == "newest-first"
        items = self.scan(call, newest_first)
        path = call.render.list_path(self.path.format_map({name: id.lower() for name, id in call.params.items()}))
        fields = None if self.fields is None else self.fields(call)
        return _listing(
            call, path, items, partial(self.show_listed or self.show, call), fields, newest_first=newest_first
        )

    def retrieve(self, call: ApiCall) -> Response:
        return json_response(self.show(call, self.find(call)))


def _scan(
    log: Log[L], newest_first: bool, since: datetime | None = None
) -> Callable[[int | None], Iterator[tuple[int, L]]]:
    return partial(log.scan, since=since, back=newest_first)


def _scan_messages(call: ApiCall, newest_first: bool) -> Callable[[int | None], Iterator[tuple[int, FakeMessage]]]:
    scan = _scan(call.app.messages[call.webhook().id], newest_first)
    if call.render.quirks.listed == "emitted":
        return scan
    return lambda start: ((position, message) for position, message in scan(start) if message.attempts)


WEBHOOKS: FakeResource[FakeWebhook] = FakeResource(
    "/notifications/webhooks",
    "webhookId",
    "webhook",
    UUID,
    lambda call, _: call.app.each_webhook,
    lambda call, id: call.app.webhooks.get(id.lower()),
    lambda call, webhook: call.render.webhook(webhook, call.now),
)
MESSAGES: FakeResource[FakeMessage] = FakeResource(
    "/notifications/webhooks/{webhookId}/messages",
    "messageId",
    "message",
    UUID,
    lambda call, newest_first: _scan_messages(call, newest_first),
    lambda call, id: call.app.messages[call.webhook().id].find(id.lower()),
    lambda call, message: call.render.message(message, call.now),
    lambda call: attributes(MESSAGE_FIELDS if call.render.quirks.status_filter == "latest" else MESSAGE_OUTCOMES),
    "message_order",
    lambda call, message: call.render.message(message, call.now, listed=True),
)
EVENTS: FakeResource[FakeEvent] = FakeResource(
    "/events",
    "eventId",
    "event",
    _EVENT_ID,
    lambda call, newest_first: _scan(call.app.events, newest_first, call.now - EVENTS_SHOWN),
    lambda call, id: call.app.events.find(id),
    lambda call, event: call.render.event(event),
    lambda call: attributes(EVENT_FIELDS),
    "event_order",
)
EVENT_TYPES: FakeResource[str] = FakeResource(
    "/events/types",
    "eventTypeId",
    "event type",
    _EVENT_TYPE_ID,
    lambda call, _: lambda start: islice(enumerate(call.store.event_types), start or 0, None),
    lambda call, id: id if id in call.store.event_types else None,
    lambda call, id: call.render.event_type(id, call.store.event_types[id]),
)
RESOURCES: Sequence[FakeResource[Any]] = (WEBHOOKS, MESSAGES, EVENT_TYPES, EVENTS)

ApiOperation = Callable[[ApiCall], Response]
_WRITES: Sequence[tuple[str, str, ApiOperation]] = (
    ("POST", "/notifications/messages/test", send_test),
    ("POST", "/notifications/webhooks", create_webhook),
    ("POST", "/notifications/webhooks/{webhookId}", update_webhook),
    ("DELETE", "/notifications/webhooks/{webhookId}", delete_webhook),
)
_ENTITIES: Sequence[tuple[str, str, ApiOperation]] = (
    ("GET", "/users/{userId}", get_resource),
    ("GET", "/users/{userId}/{collection}", get_resource),
    ("GET", "/users/{userId}/{collection}/{entityId}", get_resource),
)
ROUTES: dict[str, dict[str, ApiOperation]] = {}
for _resource in RESOURCES:
    ROUTES.setdefault(_resource.path, {})["GET"] = _resource.list
    ROUTES.setdefault(_resource.one, {})["GET"] = _resource.retrieve
for _method, _path, _operation in (*_WRITES, *_ENTITIES):
    ROUTES.setdefault(_path, {})[_method] = _operation
_LISTS = ("webhooks", "messages", "events", "types")

_PATTERNS = [(pattern.split("/"), methods) for pattern, methods in ROUTES.items()]


def find_operation(method: str, path: str) -> tuple[ApiOperation, dict[str, str]]:
    """Return the operation for a method and a path, and its path parameters. Raises ``Refusal`` (404, 405)."""
    parts = path.split("/")
    if len(parts) > 2 and not parts[-1] and parts[-2] in _LISTS:
        parts.pop()  # the guide's form of a list's path
    parts = [unquote(part) for part in parts] if "%" in path else parts
    for pattern, methods in _PATTERNS:
        if len(pattern) == len(parts) and all(
            want == part or (want[:1] == "{" and part) for want, part in zip(pattern, parts, strict=True)
        ):
            if method not in methods:
                allow = ", ".join(methods)
                raise Refusal("method-not-allowed", f"This path accepts {allow}.", headers={"allow": allow})
            params = {want[1:-1]: part for want, part in zip(pattern, parts, strict=True) if want[:1] == "{"}
            return methods[method], params
    raise Refusal("resource-not-found", "There is no such path.")
