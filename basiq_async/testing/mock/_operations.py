"""The operations of the control API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from ..._version import __version__
from ..._web.guard import ControlError
from ..fake._clock import ManualClock
from . import _shapes as shapes
from ._operation import Control, Field, Operation, Run, Values, page_of, page_of_numbered, read_places

if TYPE_CHECKING:
    from ..fake._deliveries import Emission
    from ..fake._fake import FakeBasiq
    from ..fake._records import Message

_LIMIT = Field("limit", "whole", "At most this many items; 100 by default.", least=1, most=1000)
_NEXT = Field("next", "text", "The `next` of the page before.")
_SEARCH = Field("search", "text", "Only items that contain this text; upper and lower case are the same.")

DROPS = ("request", "response")
MOST_STATES = 10_000

R = TypeVar("R", bound=Run)
OPERATIONS: list[Operation] = []


def operation(method: str, path: str, *fields: Field) -> Callable[[R], R]:
    """Register a function as an operation. Its docstring is the summary, its return annotation the shape."""

    def register(run: R) -> R:
        returns = get_type_hints(run)["return"]
        summary = (run.__doc__ or "").strip().splitlines()[0].rstrip(".")
        OPERATIONS.append(Operation(run.__name__, method, path, summary, returns, run, fields))
        return run

    return register


# --- the mock and its states ---


@operation("GET", "/health")
async def health(control: Control, values: Values) -> shapes.Health:
    """Whether the mock runs and, if the call has an API key, whether the key belongs to this mock."""
    return shapes.Health(status="ok", base_url=control.base_url, version=__version__)


@operation("GET", "/states")
async def states(control: Control, values: Values) -> shapes.States:
    """The states of the mock, without their API keys."""
    served = (control.first, *control.first.states.values())
    return shapes.States(items=tuple(shapes.summary_of(each) for each in served))


@operation(
    "POST",
    "/states",
    Field("name", "text", "The state's name, such as the name of a test; by default a number."),
    Field("seed", "text", "The seed of the state's ids; by default a random one."),
    Field("apiKey", "text", "The state's API key; by default a random one."),
    Field(
        "still",
        "flag",
        "Make a clock that stands still until it is moved. By default it runs if the mock's clock runs.",
    ),
)
async def add_state(control: Control, values: Any) -> shapes.NewState:
    """Add an empty state with its own API key, clock and ids. States share no data.

    Calls with the state's key are for that state only.
    """
    first = control.first
    if len(first.states) >= MOST_STATES:
        raise ControlError(400, "not-valid", f"there are {MOST_STATES} states: remove those that are no longer used")
    key = values.get("apiKey")
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key and len(key) <= 512):
        raise ControlError(
            400, "not-valid", "apiKey must be printable ASCII without a space, and at most 512 characters"
        )
    clock = ManualClock(datetime.now(UTC)) if values.get("still") else None
    state = first.add_state(values.get("name"), api_key=key, seed=values.get("seed"), clock=clock)
    return shapes.new_state_of(state)


@operation("POST", "/states/remove")
async def remove_state(control: Control, values: Values) -> shapes.Done:
    """Remove the state to which the call's API key belongs, with all its data. The first state cannot be removed."""
    if control.fake is control.first:
        raise ControlError(
            400,
            "not-valid",
            "the first state of a mock cannot be removed: reset it, or send the API key of another state",
        )
    done = control.done()
    control.first.remove_state(control.fake.api_key)
    return done


# --- time ---


@operation("GET", "/state")
async def state(control: Control, values: Values) -> shapes.State:
    """The time, the next attempt, the faults, and the number of webhooks, messages and requests."""
    return shapes.state_of(control.fake, control.base_url)


@operation(
    "POST",
    "/advance",
    *(
        Field(name, "number", f"{name.capitalize()} to move the clock forward by.", least=0, most=10_000_000)
        for name in ("days", "hours", "minutes", "seconds")
    ),
)
async def advance(control: Control, values: Any) -> shapes.Advanced:
    """Move the clock forward, and make every delivery that is due on the way.

    Responds when the deliveries are made.
    """
    return await _move(control, lambda: control.fake.advance(timedelta(**values)))


