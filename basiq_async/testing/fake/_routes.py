"""Which path is which operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from urllib.parse import unquote

from ...transports.base import Response
from . import _operations as op
from ._operations import Call
from ._responses import Refusal, not_found

Operation = Callable[[Call], Response]

_ROUTES: tuple[tuple[str, Mapping[str, Operation]], ...] = (
    ("/notifications/webhooks", {"GET": op.list_webhooks, "POST": op.create_webhook}),
    ("/notifications/messages/test", {"POST": op.send_test}),
    (
        "/notifications/webhooks/{webhookId}",
        {"GET": op.get_webhook, "POST": op.update_webhook, "DELETE": op.delete_webhook},
    ),
    ("/notifications/webhooks/{webhookId}/messages", {"GET": op.list_messages}),
    ("/notifications/webhooks/{webhookId}/messages/{messageId}", {"GET": op.get_message}),
    ("/events", {"GET": op.list_events}),
    ("/events/types", {"GET": op.list_event_types}),
    ("/events/types/{eventTypeId}", {"GET": op.get_event_type}),
    ("/events/{eventId}", {"GET": op.get_event}),
    ("/users/{userId}", {"GET": op.get_entity}),
    ("/users/{userId}/{collection}", {"GET": op.get_entity}),
    ("/users/{userId}/{collection}/{entityId}", {"GET": op.get_entity}),
)
_LISTS = ("webhooks", "messages", "events", "types")

_by_length: dict[int, list[tuple[Sequence[str], Mapping[str, Operation]]]] = {}
for _pattern, _methods in _ROUTES:
    _parts = _pattern.split("/")
    _by_length.setdefault(len(_parts), []).append((_parts, _methods))


def find(method: str, path: str) -> Callable[[Call], Response]:
    """The operation at a path, its path parameters filled in when called; raises Refusal (404, 405)."""
    parts = path.split("/")
    if len(parts) > 2 and not parts[-1] and parts[-2] in _LISTS:
        parts.pop()  # the guide's form of a list's path
    if "%" in path:
        parts = [unquote(part) for part in parts]
    for pattern, methods in _by_length.get(len(parts), ()):
        if all(want == part or (want[:1] == "{" and part) for want, part in zip(pattern, parts, strict=True)):
            operation = methods.get(method)
            if operation is None:
                allow = ", ".join(methods)
                detail = f"This path takes {allow}."
                raise Refusal(405, "method-not-allowed", detail, headers={"allow": allow})
            params = {want[1:-1]: part for want, part in zip(pattern, parts, strict=True) if want[:1] == "{"}
            return partial(_with, operation, params)
    raise not_found("There is no such path.")


def _with(operation: Operation, params: dict[str, str], call: Call) -> Response:
    call.params = params
    return operation(call)
