"""The control API over HTTP, below ``/_fake/``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from ..._web.guard import TOKEN_HEADER, ControlError
from ..._web.responses import read_json, respond
from ...errors import BasiqError
from ._openapi import ROOT, as_json, describe
from ._operation import Control, Operation, Values, read_body, read_query
from ._operations import OPERATIONS

_BASIQ = Path(__file__).parents[1] / "basiq.yaml"
"""Basiq's API, as the fake speaks it."""
_HOW = "send its API key, in the header Authorization: Basic KEY"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def routes(control: Control) -> list[web.RouteDef]:
    """The routes of every operation, and of the description."""

    async def openapi(request: web.Request) -> web.Response:
        return respond(describe())

    async def basiq(request: web.Request) -> web.Response:
        return web.Response(body=_BASIQ.read_bytes(), content_type="application/yaml", charset="utf-8")

    made = [web.route(each.method, ROOT + each.path, _handler(control, each)) for each in OPERATIONS]
    return [web.get(ROOT + "/openapi.json", openapi), web.get(ROOT + "/basiq.yaml", basiq), *made]


def _handler(control: Control, operation: Operation) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        named = _find_state(control, request)
        values = await _read(request, operation)
        try:
            return respond(as_json(await operation.run(named, {**values, **request.match_info})))
        except BasiqError as error:
            raise ControlError(400, "not-valid", str(error)) from error

    return handle


def _find_state(control: Control, request: web.Request) -> Control:
    """The control of the state whose API key a call has. Raises ControlError for a key of another mock.

    A call that changes something has to name its mock: on a port that was this mock's there may be another one.
    """
    header = request.headers.get("Authorization")
    if header is None:
        if request.method == "POST" and TOKEN_HEADER not in request.headers:
            raise ControlError(401, "key-missing", f"say which mock is meant: {_HOW}")
        return control
    scheme, _, key = header.partition(" ")
    found = control.first.find_state(header) if scheme.lower() == "basic" else None
    if found is None:
        raise ControlError(
            403, "another-mock", f"this mock does not have that API key, so another one is meant: {_HOW}"
        )
    return control.of(found, key)


async def _read(request: web.Request, operation: Operation) -> Values:
    if operation.method == "GET":
        return read_query(operation.fields, dict(request.query))
    return read_body(operation.fields, await read_json(request))