@operation("POST", "/next")
async def advance_to_next(control: Control, values: Values) -> shapes.Advanced:
    """Move the clock to the next planned attempt, and make it."""
    return await _move(control, control.fake.advance_to_next)


async def _move(control: Control, move: Callable[[], Awaitable[object]]) -> shapes.Advanced:
    before = _count_attempts(control.fake)
    await move()
    done = control.done()
    return shapes.Advanced(now=done.now, next_due=done.next_due, attempts=_count_attempts(control.fake) - before)


def _count_attempts(fake: FakeBasiq) -> int:
    return next((number for number, _ in fake.numbered_deliveries()), 0)


# --- events ---


@operation(
    "POST",
    "/emit",
    Field("eventTypeId", "text", "The event type, such as consent.revoked.", required=True),
    Field("userId", "text", "The user that the event is about; by default a new one."),
    Field("entityId", "text", "The entity that the event is about; by default a new one."),
    Field("data", "object", "The event's data; by default the type, id and link of the entity."),
    Field("wait", "flag", "Respond after the first attempt of each message."),
)
async def emit(control: Control, values: Any) -> shapes.Emitted:
    """Emit an event, with a message for each active webhook that is subscribed to it."""
    emission = control.fake.emit(
        values["eventTypeId"],
        user_id=values.get("userId"),
        entity_id=values.get("entityId"),
        data=values.get("data"),
        api_key=control.api_key,
    )
    return await _show_emission(emission, values)


@operation(
    "POST",
    "/messages/{messageId}/redeliver",
    Field("wait", "flag", "Respond after the attempt."),
)
async def redeliver(control: Control, values: Any) -> shapes.Emitted:
    """Deliver a message once more, now."""
    _message(control, values["messageId"])
    emission = control.fake.redeliver(values["messageId"])
    return await _show_emission(emission, values)


async def _show_emission(emission: Emission, values: Any) -> shapes.Emitted:
    if values.get("wait"):
        await emission
    return shapes.Emitted(event_id=emission.event_id, message_ids=emission.message_ids)


# --- faults ---


@operation(
    "POST",
    "/fail",
    Field("times", "whole", "The number of requests; 1 by default.", least=1, most=1_000_000),
    Field("status", "whole", "Respond with an error of this status.", least=100, most=999),
    Field("method", "text", "Only requests with this method."),
    Field(
        "path", "text", "Only requests to this path; * matches any text. By default all requests except the token call."
    ),
    Field("retryAfter", "number", "Seconds for the Retry-After header.", least=0),
    Field("body", "text", "Respond with this body, unchanged."),
    Field("headers", "object", "More headers of the response."),
    Field("delay", "number", "Respond after this many seconds.", least=0, most=3600),
    Field(
        "drop",
        "text",
        "Break the connection before the request is carried out, or before the response is sent.",
        choices=("request", "response"),
    ),
    Field("loop", "flag", "Let a list's next link lead to the same page."),
)
async def fail(control: Control, values: Any) -> shapes.Done:
    """Make the next requests fail."""
    headers = values.get("headers", {})
    if not all(isinstance(value, str) and value.isprintable() for each in headers.items() for value in each):
        raise ControlError(400, "not-valid", "headers must be printable texts")
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


@operation(
    "POST",
    "/deliveries/fail",
    Field("times", "whole", "The number of deliveries; 1 by default.", least=1, most=1_000_000),
    Field("status", "whole", "Record this status without calling the endpoint.", least=100, most=999),
    Field(
        "drop",
        "text",
        "request: the endpoint is not reached. response: it handles the delivery, and its response is lost.",
        choices=DROPS,
    ),
    Field("url", "text", "Only deliveries to this url; * matches any text."),
)
async def fail_deliveries(control: Control, values: Any) -> shapes.Done:
    """Make the next deliveries fail."""
    control.fake.fail_deliveries(
        values.get("times", 1),
        status=values.get("status"),
        drop=values.get("drop", False),
        url=values.get("url"),
    )
    return control.done()


