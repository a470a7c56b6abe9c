"""The operations of the control API."""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import attrs

from ..._ui._errors import ControlError
from ..._version import __version__
from ..fake._clock import ManualClock
from ..fake._deliveries import Emission
from ..fake._fake import FakeBasiq
from ..fake._paging import MOST_SCANNED
from ..fake._records import Message
from . import _views as views
from ._fields import Field, Json, Values

T = TypeVar("T")
_LIMIT = Field("limit", "whole", "At most this many items; 100 by default.", least=1, most=1000)
_NEXT = Field("next", "text", "The value of `next` of the page before.")
_SEARCH = Field("search", "text", "Only items in which this text occurs, in any case.")
DROPS = ("request", "response")
MOST_STATES = 10_000
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_PLACES = re.compile(r"[0-9]{1,15}-[0-9]{1,15}(?:\.[0-9]{1,15}-[0-9]{1,15}){0,9999}", re.ASCII)


@attrs.define
class Control:
    """A fake, as the control API drives and shows it. ``first`` is the one that it is a state of, or itself.

    ``api_key`` is the application of the fake that a call is for; None for its first one.
    """

    fake: FakeBasiq
    base_url: str
    first: FakeBasiq = attrs.field(default=attrs.Factory(lambda self: self.fake, takes_self=True))
    api_key: str | None = attrs.field(default=None, repr=False)

    def of(self, fake: FakeBasiq, api_key: str | None) -> Control:
        """The same for another state, or another application of this one."""
        return Control(fake, self.base_url, self.first, api_key)

    def done(self) -> Json:
        return {"now": views.show_time(self.fake.now()), "nextDue": views.show_time(self.fake.next_due)}


Run = Callable[[Control, Any], Awaitable[Json]]


@attrs.frozen
class Operation:
    """One operation: what it takes, what it returns, and what it does.

    ``fields`` are those of the body of a POST, or the parameters of a GET's query. ``run`` gets them by name, the
    path's parameters among them.
    """

    name: str
    method: str
    path: str
    summary: str
    returns: str
    run: Run
    fields: tuple[Field, ...] = ()


OPERATIONS: list[Operation] = []


def _operation(method: str, path: str, returns: str, *fields: Field) -> Callable[[Run], Run]:
    def register(run: Run) -> Run:
        summary = (run.__doc__ or "").strip().splitlines()[0].rstrip(".")
        OPERATIONS.append(Operation(run.__name__, method, path, summary, returns, run, fields))
        return run

    return register


# --- the mock and its states ---


@_operation("GET", "/health", "Health")
async def health(control: Control, values: Values) -> Json:
    """Whether the mock serves: every caller may ask, and with an API key learns whether it is one of this mock."""
    return {"status": "ok", "baseUrl": control.base_url, "version": __version__}


@_operation("GET", "/states", "States")
async def states(control: Control, values: Values) -> Json:
    """The states of the mock, without their API keys."""
    return {"items": [views.show_summary(each) for each in (control.first, *control.first.states.values())]}


@_operation(
    "POST",
    "/states",
    "NewState",
    Field("name", "text", "What people know it by, such as a test's name; by default a number."),
    Field("seed", "text", "What its ids are made from; by default one that nobody else has."),
    Field("apiKey", "text", "Its API key; by default one that nobody can guess."),
    Field("still", "flag", "Its clock stands still until it is moved. By default it runs where the mock's does."),
)
async def add_state(control: Control, values: Any) -> Json:
    """Add an empty state, with an API key, a clock and ids of its own: what happens in one shows in no other.

    Calls with its key are for it alone.
    """
    first = control.first
    if len(first.states) >= MOST_STATES:
        raise ControlError(400, "not-valid", f"there are {MOST_STATES} states: remove those that are done with")
    key = values.get("apiKey")
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key and len(key) <= 512):
        raise ControlError(400, "not-valid", "apiKey has to be printable, without a space, and at most 512 long")
    clock = ManualClock(datetime.now(UTC)) if values.get("still") else None
    state = first.add_state(values.get("name"), api_key=key, seed=values.get("seed"), clock=clock)
    return {**views.show_summary(state), "apiKey": state.api_key}


@_operation("POST", "/states/remove", "Done")
async def remove_state(control: Control, values: Values) -> Json:
    """Remove the state whose API key the call has, with everything in it. The first one stays."""
    if control.fake is control.first:
        raise ControlError(
            400, "not-valid", "the first state of a mock stays: reset it, or name another one by its key"
        )
    done = control.done()
    control.first.remove_state(control.fake.api_key)
    return done


# --- time ---


@_operation("GET", "/state", "State")
async def state(control: Control, values: Values) -> Json:
    """The time, what is due, and how much there is of everything."""
    return views.show_state(control.fake, control.base_url)


