"""The operations of the control API that show what happened: messages, requests, deliveries and misuses.

Secrets and tokens are hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Literal, TypeVar

import attrs

from ..._web.access import ControlError
from ..fake import _items as fake_items
from ..fake._deliveries import DeliveredAttempt
from ..fake._logs import Misuse
from ..fake._state import Upcoming
from ._operation import About, Control, ItemPage, Items, Newest, has, newest_of, operation, take

M = TypeVar("M")
HIDDEN = "(hidden)"
MOST_SCANNED = 5_000
"""Maximum number of messages that one call looks at, so that a search of millions does not block the fake."""
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-fake-token"})
AtMost = Annotated[int, About("At most this many items; 100 by default.", 1, 10_000)]
Search = Annotated[str | None, About("Only items that contain this text; upper and lower case are the same.")]
Status = Literal["Success", "Failed", "Pending"]


@attrs.frozen
class ShownAttempt(fake_items.FakeAttempt):
    number: int = attrs.field(kw_only=True)


@attrs.frozen
class NextAttempt:
    number: int
    due: datetime


@attrs.frozen
class ShownMessage:
    id: str
    webhook_id: str
    created: datetime
    event_type_id: str
    event_id: str
    user_id: str
    entity_id: str
    status: Status
    attempts: tuple[ShownAttempt, ...]
    next_attempt: NextAttempt | None


@operation("GET", "/messages")
async def messages(
    control: Control,
    *,
    webhook_id: Annotated[str | None, About("Only messages of this webhook.")] = None,
    status: Annotated[Status | None, About("Only messages of this status.")] = None,
    search: Search = None,
    limit: Annotated[int, About("At most this many items; 100 by default.", 1, 1000)] = 100,
    next_: Annotated[str | None, About("The `next` of the page before.")] = None,
) -> ItemPage[ShownMessage]:
    """The messages with their attempts, newest first."""
    # A page can be short or empty and still have a ``next``, because of MOST_SCANNED.
    fake = control.fake
    upcoming = {(each.webhook_id, each.message_id): each for each in reversed(fake.upcoming())}
    shown: list[ShownMessage] = []
    following: str | None = None
    for looked_at, each in enumerate(fake._scan_messages(webhook_id, start=next_)):
        if len(shown) == limit or looked_at == MOST_SCANNED:
            following = each.id
            break
        texts = (each.id, each.event.type_id, each.event.id, each.event.user_id, each.status)
        if status in (None, each.status) and has(search, texts):
            shown.append(_show(ShownMessage, each, upcoming.get((each.webhook_id, each.id))))
    return ItemPage(tuple(shown), fake.count_messages(webhook_id), following)


@attrs.frozen
class WholeMessage(ShownMessage):
    data: Mapping[str, object] | None
    text: str | None


@operation("GET", "/messages/{messageId}")
async def message(
    control: Control,
    *,
    message_id: Annotated[str, About("The message's id.")],
) -> WholeMessage:
    """One message, with its event's data."""
    found = find_message(control, message_id)
    upcoming = next((each for each in control.fake.upcoming() if each.message_id == found.id), None)
    return _show(WholeMessage, found, upcoming)


def find_message(control: Control, message_id: str) -> fake_items.FakeMessage:
    found = control.fake._find_message(message_id)
    if found is None:
        raise ControlError(404, "not-found", f"there is no message {message_id!r}")
    return found


def _show(kind: Callable[..., M], message: fake_items.FakeMessage, upcoming: Upcoming | None) -> M:
    attempts = tuple(take(ShownAttempt, each, number=number) for number, each in enumerate(message.attempts, 1))
    following = None if upcoming is None else NextAttempt(upcoming.number, upcoming.due)
    ids = {"event_id": message.event.id, "event_type_id": message.event.type_id}
    return take(kind, message, message.event, **ids, attempts=attempts, next_attempt=following)


# --- logs ---


@attrs.frozen
class ShownRequest:
    number: int
    at: datetime
    path: str
    status: int | None
    duration: float
    misuses: tuple[str, ...]
    method: str


@operation("GET", "/requests")
async def requests(
    control: Control,
    *,
    search: Search = None,
    limit: AtMost = 100,
) -> Newest[ShownRequest]:
    """The latest requests, newest first."""
    log = control.fake.request_log
    return newest_of(
        log,
        limit,
        search,
        lambda record: take(ShownRequest, record, record.request),
        lambda record: (record.request.method, record.request.url, str(record.status), *record.misuses),
    )


@attrs.frozen
class WholeRequest(ShownRequest):
    url: str
    headers: Mapping[str, str]
    body: bytes | None


@operation("GET", "/requests/{number}")
async def request(
    control: Control,
    *,
    number: Annotated[str, About("The request's number.")],
) -> WholeRequest:
    """One request, with its headers and body."""
    for record in reversed(control.fake.request_log):
        if str(record.number) == number:
            sent = record.request
            body = None if record.path == "/token" else sent.body
            return take(WholeRequest, record, sent, headers=_show_headers(sent.headers), body=body)
    raise ControlError(404, "not-found", f"there is no request {number!r} in the log")


@operation("GET", "/deliveries")
async def deliveries(
    control: Control,
    *,
    message_id: Annotated[str | None, About("Only attempts of this message.")] = None,
    search: Search = None,
    limit: AtMost = 100,
) -> Newest[DeliveredAttempt]:
    """The latest delivery attempts, newest first."""
    return newest_of(
        [each for each in control.fake.deliveries if message_id in (None, each.message_id)],
        limit,
        search,
        lambda each: attrs.evolve(each, headers=_show_headers(each.headers)),
        lambda each: (each.message_id, each.event_type_id, each.event_id, each.url, str(each.status)),
    )


def _show_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: HIDDEN if name.lower() in _SECRET_HEADERS else value for name, value in headers.items()}


@operation("GET", "/misuses")
async def misuses(control: Control) -> Items[Misuse]:
    """The misuses: requests that the real Basiq would refuse, and others."""
    return Items(tuple(control.fake.misuses))
