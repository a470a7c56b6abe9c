"""Run a local server: start and stop it, check every request, read and write JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from .._work.tasks import run_to_completion
from .access import ControlError, Guard
from .bodies import BodyError, BodyReader

MOST_BYTES = 1_048_576
MOST_TOGETHER = 16 * MOST_BYTES
SECONDS = 10.0
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_BODIES: web.AppKey[BodyReader] = web.AppKey("bodies", BodyReader)
Elsewhere = Callable[[web.Request], Awaitable[web.StreamResponse]]


@attrs.frozen
class Address:
    """The address that a server listens on. ``str`` returns the beginning of its URLs."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@asynccontextmanager
async def listening(
    app: web.Application, host: str = "127.0.0.1", port: int = 0, *, shutdown_timeout: float = 0.5, **options: Any
) -> AsyncGenerator[Address]:
    """Serve an application, and yield the address that it listens on. Port 0 means any free port.

    At the end, handlers that still run get ``shutdown_timeout`` seconds to finish, even if the task is cancelled.
    ``options`` are passed to aiohttp's ``AppRunner``. Raises OSError if the server cannot listen.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown_timeout, **options)
    try:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        yield Address(*runner.addresses[0][:2])
    finally:
        await run_to_completion(runner.cleanup)


def respond(body: Mapping[str, object], status: int = 200) -> web.Response:
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json", charset="utf-8")


async def read_body(request: web.Request) -> bytes | None:
    """Return the body of a request, at most 1 MiB, or None if it has none. Raises ControlError: 413, 408 or 503."""
    if not request.can_read_body:
        return None
    reader = request.app[_BODIES]
    body = reader.open()
    try:
        reader.check_length(request.content_length)
        return await body.read(request.content.iter_any())
    except BodyError as exc:
        status, text = {
            "too-large": (413, f"the body is larger than {reader.max_size} bytes"),
            "aborted": (408, f"the body did not arrive within {reader.timeout:g} s"),
            "too-many": (503, f"more than {reader.max_total} bytes of bodies are arriving: try again later"),
        }[exc.reason]
        raise ControlError(status, "body-not-read", text) from None
    finally:
        body.close()


async def read_json(request: web.Request) -> dict[str, object]:
    """Return the body as a JSON object. See ``parse_json``."""
    return parse_json(await read_body(request))


def parse_json(raw: bytes | None) -> dict[str, object]:
    """Return a body as a JSON object. An empty body is an empty object. Raises ControlError for any other body."""
    try:
        body = json.loads(raw) if raw else {}
    except (ValueError, RecursionError):
        raise ControlError(400, "not-valid", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise ControlError(400, "not-valid", "the body is not a JSON object")
    return body


def make_app(guard: Guard, elsewhere: Elsewhere | None = None) -> web.Application:
    """Make the application of a local server. ``elsewhere`` handles requests outside of the guard's root."""
    app = web.Application(middlewares=[_guarding(guard, elsewhere)])
    app[_BODIES] = BodyReader(max_size=MOST_BYTES, max_total=MOST_TOGETHER, timeout=SECONDS)
    return app


def _guarding(guard: Guard, elsewhere: Elsewhere | None) -> Middleware:
    """Return a middleware that checks requests, and passes those outside of the guard's root to ``elsewhere``."""

    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            guard.check(request)
            inside = request.path == guard.root or request.path.startswith(guard.root + "/")
            if elsewhere is not None and not inside:
                return await elsewhere(request)
            guard.check_control(request)
            response = await handler(request)
        except ControlError as error:
            response = respond({"error": {"code": error.code, "message": error.message}}, error.status)
        except web.HTTPException as error:
            code = "not-found" if error.status == 404 else "refused"
            response = respond({"error": {"code": code, "message": error.reason}}, error.status)
        if not response.prepared:
            response.headers.update(_SAFE)
            response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        return response

    return handle