@_operation(
    "POST",
    "/advance",
    "Advanced",
    *(
        Field(name, "number", f"{name.capitalize()} to move the clock forward by.", least=0, most=10_000_000)
        for name in ("days", "hours", "minutes", "seconds")
    ),
)
async def advance(control: Control, values: Any) -> Json:
    """Move the clock forward and make every delivery that is due on the way.

    Responds when they are made.
    """
    return await _move(control, lambda: control.fake.advance(timedelta(**values)))


@_operation("POST", "/next", "Advanced")
async def advance_to_next(control: Control, values: Values) -> Json:
    """Move the clock to the next attempt that is due, and make it."""
    return await _move(control, control.fake.advance_to_next)


async def _move(control: Control, move: Callable[[], Awaitable[object]]) -> Json:
    before = _count_attempts(control.fake)
    await move()
    return {**control.done(), "attempts": _count_attempts(control.fake) - before}


def _count_attempts(fake: FakeBasiq) -> int:
    return next((number for number, _ in fake.numbered_deliveries()), 0)


# --- what happens ---


@_operation(
    "POST",
    "/emit",
    "Emitted",
    Field("eventTypeId", "text", "The event type, such as consent.revoked.", required=True),
    Field("userId", "text", "The user that it is about; a new one by default."),
    Field("entityId", "text", "The entity that it is about; a new one by default."),
    Field("data", "object", "The event's data; by default what identifies the entity."),
    Field("wait", "flag", "Respond only when the first attempt of each message was made."),
)
async def emit(control: Control, values: Any) -> Json:
    """Let an event happen, with a message for each webhook that is active and subscribed."""
    emission = control.fake.emit(
        values["eventTypeId"],
        user_id=values.get("userId"),
        entity_id=values.get("entityId"),
        data=values.get("data"),
        api_key=control.api_key,
    )
    return await _show_emission(emission, values)


@_operation(
    "POST",
    "/messages/{messageId}/redeliver",
    "Emitted",
    Field("wait", "flag", "Respond only when the attempt was made."),
)
async def redeliver(control: Control, values: Any) -> Json:
    """Deliver a message once more, now."""
    _message(control, values["messageId"])
    emission = control.fake.redeliver(values["messageId"])
    return await _show_emission(emission, values)


async def _show_emission(emission: Emission, values: Any) -> Json:
    if values.get("wait"):
        await emission
    return {"eventId": emission.event_id, "messageIds": list(emission.message_ids)}


# --- what goes wrong ---


@_operation(
    "POST",
    "/fail",
    "Done",
    Field("times", "whole", "How many requests; 1 by default.", least=1, most=1_000_000),
    Field("status", "whole", "Respond with an error of this status.", least=100, most=999),
    Field("method", "text", "Only requests with this method."),
    Field("path", "text", "Only requests to this path; * stands for anything. By default all but the token call."),
    Field("retryAfter", "number", "Seconds for the Retry-After header.", least=0),
    Field("body", "text", "Respond with this body."),
    Field("headers", "object", "More headers of the response."),
    Field("delay", "number", "Respond after this many seconds.", least=0, most=3600),
    Field(
        "drop", "text", "Break the connection before or after the request is acted on.", choices=("request", "response")
    ),
    Field("loop", "flag", "Let a list's next link lead to the page itself."),
)
async def fail(control: Control, values: Any) -> Json:
    """Let the next requests go wrong."""
    headers = values.get("headers", {})
    if not all(isinstance(value, str) and value.isprintable() for each in headers.items() for value in each):
        raise ControlError(400, "not-valid", "headers has to hold printable texts")
    control.fake.fail_next(
        values.get("times", 1),
        status=values.get("status"),
        method=values.get("method"),
        path=values.get("path"),
        retry_after=values.get("retryAfter"),
        body=values.get("body"),
        headers=headers,
        delay=values.get("delay", 0.0),
        drop=values.get("drop", False),
        loop=values.get("loop", False),
    )
    return control.done()


@_operation(
    "POST",
    "/deliveries/fail",
    "Done",
    Field("times", "whole", "How many deliveries; 1 by default.", least=1, most=1_000_000),
    Field("status", "whole", "Record this status without calling the endpoint.", least=100, most=999),
    Field(
        "drop",
        "text",
        "request: the endpoint is not reached. response: its response is lost after it handled the delivery.",
        choices=DROPS,
    ),
    Field("url", "text", "Only deliveries to this url; * stands for anything."),
)
async def fail_deliveries(control: Control, values: Any) -> Json:
    """Let the next deliveries go wrong."""
    control.fake.fail_deliveries(
        values.get("times", 1),
        status=values.get("status"),
        drop=values.get("drop", False),
        url=values.get("url"),
    )
    return control.done()


