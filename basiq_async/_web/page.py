"""Serve a page that server-sent events keep up to date. Its HTML is rendered here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp_jinja2
import attrs
import jinja2
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from .._work.limits import wait_for_event
from .access import IN_PATH, ControlError

Context = dict[str, Any]
OnChange = Callable[[Callable[[], None]], Callable[[], None]]
_FOLDER = Path(__file__).parent
_KINDS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_GATHER = 0.04
"""The least seconds between two updates, so that a burst of changes is one update."""
_TICK = 1.0
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@attrs.frozen
class LivePage:
    """A page below ``root``.

    sections: the templates that are rendered again after a change. Each is named like the id of its element.
    show: returns the context of the templates, for a query.
    counts: returns the numbers of the page by the ids of their elements, for a context.
    details: maps the template of a row's details to a function that returns its context for the row's id. The id
        is sent in the query, so that it cannot lead to another path.
    watch: registers a function that is called after each change, and returns a function that ends that.
    news: returns the data to send after a change: a revision, and texts by the ids of their elements.
    """

    root: str
    templates: Path
    sections: Sequence[str]
    show: Callable[[Mapping[str, str]], Awaitable[Context]]
    watch: OnChange
    news: Callable[[], Mapping[str, object]]
    details: Mapping[str, Callable[[str], Awaitable[Context]]] = attrs.field(factory=dict)
    counts: Callable[[Context], Mapping[str, int]] = lambda context: {}

    def add_to(self, app: web.Application) -> None:
        """Add the routes of the page, its script and its styles to an application."""
        aiohttp_jinja2.setup(
            app,
            loader=jinja2.FileSystemLoader([self.templates, _FOLDER / "templates"]),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            filters=_FILTERS,
        )
        app.add_routes(
            [
                web.get(f"{self.root}{IN_PATH}", self._redirect),
                web.get(f"{self.root}{IN_PATH}/", self._page),
                web.get(f"{self.root}{IN_PATH}/ui/sections", self._sections),
                web.get(f"{self.root}{IN_PATH}/ui/stream", self._stream),
                *(web.get(f"{self.root}{IN_PATH}/ui/{kind}", self._detail(kind)) for kind in self.details),
                web.get(f"{self.root}{IN_PATH}/ui/{{name}}", self._static),
            ]
        )

    async def _redirect(self, request: web.Request) -> web.Response:
        return web.Response(status=308, headers={"Location": f"{self._root_of(request)}/"})

    def _root_of(self, request: web.Request) -> str:
        """Return the path that the page's urls begin with: that of the request, with its token."""
        token = request.match_info["token"][2:]
        return f"{self.root}/~{quote(token, safe='')}" if token else self.root

    async def _page(self, request: web.Request) -> web.Response:
        return self._render("page.html", request, await self.show(request.query))

    def _render(self, name: str, request: web.Request, context: Context) -> web.Response:
        response = aiohttp_jinja2.render_template(name, request, {"root": self._root_of(request), **context})
        response.headers["Content-Security-Policy"] = POLICY
        return response

    async def _sections(self, request: web.Request) -> web.Response:
        context = {"root": self._root_of(request), **await self.show(request.query)}
        shown = {name: aiohttp_jinja2.render_string(f"{name}.html", request, context) for name in self.sections}
        return web.json_response({"sections": shown, "counts": self.counts(context)})

    def _detail(self, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def detail(request: web.Request) -> web.Response:
            return self._render(f"{kind}.html", request, await self.details[kind](request.query.get("id", "")))

        return detail

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in _KINDS:
            raise ControlError(404, "not-found", "there is no such file")
        body = (_FOLDER / "static" / name).read_bytes()
        return web.Response(body=body, content_type=_KINDS[name], charset="utf-8")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Send the page its news after each change, and at least once a second."""
        changed = asyncio.Event()
        stop = self.watch(changed.set)
        response = EventSourceResponse()
        loop = asyncio.get_running_loop()
        try:
            await response.prepare(request)
            async with response:
                while response.is_connected():
                    changed.clear()
                    sent = loop.time()
                    await response.send(json.dumps(self.news()))
                    if await wait_for_event(changed, _TICK):
                        await asyncio.sleep(max(sent + _GATHER - loop.time(), 0.0))
        except ConnectionResetError:
            pass  # the browser closed the connection
        finally:
            stop()
        return response


def show_clock(text: str) -> str:
    """Return the time of day of an ISO 8601 text."""
    return f"{datetime.fromisoformat(text):%H:%M:%S}"


def _moment(text: str, now: str) -> str:
    """Return the time of day of an ISO 8601 text, with its date unless that is the one of ``now``."""
    found = datetime.fromisoformat(text)
    return show_clock(text) if found.date() == datetime.fromisoformat(now).date() else f"{found:%d %b %H:%M:%S}"


def _day(text: str) -> str:
    return f"{datetime.fromisoformat(text):%a %d %b %Y}"


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _pretty_body(text: str) -> str:
    """Return a body, indented if it is JSON."""
    try:
        return _pretty(json.loads(text))
    except (ValueError, RecursionError):
        return text


_FILTERS: Mapping[str, Callable[..., str]] = {
    "clock": show_clock,
    "day": _day,
    "moment": _moment,
    "pretty": _pretty,
    "pretty_body": _pretty_body,
    "duration": _duration,
}
