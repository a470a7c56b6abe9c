"""What the page shows, taken from the control API's operations and from nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..control import _operations as control_api
from ..control._openapi import ROOT
from ..control._operation import Control
from ..control._schemas import as_json
from ._lines import line_for_message, line_for_request, line_for_webhook
from ._timeline import marks, ticks

Context = dict[str, Any]
ROWS = 60
MOST_ROWS = 1000


async def show_all(control: Control, query: Mapping[str, str]) -> Context:
    """Everything on the page, as a search and the number of rows that were asked for have it."""
    search = query.get("search", "")[:200]
    chosen = {"search": search} if search else {}
    message_rows, request_rows = _rows(query, "messages"), _rows(query, "requests")
    webhooks: Any = as_json(await control_api.webhooks(control, {}))
    messages: Any = as_json(await control_api.messages(control, {"limit": message_rows, **chosen}))
    requests: Any = as_json(await control_api.requests(control, {"limit": request_rows, **chosen}))
    violations: Any = as_json(await control_api.violations(control, {}))
    event_types: Any = as_json(await control_api.event_types(control, {}))
    state: Any = as_json(await control_api.state(control, {}))
    urls = {webhook["id"]: webhook["url"] for webhook in webhooks["items"]}
    root = _root(control)
    down = {place["url"] for place in state["endpointsDown"]}
    return {
        "state": state,
        "all_down": None in down,
        "webhooks": [
            {**webhook, "down": webhook["url"] in down or None in down, "lines": line_for_webhook(webhook, root)}
            for webhook in webhooks["items"]
        ],
        "messages": [
            {**message, "url": urls.get(message["webhookId"], ""), "marks": list(marks(message))}
            for message in messages["items"]
        ],
        "more_messages": messages["next"] is not None and message_rows < MOST_ROWS,
        "message_rows": message_rows,
        "requests": requests["items"],
        "more_requests": requests["next"] is not None and request_rows < MOST_ROWS,
        "request_rows": request_rows,
        "violations": list(reversed(violations["items"])),
        "event_types": event_types["items"],
        "ticks": list(ticks()),
        "search": search,
    }


async def show_message(control: Control, message_id: str) -> Context:
    """One message, with its deliveries."""
    message: Any = as_json(await control_api.message(control, {"messageId": message_id}))
    deliveries: Any = as_json(await control_api.deliveries(control, {"messageId": message_id, "limit": 50}))
    by_attempt = {each["attempt"]: each for each in reversed(deliveries["items"])}
    return {
        "message": message,
        "attempts": [{**each, "delivery": by_attempt.get(each["number"])} for each in message["attempts"]],
        "lines": line_for_message(message, _root(control)),
    }


async def show_request(control: Control, number: str) -> Context:
    """One request."""
    request: Any = as_json(await control_api.request(control, {"number": number}))
    return {"request": request, "lines": line_for_request(request)}


def _root(control: Control) -> str:
    scheme, _, rest = control.base_url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}{ROOT}"


def _rows(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    return min(max(int(text), ROWS), MOST_ROWS) if text.isascii() and text.isdigit() and len(text) < 6 else ROWS