@_operation(
    "POST",
    "/endpoint/down",
    "Done",
    Field("url", "text", "The endpoint; every endpoint by default."),
    Field("status", "whole", "The status it responds with; without it, the connection fails.", least=100, most=999),
)
async def endpoint_down(control: Control, values: Any) -> Json:
    """Take an endpoint down: deliveries fail without calling it."""
    control.fake.endpoint_down(values.get("url"), status=values.get("status"))
    return control.done()


@_operation("POST", "/endpoint/up", "Done", Field("url", "text", "The endpoint; every endpoint by default."))
async def endpoint_up(control: Control, values: Any) -> Json:
    """End the outage of an endpoint."""
    control.fake.endpoint_up(values.get("url"))
    return control.done()


@_operation("POST", "/expire-tokens", "Done")
async def expire_tokens(control: Control, values: Values) -> Json:
    """Make every token that was issued an expired one."""
    control.fake.expire_tokens()
    return control.done()


@_operation("POST", "/disable-account", "Done")
async def disable_account(control: Control, values: Values) -> Json:
    """Respond with 403 to every request with the API key of the call."""
    control.fake.disable_account(control.api_key)
    return control.done()


# --- what there is ---


@_operation(
    "POST",
    "/webhooks",
    "Added",
    Field("url", "text", "The url of its endpoint.", required=True),
    Field("subscribedEvents", "texts", "Event types; all of them by default."),
    Field("active", "flag", "False: it begins with its cool-off. True by default."),
)
async def add_webhook(control: Control, values: Any) -> Json:
    """Add a webhook, past its cool-off."""
    webhook_id = control.fake.add_webhook(
        values["url"],
        values.get("subscribedEvents"),
        active=values.get("active", True),
        api_key=control.api_key,
    )
    return {"webhookId": webhook_id}


@_operation(
    "POST",
    "/seed",
    "Added",
    Field("messages", "whole", "How many messages.", required=True, least=0, most=100_000_000),
    Field("webhookId", "text", "The webhook; by default the first one, which is added where there is none."),
    Field("eventTypes", "texts", "Their event types; by default those that the webhook is subscribed to."),
    Field("every", "number", "Seconds between two messages; 1 by default.", least=0.001, most=1_000_000),
    Field("failed", "number", "The share of messages whose only attempt failed.", least=0, most=1),
)
async def seed(control: Control, values: Any) -> Json:
    """Give a webhook a history."""
    webhook_id = control.fake.seed_messages(
        values["messages"],
        values.get("webhookId"),
        event_types=values.get("eventTypes"),
        every=values.get("every", 1.0),
        failed=values.get("failed", 0.0),
        api_key=control.api_key,
    )
    return {"webhookId": webhook_id}


@_operation("POST", "/reset", "Done", Field("log", "flag", "Forget only requests, deliveries, violations and faults."))
async def reset(control: Control, values: Any) -> Json:
    """Forget everything in the state that the call is for, but its API key and the time."""
    if values.get("log"):
        control.fake.reset_log()
    else:
        control.fake.reset()
    return control.done()


@_operation("GET", "/webhooks", "Webhooks")
async def webhooks(control: Control, values: Values) -> Json:
    """The webhooks, without their secrets."""
    fake = control.fake
    now = fake.now()
    return {"items": [views.show_webhook(each, now, fake.count_messages(each.id)) for each in fake.webhooks()]}


@_operation("POST", "/webhooks/{webhookId}/secret", "Secret")
async def webhook_secret(control: Control, values: Any) -> Json:
    """The signing secret of a webhook."""
    if all(each.id != values["webhookId"] for each in control.fake.webhooks()):
        raise ControlError(404, "not-found", f"there is no webhook {values['webhookId']!r}")
    return {"secret": control.fake.secret(values["webhookId"])}


@_operation(
    "GET",
    "/messages",
    "Messages",
    Field("webhookId", "text", "Only messages of this webhook."),
    Field("status", "text", "Only messages of this status.", choices=("Success", "Failed", "Pending")),
    _SEARCH,
    _LIMIT,
    _NEXT,
)
async def messages(control: Control, values: Any) -> Json:
    """The messages with their attempts, newest first."""
    fake = control.fake
    upcoming = {each.message_id: each for each in reversed(fake.upcoming())}
    wanted = values.get("status")
    webhook_id = values.get("webhookId")
    before = _read_places(values.get("next"))
    places = {} if before is None else dict(before)

    def following(item: tuple[tuple[int, int], Message]) -> str:
        (serial, position), _ = item
        return ".".join(f"{name}-{left}" for name, left in {**places, serial: position + 1}.items() if left)

    def items() -> Iterator[tuple[tuple[int, int], Message]]:
        for item in fake.scan_messages(webhook_id, before):
            yield item
            places[item[0][0]] = item[0][1]

    if before is None:
        places.update(fake.message_places())
    return _page(
        items(),
        fake.count_messages(webhook_id),
        values,
        lambda item: views.show_message(item[1], upcoming.get(item[1].id)),
        lambda item: (item[1].id, item[1].event.type_id, item[1].event.id, item[1].event.user_id, item[1].status),
        following,
        lambda item: wanted in (None, item[1].status),
    )


