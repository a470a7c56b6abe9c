"""The HTTP routes of the control API below ``/_fake/``."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import attrs
from aiohttp import web

from ..._redaction.credentials import prove
from ..._web.access import IN_PATH, STATE_HEADER, ControlError, read_token
from ..._web.serving import parse_json, read_body, respond
from ...errors import BasiqError
from ..fake._fake import FakeBasiq
from ._operation import Control, Operation
from .control_api import OPERATIONS, ROOT, openapi_document

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
    proof = request.headers.get(STATE_HEADER)
    state = _find_named(control, request) if proof is None else None
    raw = await read_body(request)
    if proof is not None:
        state = _find_proven(control, request, proof, raw or b"")
    named = control if state is None else attrs.evolve(control, fake=state)
    sent = dict(request.query) if operation.method == "GET" else parse_json(raw)
    in_path = {name: text for name, text in request.match_info.items() if name != "token"}
    try:
        return await operation.call(named, {**{n: v for n, v in sent.items() if v is not None}, **in_path})
    except BasiqError as error:
        raise ControlError(400, "not-valid", str(error)) from error


def _find_named(control: Control, request: web.Request) -> FakeBasiq | None:
    """Return the state whose API key a call has; None for a call without a key, which only reads or has the token.

    A POST must name a key, because another mock may use the same port by now.
    """
    header = request.headers.get("Authorization")
    if header is None:
        if request.method == "POST" and read_token(request) is None:
            raise ControlError(401, "key-missing", f"name the mock that this call is for: {_HOW}")
        return None
    scheme, _, key = header.partition(" ")
    return _find(control, lambda own: scheme.lower() == "basic" and own == key)


def _find_proven(control: Control, request: web.Request, proof: str, body: bytes) -> FakeBasiq:
    """Return the state whose API key the sender of this request knows.

    The commands do not send the key, because another program may listen there, and what they send is good for one
    request: a program that listened there before could send anything else again.
    """
    challenge, _, shown = proof.partition(".")
    is_new = control.challenges.use(challenge)

    def fits(own: str) -> bool:
        expected = prove(own, challenge, request.method, request.raw_path, body)
        return secrets.compare_digest(expected.encode(), shown.encode(errors="replace"))

    return _find(control, lambda own: is_new and fits(own))


def _find(control: Control, is_meant: Callable[[str], bool]) -> FakeBasiq:
    for state in (control.first, *control.first.states.values()):
        if is_meant(state.api_key):
            return state
    raise ControlError(
        403, "another-mock", f"this mock does not have that API key, so the call is for another mock: {_HOW}"
    )
