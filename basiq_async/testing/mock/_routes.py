"""The HTTP routes of the control API below ``/_fake/``."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from ..._redaction.credentials import fingerprint
from ..._web.access import IN_PATH, ControlError, read_token
from ..._web.serving import read_json, respond
from ...errors import BasiqError
from ._operation import Control, Operation
from .control_api import OPERATIONS, ROOT, STATE_HEADER, openapi_document

_BASIQ = Path(__file__).parents[1] / "basiq.yaml"
"""An OpenAPI document of Basiq's API as the fake implements it."""
_HOW = "send its API key, in the header Authorization: Basic KEY"


def routes(control: Control) -> list[web.RouteDef]:
    """Return the routes of all operations and of the two OpenAPI documents."""

    async def openapi(request: web.Request) -> web.Response:
        return respond(openapi_document())

    async def basiq(request: web.Request) -> web.Response:
        return web.Response(body=_BASIQ.read_bytes(), content_type="application/yaml", charset="utf-8")

    def route(operation: Operation) -> web.RouteDef:
        async def handle(request: web.Request) -> web.Response:
            return respond(await _call(control, operation, request))

        return web.route(operation.method, ROOT + IN_PATH + operation.path, handle)

    documents = [web.get(f"{ROOT}{IN_PATH}/openapi.json", openapi), web.get(f"{ROOT}{IN_PATH}/basiq.yaml", basiq)]
    return [*documents, *map(route, OPERATIONS.values())]


async def _call(control: Control, operation: Operation, request: web.Request) -> dict[str, object]:
    named = _find_state(control, request)
    sent = dict(request.query) if operation.method == "GET" else await read_json(request)
    in_path = {name: text for name, text in request.match_info.items() if name != "token"}
    try:
        return await operation.call(named, {**{n: v for n, v in sent.items() if v is not None}, **in_path})
    except BasiqError as error:
        raise ControlError(400, "not-valid", str(error)) from error


def _find_state(control: Control, request: web.Request) -> Control:
    """Return the control of the state to which a call's API key belongs. Raises ``ControlError`` for an unknown key.

    A POST must name a key, because another mock may use the same port by now. The commands send only its fingerprint,
    because another program may listen there.
    """
    header, named = request.headers.get("Authorization"), request.headers.get(STATE_HEADER)
    if header is None and named is None:
        if request.method == "POST" and read_token(request) is None:
            raise ControlError(401, "key-missing", f"name the mock that this call is for: {_HOW}")
        return control
    scheme, _, key = (header or "").partition(" ")
    for state in (control.first, *control.first.states.values()):
        own = state.api_key
        if (scheme.lower() == "basic" and own == key) if named is None else fingerprint(own) == named:
            return Control(state, control.base_url, control.first)
    raise ControlError(
        403, "another-mock", f"this mock does not have that API key, so the call is for another mock: {_HOW}"
    )
