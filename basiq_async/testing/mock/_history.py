"""The operations of the control API that show what happened: messages, requests, deliveries and violations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..._web.access import ControlError
from ..fake._logs import Violation
from . import _results as results
from ._declaration import About, Control, operation, page_of, read_next
from ._results import Items, Page, take

if TYPE_CHECKING:
    from ..fake._deliveries import DeliveredAttempt
    from ..fake._records import Message
    from ..fake._state import Upcoming

Limit = Annotated[int, About("At most this many items; 100 by default.", 1, 1000)]
Next = Annotated[str | None, About("The `next` of the page before.")]
Search = Annotated[str | None, About("Only items that contain this text; upper and lower case are the same.")]


@operation("GET", "/messages", Page[results.Message])
async def messages(
    control: Control,
    webhook_id: Annotated[str | None, About("Only messages of this webhook.")] = None,
    status: Annotated[Literal["Success", "Failed", "Pending"] | None, About("Only messages of this status.")] = None,
    search: Search = None,
    limit: Limit = 100,
    next: Next = None,
) -> Page[Any]:
    """The messages with their attempts, newest first."""
    fake = control.fake
    upcoming = {each.message_id: each for each in reversed(fake.upcoming())}
    serial, end = read_next(next, 2)
    found = fake.scan_messages(webhook_id, None if next is None else (int(serial), int(end)))
    return page_of(
        ((f"{serial}-{end}", message) for (serial, end), message in found),
        fake.count_messages(webhook_id),
        limit,
        search,
        lambda each: _show_message(results.Message, each, upcoming.get(each.id)),
        lambda each: (each.id, each.event.type_id, each.event.id, each.event.user_id, each.status),
        lambda each: status in (None, each.status),
    )


@operation("GET", "/messages/{messageId}", results.WholeMessage)
async def message(control: Control, message_id: str) -> Any:
    """One message, with its event's data."""
    found = find_message(control, message_id)
    upcoming = next((each for each in control.fake.upcoming() if each.message_id == found.id), None)
    return _show_message(results.WholeMessage, found, upcoming)


def find_message(control: Control, message_id: str) -> Message:
    found = control.fake.find_message(message_id)
    if found is None:
        raise ControlError(404, "not-found", f"there is no message {message_id!r}")
    return found


def _show_message(kind: Any, message: Message, upcoming: Upcoming | None) -> Any:
    event = message.event
    return take(
        kind,
        message,
        event,
        event_type_id=event.type_id,
        event_id=event.id,
        attempts=tuple(
            take(results.Attempt, attempt, number=number) for number, attempt in enumerate(message.attempts, 1)
        ),
        next_attempt=None if upcoming is None else take(results.NextAttempt, upcoming),
    )


@operation("GET", "/event-types", Items[results.EventType])
async def event_types(control: Control) -> Items[Any]:
    """The event types that can be emitted."""
    known = control.fake.event_types.items()
    return Items(items=tuple(results.EventType(id=name, description=text) for name, text in known))


# --- logs ---


@operation("GET", "/requests", Page[results.Request])
async def requests(control: Control, search: Search = None, limit: Limit = 100, next: Next = None) -> Page[Any]:
    """The latest requests, newest first."""
    log = control.fake.request_log
    (newest,) = read_next(next, 1)
    return page_of(
        ((str(each.number), each) for each in reversed(log) if each.number <= newest),
        len(log),
        limit,
        search,
        lambda record: take(results.Request, record, record.request),
        lambda record: (record.request.method, record.request.url, str(record.status), *record.violations),
    )


@operation("GET", "/requests/{number}", results.WholeRequest)
async def request(control: Control, number: str) -> Any:
    """One request, with its headers and body."""
    for record in reversed(control.fake.request_log):
        if str(record.number) == number:
            sent = record.request
            body = None if record.path == "/token" or sent.body is None else results.show_body(sent.body)
            return take(results.WholeRequest, record, sent, headers=results.show_headers(sent.headers), body=body)
    raise ControlError(404, "not-found", f"there is no request {number!r} in the log")


@operation("GET", "/deliveries", Page[results.Delivery])
async def deliveries(
    control: Control,
    message_id: Annotated[str | None, About("Only attempts of this message.")] = None,
    search: Search = None,
    limit: Limit = 100,
    next: Next = None,
) -> Page[Any]:
    """The latest delivery attempts, newest first."""
    fake = control.fake
    (newest,) = read_next(next, 1)

    def show(numbered: tuple[int, DeliveredAttempt]) -> Any:
        number, attempt = numbered
        headers, body = results.show_headers(attempt.headers), results.show_body(attempt.body)
        return take(results.Delivery, attempt, number=number, attempt=attempt.number, headers=headers, body=body)

    return page_of(
        (
            (str(number), (number, each))
            for number, each in fake.numbered_deliveries()
            if number <= newest and message_id in (None, each.message_id)
        ),
        len(fake.deliveries),
        limit,
        search,
        show,
        lambda item: (item[1].message_id, item[1].event_type_id, item[1].event_id, item[1].url, str(item[1].status)),
    )


@operation("GET", "/violations", Items[Violation])
async def violations(control: Control) -> Items[Any]:
    """The violations: requests that the real Basiq would refuse, and other misuses of it."""
    return Items(items=tuple(control.fake.violations))