@operation(
    "POST",
    "/endpoint/down",
    Field("url", "text", "The endpoint's url; by default every endpoint."),
    Field("status", "whole", "The status of the response; without it, the connection fails.", least=100, most=999),
)
async def endpoint_down(control: Control, values: Any) -> shapes.Done:
    """Let all deliveries to an endpoint fail, without calling it."""
    control.fake.endpoint_down(values.get("url"), status=values.get("status"))
    return control.done()


@operation("POST", "/endpoint/up", Field("url", "text", "The endpoint's url; by default every endpoint."))
async def endpoint_up(control: Control, values: Any) -> shapes.Done:
    """End the outage of an endpoint."""
    control.fake.endpoint_up(values.get("url"))
    return control.done()


@operation("POST", "/expire-tokens")
async def expire_tokens(control: Control, values: Values) -> shapes.Done:
    """Let all tokens that were issued expire now."""
    control.fake.expire_tokens()
    return control.done()


@operation("POST", "/disable-account")
async def disable_account(control: Control, values: Values) -> shapes.Done:
    """Respond with 403 to every later request of the application whose API key the call has."""
    control.fake.disable_account(control.api_key)
    return control.done()


# --- data ---


@operation(
    "POST",
    "/webhooks",
    Field("url", "text", "The url of the endpoint.", required=True),
    Field("subscribedEvents", "texts", "Event types; all of them by default."),
    Field("active", "flag", "Whether it is active at once. With false, its cool-off begins now. True by default."),
)
async def add_webhook(control: Control, values: Any) -> shapes.Added:
    """Add a webhook."""
    webhook_id = control.fake.add_webhook(
        values["url"],
        values.get("subscribedEvents"),
        active=values.get("active", True),
        api_key=control.api_key,
    )
    return shapes.Added(webhook_id=webhook_id)


@operation(
    "POST",
    "/seed",
    Field("messages", "whole", "The number of messages.", required=True, least=0, most=100_000_000),
    Field("webhookId", "text", "The webhook; by default the first one, which is added if none exists."),
    Field(
        "eventTypes",
        "texts",
        "The event types of the messages; by default the types that the webhook is subscribed to.",
    ),
    Field("every", "number", "Seconds between two messages; 1 by default.", least=0.001, most=1_000_000),
    Field("failed", "number", "The share of messages, from 0 to 1, whose only attempt failed.", least=0, most=1),
)
async def seed(control: Control, values: Any) -> shapes.Added:
    """Give a webhook a history of messages."""
    webhook_id = control.fake.seed_messages(
        values["messages"],
        values.get("webhookId"),
        event_types=values.get("eventTypes"),
        every=values.get("every", 1.0),
        failed=values.get("failed", 0.0),
        api_key=control.api_key,
    )
    return shapes.Added(webhook_id=webhook_id)


@operation(
    "POST", "/reset", Field("log", "flag", "Forget only recorded requests, deliveries and violations, and the faults.")
)
async def reset(control: Control, values: Any) -> shapes.Done:
    """Forget everything in the state that the call is for, except its API keys and the time."""
    if values.get("log"):
        control.fake.reset_log()
    else:
        control.fake.reset()
    return control.done()


@operation("GET", "/webhooks")
async def webhooks(control: Control, values: Values) -> shapes.Webhooks:
    """The webhooks, without their secrets."""
    fake = control.fake
    now = fake.now()
    return shapes.Webhooks(
        items=tuple(shapes.webhook_of(each, now, fake.count_messages(each.id)) for each in fake.webhooks())
    )


