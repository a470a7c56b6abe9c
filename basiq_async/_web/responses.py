"""Responses in JSON, and what every request to a local server goes through."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from .bodies import BODIES, Bodies, BodyError
from .guard import ControlError, Guard

_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Elsewhere = Callable[[web.Request], Awaitable[web.StreamResponse]]


def respond(body: Mapping[str, object], status: int = 200) -> web.Response:
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json", charset="utf-8")


async def read_json(request: web.Request) -> dict[str, object]:
    """The body, a JSON object; an empty one is an empty object. Raises ControlError."""
    try:
        raw = await request.app[BODIES].read(request)
    except BodyError as error:
        raise ControlError(error.status, "body-not-read", str(error)) from error
    try:
        body = json.loads(raw) if raw else {}
    except (ValueError, RecursionError):
        raise ControlError(400, "not-valid", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise ControlError(400, "not-valid", "the body is not a JSON object")
    return body


def make_app(guard: Guard, elsewhere: Elsewhere | None = None) -> web.Application:
    """Make the application of a local server; ``elsewhere`` handles what is not below the guard's root."""
    app = web.Application(middlewares=[_guarding(guard, elsewhere)])
    app[BODIES] = Bodies()
    return app


def _guarding(guard: Guard, elsewhere: Elsewhere | None) -> Middleware:
    """Check every request, and hand those that are not below the guard's root to ``elsewhere``."""

    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            guard.check(request)
            inside = request.path == guard.root or request.path.startswith(guard.root + "/")
            if elsewhere is not None and not inside:
                return await elsewhere(request)
            entry = guard.enter(request)
            if entry is not None:
                return entry
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