@_operation("GET", "/messages/{messageId}", "WholeMessage")
async def message(control: Control, values: Any) -> Json:
    """One message, with its event's data."""
    found = _message(control, values["messageId"])
    upcoming = next((each for each in control.fake.upcoming() if each.message_id == found.id), None)
    return views.show_whole_message(found, upcoming)


def _message(control: Control, message_id: str) -> Any:
    found = control.fake.find_message(message_id)
    if found is None:
        raise ControlError(404, "not-found", f"there is no message {message_id!r}")
    return found


@_operation("GET", "/event-types", "EventTypes")
async def event_types(control: Control, values: Values) -> Json:
    """The event types that can be emitted."""
    return {"items": [{"id": name, "description": text} for name, text in control.fake.event_types.items()]}


# --- what happened ---


@_operation("GET", "/requests", "Requests", _SEARCH, _LIMIT, _NEXT)
async def requests(control: Control, values: Any) -> Json:
    """The latest requests, newest first."""
    log = control.fake.request_log
    return _page_numbered(
        ((record.number, record) for record in reversed(log)),
        len(log),
        values,
        lambda _, record: views.show_request(record),
        lambda record: (record.request.method, record.request.url, str(record.status), *record.violations),
    )


@_operation("GET", "/requests/{number}", "WholeRequest")
async def request(control: Control, values: Any) -> Json:
    """One request, with its headers and body."""
    for record in reversed(control.fake.request_log):
        if str(record.number) == values["number"]:
            return views.show_whole_request(record)
    raise ControlError(404, "not-found", f"there is no request {values['number']!r} in the log")


@_operation(
    "GET",
    "/deliveries",
    "Deliveries",
    Field("messageId", "text", "Only attempts of this message."),
    _SEARCH,
    _LIMIT,
    _NEXT,
)
async def deliveries(control: Control, values: Any) -> Json:
    """The latest attempts to deliver, newest first."""
    fake = control.fake
    wanted = values.get("messageId")
    found = (each for each in fake.numbered_deliveries() if wanted in (None, each[1].message_id))
    return _page_numbered(
        found,
        len(fake.deliveries),
        values,
        views.show_delivery,
        lambda attempt: (attempt.message_id, attempt.event_type_id, attempt.event_id, attempt.url, str(attempt.status)),
    )


@_operation("GET", "/violations", "Violations")
async def violations(control: Control, values: Values) -> Json:
    """What the real Basiq would refuse, or what misuses it."""
    return {"items": [views.show_violation(each) for each in control.fake.violations]}


def _page(
    items: Iterator[T],
    total: int,
    values: Mapping[str, Any],
    show: Callable[[T], Json],
    texts: Callable[[T], Sequence[str]],
    following: Callable[[T], str],
    wanted: Callable[[T], bool] = lambda item: True,
) -> Json:
    """A page of items; ``following`` returns the ``next`` that leads to the item and those after it.

    It looks at so many items at the most: a page may be short, or empty, and lead on.
    """
    limit, search = values.get("limit", 100), values.get("search", "").casefold()
    shown: list[Json] = []
    for looked_at, item in enumerate(items):
        if len(shown) == limit or looked_at == MOST_SCANNED:
            return {"items": shown, "total": total, "next": following(item)}
        if wanted(item) and (not search or any(search in text.casefold() for text in texts(item))):
            shown.append(show(item))
    return {"items": shown, "total": total, "next": None}


def _page_numbered(
    items: Iterator[tuple[int, T]],
    total: int,
    values: Mapping[str, Any],
    show: Callable[[int, T], Json],
    texts: Callable[[T], Sequence[str]],
) -> Json:
    """A page of items that come with numbers, the highest first."""
    text = values.get("next")
    if text is not None:
        if not _NUMBER.fullmatch(text):
            raise _no_such_page()
        items = itertools.dropwhile(lambda item: item[0] > int(text), items)
    return _page(items, total, values, lambda item: show(*item), lambda item: texts(item[1]), lambda item: str(item[0]))


def _read_places(text: str | None) -> dict[int, int] | None:
    """How far the history of each webhook was shown, from a ``next`` of the list of messages."""
    if text is None:
        return None
    if not _PLACES.fullmatch(text):
        raise _no_such_page()
    return {int(serial): int(left) for serial, _, left in (each.partition("-") for each in text.split("."))}


def _no_such_page() -> ControlError:
    return ControlError(400, "not-valid", "next has to be the value of `next` of the page before")
