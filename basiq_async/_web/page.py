"""A page over HTTP: rendered here, kept up to date by server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp_jinja2
import attrs
import jinja2
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from .guard import ControlError

Context = dict[str, Any]
Watch = Callable[[Callable[[], None]], Callable[[], None]]
_FOLDER = Path(__file__).parent
_KINDS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_GATHER = 0.04
"""Seconds in which changes are gathered, so that a burst is one update."""
_TICK = 1.0
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@attrs.frozen
class LivePage:
    """A page below ``root``.

    show: what its templates need, for a query. ``sections`` are the templates, and the ids of the elements, that are
        rendered again after a change; ``counts`` those that hold a number.
    details: templates of what a row opens to, each with what shows one by its id. The id is in the query: no text
        of it can lead to another path.
    watch: calls back after each change. ``news`` is what to send then: a revision, and texts by their element's id.
    """

    root: str
    token: str = attrs.field(repr=False)
    templates: Path
    sections: Sequence[str]
    show: Callable[[Mapping[str, str]], Awaitable[Context]]
    watch: Watch
    news: Callable[[], Mapping[str, object]]
    details: Mapping[str, Callable[[str], Awaitable[Context]]] = attrs.field(factory=dict)
    counts: Callable[[Context], Mapping[str, int]] = lambda context: {}

    def add_to(self, app: web.Application) -> None:
        """Serve it, with its script and styles."""
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
                web.get(self.root, self._redirect),
                web.get(f"{self.root}/", self._page),
                web.get(f"{self.root}/ui/sections", self._sections),
                web.get(f"{self.root}/ui/token", self._give_token),
                web.get(f"{self.root}/ui/stream", self._stream),
                *(web.get(f"{self.root}/ui/{kind}", self._detail(kind)) for kind in self.details),
                web.get(f"{self.root}/ui/{{name}}", self._static),
            ]
        )

    async def _redirect(self, request: web.Request) -> web.Response:
        return web.Response(status=308, headers={"Location": f"{self.root}/"})

    async def _page(self, request: web.Request) -> web.Response:
        return self._render("page.html", request, await self.show(request.query))

    def _render(self, name: str, request: web.Request, context: Context) -> web.Response:
        response = aiohttp_jinja2.render_template(name, request, {"root": self.root, **context})
        response.headers["Content-Security-Policy"] = POLICY
        return response

    async def _sections(self, request: web.Request) -> web.Response:
        context = {"root": self.root, **await self.show(request.query)}
        shown = {name: aiohttp_jinja2.render_string(f"{name}.html", request, context) for name in self.sections}
        return web.json_response({"sections": shown, "counts": self.counts(context)})

    def _detail(self, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def detail(request: web.Request) -> web.Response:
            return self._render(f"{kind}.html", request, await self.details[kind](request.query.get("id", "")))

        return detail

    async def _give_token(self, request: web.Request) -> web.Response:
        # Its own script alone can send this header: another origin's would have to ask first, and is refused.
        if request.headers.get("X-Fake-Page") != "1":
            raise ControlError(403, "not-the-page", "only the page asks for this")
        return web.json_response({"token": self.token})

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in _KINDS:
            raise ControlError(404, "not-found", "there is no such file")
        body = (_FOLDER / "static" / name).read_bytes()
        return web.Response(body=body, content_type=_KINDS[name], charset="utf-8")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Send the page its news after each change, and once a second."""
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


def show_clock(text: str) -> str:
    """The time of day."""
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
    "clock": show_clock,
    "day": _day,
    "pretty": _pretty,
    "pretty_body": _pretty_body,
    "duration": _duration,
}
