"""The page over HTTP: rendered here, kept up to date by server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp_jinja2
import jinja2
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from ..control._fields import ControlError
from ..control._openapi import ROOT
from ..control._operations import Control
from ._sections import Context, show_all, show_message, show_request

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_FOLDER = Path(__file__).parent
_KINDS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_SECTIONS = ("time", "webhooks", "faults", "messages", "requests", "violations")
_GATHER = 0.04
"""Seconds in which changes are gathered, so that a burst is one update."""
_TICK = 1.0
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_page(app: web.Application, control: Control, token: str) -> None:
    """Serve the page, and what it is made of, below ``/_fake/``."""
    aiohttp_jinja2.setup(
        app,
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        filters=_FILTERS,
    )

    async def page(request: web.Request) -> web.Response:
        return _render("page.html", request, await show_all(control, request.query))

    async def sections(request: web.Request) -> web.Response:
        context = await show_all(control, request.query)
        shown = {name: aiohttp_jinja2.render_string(f"{name}.html", request, context) for name in _SECTIONS}
        counts = {name: context["state"][name] for name in ("messages", "requests", "violations")}
        return web.json_response({"sections": shown, "counts": counts})

    async def message(request: web.Request) -> web.Response:
        return _render("message.html", request, await show_message(control, request.match_info["id"]))

    async def one_request(request: web.Request) -> web.Response:
        return _render("request.html", request, await show_request(control, request.match_info["number"]))

    async def give_token(request: web.Request) -> web.Response:
        # Its own script alone can send this header: another origin's would have to ask first, and is refused.
        if request.headers.get("X-Fake-Page") != "1":
            raise ControlError(403, "not-the-page", "only the page asks for this")
        return web.json_response({"token": token})

    async def static(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in _KINDS:
            raise ControlError(404, "not-found", "there is no such file")
        body = (_FOLDER / "static" / name).read_bytes()
        return web.Response(body=body, content_type=_KINDS[name], charset="utf-8")

    app.add_routes(
        [
            web.get(ROOT, _to_page),
            web.get(f"{ROOT}/", page),
            web.get(f"{ROOT}/ui/sections", sections),
            web.get(f"{ROOT}/ui/messages/{{id}}", message),
            web.get(f"{ROOT}/ui/requests/{{number}}", one_request),
            web.get(f"{ROOT}/ui/token", give_token),
            web.get(f"{ROOT}/ui/stream", _stream(control)),
            web.get(f"{ROOT}/ui/{{name}}", static),
        ]
    )


async def _to_page(request: web.Request) -> web.Response:
    return web.Response(status=308, headers={"Location": f"{ROOT}/"})


def _render(name: str, request: web.Request, context: Context) -> web.Response:
    response = aiohttp_jinja2.render_template(name, request, context)
    response.headers["Content-Security-Policy"] = POLICY
    return response


def _stream(control: Control) -> Handler:
    async def stream(request: web.Request) -> web.StreamResponse:
        """Tell the page of each change, and of the time where that goes by."""
        changed = asyncio.Event()
        stop = control.fake.watch(changed.set)
        response = EventSourceResponse()
        try:
            await response.prepare(request)
            async with response:
                loop = asyncio.get_running_loop()
                while response.is_connected():
                    changed.clear()
                    sent = loop.time()
                    now = _clock(control.fake.now().isoformat())
                    await response.send(json.dumps({"revision": control.fake.revision, "now": now}))
                    try:
                        async with asyncio.timeout(_TICK):
                            await changed.wait()
                        await asyncio.sleep(max(sent + _GATHER - loop.time(), 0.0))
                    except TimeoutError:
                        pass
        except ConnectionResetError:
            pass  # the browser went away
        finally:
            stop()
        return response

    return stream


def _clock(text: str) -> str:
    return f"{datetime.fromisoformat(text):%H:%M:%S}"


def _day(text: str) -> str:
    return f"{datetime.fromisoformat(text):%a %d %b %Y}"


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _pretty_body(text: str) -> str:
    """A body, indented where it is JSON."""
    try:
        return _pretty(json.loads(text))
    except (ValueError, RecursionError):
        return text


_FILTERS: Mapping[str, Callable[..., str]] = {
    "clock": _clock,
    "day": _day,
    "pretty": _pretty,
    "pretty_body": _pretty_body,
    "duration": _duration,
}
