"""Responses in the form of the reference: JSON, and the one shape that every error has."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ...transports.base import Response

JSON_HEADERS = {"content-type": "application/json; charset=utf-8"}
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_TITLES = {
    "invalid-content": "Invalid request content",
    "event-already-subscribed": "Event already subscribed",
    "path-parameter-not-valid": "Parameter value is not valid",
    "parameter-not-valid": "Parameter value is not valid",
    "no-webhooks-found": "No webhooks found for an app",
    "unauthorized-access": "Unauthorized access",
    "forbidden-access": "Forbidden access",
    "resource-not-found": "Requested resource is not found",
    "method-not-allowed": "Method not allowed",
    "resource-already-exists": "Resource already exists",
    "too-many-requests": "Too many requests",
    "internal-server-error": "Internal server error",
    "service-unavailable": "Service unavailable",
}
CODES = {
    400: "invalid-content",
    401: "unauthorized-access",
    403: "forbidden-access",
    404: "resource-not-found",
    405: "method-not-allowed",
    409: "resource-already-exists",
    429: "too-many-requests",
    500: "internal-server-error",
    503: "service-unavailable",
}


class Refusal(Exception):
    """A request that gets a documented error."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        parameter: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.parameter = parameter
        self.headers = headers or {}


def as_json(body: object) -> bytes:
    try:
        return _encode(body).encode()
    except UnicodeEncodeError:
        # A lone surrogate has no bytes in UTF-8; JSON can spell it as an escape.
        return json.dumps(body).encode()


def json_response(body: object, status: int = 200) -> Response:
    return Response(status, JSON_HEADERS, as_json(body))


def empty(status: int) -> Response:
    return Response(status, {}, b"")


def error_response(refusal: Refusal, correlation_id: str) -> Response:
    """The response of an error."""
    error: dict[str, object] = {
        "type": "error",
        "code": refusal.code,
        "title": _TITLES.get(refusal.code, refusal.code),
        "detail": refusal.detail,
    }
    if refusal.parameter is not None:
        error["source"] = {"parameter": refusal.parameter}
    body = {"type": "list", "correlationId": correlation_id, "data": [error]}
    return Response(refusal.status, {**JSON_HEADERS, **refusal.headers}, as_json(body))


def bad_content(detail: str, parameter: str, code: str = "invalid-content") -> Refusal:
    return Refusal(400, code, detail, parameter)


def bad_parameter(detail: str, parameter: str) -> Refusal:
    return Refusal(400, "parameter-not-valid", detail, parameter)


def not_found(detail: str) -> Refusal:
    return Refusal(404, "resource-not-found", detail)
