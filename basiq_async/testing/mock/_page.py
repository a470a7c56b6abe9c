"""The page of the mock, which shows its state in a browser."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from ..._redaction.text import ShellText, shell_line
from ..._web.page import Context, LivePage, show_clock
from ..fake.catalog import SCHEDULE
from ._history import HIDDEN
from ._operation import OPERATIONS, Control
from .control_api import ROOT


def add_page(app: web.Application, control: Control) -> None:
    """Serve the page, with its script and styles, below ``/_fake/``."""

    def news() -> Mapping[str, object]:
        now = show_clock(control.fake.now().isoformat())
        return {"revision": control.fake._changes.revision, "texts": {"now": now}}

    LivePage(
        ROOT,
        Path(__file__).parent / "templates",
        ("time", "webhooks", "faults", "messages", "requests", "misuses"),
        partial(show_all, control),
        control.fake._changes.watch,
        news,
        {"message": partial(show_message, control), "request": partial(show_request, control)},
        _counts,
    ).add_to(app)


def _counts(context: Context) -> Mapping[str, int]:
    state: Any = context["state"]
    return {name: state[name] for name in ("messages", "requests", "misuses")}


ROWS = 60
MOST_ROWS = 1000


async def show_all(control: Control, query: Mapping[str, str]) -> Context:
    """Return the content of the page. ``query`` has the search and the numbers of rows."""
    search = query.get("search", "")[:200]
    message_rows, request_rows = _rows(query, "messages"), _rows(query, "requests")
    webhooks = await _call(control, "webhooks")
    messages = await _call(control, "messages", search=search, limit=message_rows)
    requests = await _call(control, "requests", search=search, limit=request_rows)
    misuses = await _call(control, "misuses")
    state = await _call(control, "state")
    urls = {webhook["id"]: webhook["url"] for webhook in webhooks["items"]}
    root = _root(control)
    down = {place["url"] for place in state["endpointsDown"]}
    return {
        "state": state,
        "all_down": None in down,
        "webhooks": [
            {
                **webhook,
                "down": webhook["url"] in down or None in down,
                "line": line_for_post(root, "webhooks", webhook["id"], "secret"),
            }
            for webhook in webhooks["items"]
        ],
        "messages": [
            {**message, "url": urls.get(message["webhookId"], ""), "marks": list(marks(message))}
            for message in messages["items"]
        ],
        "more_messages": messages["next"] is not None and message_rows < MOST_ROWS,
        "message_rows": message_rows,
        "requests": requests["items"],
        "more_requests": len(requests["items"]) == request_rows < MOST_ROWS,
        "request_rows": request_rows,
        "misuses": list(reversed(misuses["items"])),
        "event_types": list(control.fake.event_types),
        "ticks": list(ticks()),
        "search": search,
    }


async def show_message(control: Control, message_id: str) -> Context:
    """Return the content for one message, with its deliveries."""
    message = await _call(control, "message", messageId=message_id)
    deliveries = await _call(control, "deliveries", messageId=message_id, limit=50)
    by_attempt = {each["number"]: each for each in reversed(deliveries["items"])}
    return {
        "message": message,
        "attempts": [{**each, "delivery": by_attempt.get(each["number"])} for each in message["attempts"]],
        "line": line_for_post(_root(control), "messages", message_id, "redeliver"),
    }


async def show_request(control: Control, number: str) -> Context:
    """Return the content for one request."""
    request = await _call(control, "request", number=number)
    return {"request": request, "line": line_for_request(request)}


async def _call(control: Control, name: str, **given: object) -> Context:
    return await OPERATIONS[name].call(control, given)


def _root(control: Control) -> str:
    scheme, _, rest = control.base_url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}{ROOT}"


def _rows(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    return min(max(int(text), ROWS), MOST_ROWS) if text.isascii() and text.isdigit() and len(text) < 6 else ROWS


# All steps of Basiq's schedule are equally wide: on a linear scale, the first four would be in one place.
_MOMENTS = [moment.total_seconds() for moment in accumulate(SCHEDULE)]
_LABELS = ("0 s", "5 s", "5 min", "35 min", "2.6 h", "7.6 h", "18 h", "28 h")
_IMPORTANT = frozenset({"0 s", "5 min", "2.6 h", "18 h", "28 h"})
_LEFT, _RIGHT = 4.0, 96.0


def place(seconds: float) -> float:
    """Return the place on the timeline, in percent, of a moment so many seconds after the message."""
    steps = len(_MOMENTS) - 1
    step = min(max(bisect_right(_MOMENTS, seconds) - 1, 0), steps - 1)
    share = (seconds - _MOMENTS[step]) / (_MOMENTS[step + 1] - _MOMENTS[step])
    whole = (step + min(max(share, 0.0), 1.0)) / steps
    return round(_LEFT + whole * (_RIGHT - _LEFT), 2)


def ticks() -> Iterator[Context]:
    """Yield the labels of the scale. A narrow page shows only the important ones."""
    for moment, label in zip(_MOMENTS, _LABELS, strict=True):
        yield {"x": place(moment), "label": label, "important": label in _IMPORTANT}


def marks(message: Mapping[str, Any]) -> Iterator[Context]:
    """Yield the marks of a message, its attempts and the next one: a place in percent, a kind, and a text.

    The kinds are ok, failed, lost and due.
    """
    created = datetime.fromisoformat(message["created"])
    for attempt in message["attempts"]:
        since = (datetime.fromisoformat(attempt["at"]) - created).total_seconds()
        kind = "ok" if attempt["ok"] else "lost" if attempt["status"] is None else "failed"
        shown = "no response" if attempt["status"] is None else str(attempt["status"])
        text = (
            f"Attempt {attempt['number']}, {_describe_delay(since)}: {shown}, {attempt['response']}, "
            f"{attempt['duration'] * 1000:.0f} ms"
        )
        yield {"x": place(since), "kind": kind, "text": text}
    coming = message["nextAttempt"]
    if coming is not None:
        since = (datetime.fromisoformat(coming["due"]) - created).total_seconds()
        text = f"Attempt {coming['number']} is due {_describe_delay(since)}"
        yield {"x": place(since), "kind": "due", "text": text}


def _describe_delay(seconds: float) -> str:
    """Return the time after the message in words, such as 'after 5 min'."""
    if seconds < 1:
        return "at once"
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"after {seconds / size:.3g} {unit}"
    return f"after {seconds:.3g} s"


_LEFT_OUT = frozenset({"host", "content-length", "accept-encoding", "connection", "user-agent", "accept"})
_BASIC = ShellText('"Authorization: Basic $BASIQ_API_KEY"')
_BEARER = ShellText('"Authorization: Bearer $BASIQ_TOKEN"')


def line_for_request(request: Mapping[str, Any]) -> str:
    """Return a curl command that repeats a request, without its credential."""
    # Without --globoff, curl reads brackets and braces in a URL as a list of URLs.
    parts: list[str | ShellText] = ["curl", "--globoff", "-X", request["method"], request["url"]]
    for name, value in request["headers"].items():
        if name.lower() == "authorization":
            parts += ["-H", _BASIC if request["path"] == "/token" else _BEARER]
        elif name.lower() not in _LEFT_OUT and value != HIDDEN:
            parts += ["-H", f"{name}: {value}"]
    if request["body"]:
        parts += ["--data-raw", request["body"]]
    return shell_line(parts)


def line_for_post(url: str, *places: str) -> str:
    """Return a curl command that calls an operation of the control API: the path below ``url``."""
    path = "/".join(quote(each, safe="", errors="replace") for each in places)
    return shell_line(["curl", "-X", "POST", "-H", _BASIC, f"{url}/{path}"])