@operation("POST", "/webhooks/{webhookId}/secret")
async def webhook_secret(control: Control, values: Any) -> shapes.Secret:
    """Show the signing secret of a webhook."""
    if all(each.id != values["webhookId"] for each in control.fake.webhooks()):
        raise ControlError(404, "not-found", f"there is no webhook {values['webhookId']!r}")
    return shapes.Secret(secret=control.fake.secret(values["webhookId"]))


@operation(
    "GET",
    "/messages",
    Field("webhookId", "text", "Only messages of this webhook."),
    Field("status", "text", "Only messages of this status.", choices=("Success", "Failed", "Pending")),
    _SEARCH,
    _LIMIT,
    _NEXT,
)
async def messages(control: Control, values: Any) -> shapes.Messages:
    """The messages with their attempts, newest first."""
    fake = control.fake
    upcoming = {each.message_id: each for each in reversed(fake.upcoming())}
    wanted = values.get("status")
    webhook_id = values.get("webhookId")
    before = read_places(values.get("next"))
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
    found_page = page_of(
        items(),
        fake.count_messages(webhook_id),
        values,
        lambda item: shapes.message_of(item[1], upcoming.get(item[1].id)),
        lambda item: (item[1].id, item[1].event.type_id, item[1].event.id, item[1].event.user_id, item[1].status),
        following,
        lambda item: wanted in (None, item[1].status),
    )
    return shapes.Messages(**found_page)


@operation("GET", "/messages/{messageId}")
async def message(control: Control, values: Any) -> shapes.WholeMessage:
    """One message, with its event's data."""
    found = _message(control, values["messageId"])
    upcoming = next((each for each in control.fake.upcoming() if each.message_id == found.id), None)
    return shapes.whole_message_of(found, upcoming)


def _message(control: Control, message_id: str) -> Any:
    found = control.fake.find_message(message_id)
    if found is None:
        raise ControlError(404, "not-found", f"there is no message {message_id!r}")
    return found


@operation("GET", "/event-types")
async def event_types(control: Control, values: Values) -> shapes.EventTypes:
    """The event types that can be emitted."""
    known = control.fake.event_types.items()
    return shapes.EventTypes(items=tuple(shapes.EventType(id=name, description=text) for name, text in known))


# --- logs ---


@operation("GET", "/requests", _SEARCH, _LIMIT, _NEXT)
async def requests(control: Control, values: Any) -> shapes.Requests:
    """The latest requests, newest first."""
    log = control.fake.request_log
    found_page = page_of_numbered(
        ((record.number, record) for record in reversed(log)),
        len(log),
        values,
        lambda _, record: shapes.request_of(record),
        lambda record: (record.request.method, record.request.url, str(record.status), *record.violations),
    )
    return shapes.Requests(**found_page)


@operation("GET", "/requests/{number}")
async def request(control: Control, values: Any) -> shapes.WholeRequest:
    """One request, with its headers and body."""
    for record in reversed(control.fake.request_log):
        if str(record.number) == values["number"]:
            return shapes.whole_request_of(record)
    raise ControlError(404, "not-found", f"there is no request {values['number']!r} in the log")


@operation(
    "GET",
    "/deliveries",
    Field("messageId", "text", "Only attempts of this message."),
    _SEARCH,
    _LIMIT,
    _NEXT,
)
async def deliveries(control: Control, values: Any) -> shapes.Deliveries:
    """The latest delivery attempts, newest first."""
    fake = control.fake
    wanted = values.get("messageId")
    found = (each for each in fake.numbered_deliveries() if wanted in (None, each[1].message_id))
    found_page = page_of_numbered(
        found,
        len(fake.deliveries),
        values,
        shapes.delivery_of,
        lambda attempt: (attempt.message_id, attempt.event_type_id, attempt.event_id, attempt.url, str(attempt.status)),
    )
    return shapes.Deliveries(**found_page)


@operation("GET", "/violations")
async def violations(control: Control, values: Values) -> shapes.Violations:
    """The violations: requests that the real Basiq would refuse, and other misuses of it."""
    return shapes.Violations(items=tuple(shapes.violation_of(each) for each in control.fake.violations))
