"""The operations of the control API that show what happened: messages, requests, deliveries and violations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..._web.access import ControlError
from ..fake._logs import Violation
from . import _results as results
from ._declaration import About, Control, operation, page_of, page_of_numbered, read_places
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
    before = read_places(next)
    places = dict(fake.message_places() if before is None else before)

    def following(item: tuple[tuple[int, int], Message]) -> str:
        (serial, position), _ = item
        return ".".join(f"{name}-{left}" for name, left in {**places, serial: position + 1}.items() if left)

    def items() -> Iterator[tuple[tuple[int, int], Message]]:
        for item in fake.scan_messages(webhook_id, before):
            yield item
            places[item[0][0]] = item[0][1]

    return page_of(
        items(),
        fake.count_messages(webhook_id),
        limit,
        search,
        lambda item: _show_message(results.Message, item[1], upcoming.get(item[1].id)),
        lambda item: (item[1].id, item[1].event.type_id, item[1].event.id, item[1].event.user_id, item[1].status),
        following,
        lambda item: status in (None, item[1].status),
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
    return page_of_numbered(
        ((record.number, record) for record in reversed(log)),
        len(log),
        limit,
        search,
        next,
        lambda _, record: take(results.Request, record, record.request),
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

    def show(number: int, attempt: DeliveredAttempt) -> Any:
        headers, body = results.show_headers(attempt.headers), results.show_body(attempt.body)
        return take(results.Delivery, attempt, number=number, attempt=attempt.number, headers=headers, body=body)

    return page_of_numbered(
        (each for each in fake.numbered_deliveries() if message_id in (None, each[1].message_id)),
        len(fake.deliveries),
        limit,
        search,
        next,
        show,
        lambda attempt: (attempt.message_id, attempt.event_type_id, attempt.event_id, attempt.url, str(attempt.status)),
    )


@operation("GET", "/violations", Items[Violation])
async def violations(control: Control) -> Items[Any]:
    """The violations: requests that the real Basiq would refuse, and other misuses of it."""
    return Items(items=tuple(control.fake.violations))
