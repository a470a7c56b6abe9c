"""Calls of the control API of a mock that runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from .._urls import BaseURL
from ..errors import BasiqError, ConfigurationError

DEFAULT_URL = "http://127.0.0.1:4010"
TOKEN = "BASIQ_MOCK_TOKEN"  # noqa: S105  # the name of a variable
_TIMEOUT = 60.0
_MOST = 64 * 2**20


class MockError(BasiqError):
    """The mock did not do what it was asked for; ``status`` is its HTTP status, where it responded."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


async def call(
    url: str | None, method: str, path: str, values: Mapping[str, Any], *, timeout: float = _TIMEOUT
) -> dict[str, Any]:
    """Call an operation of the mock at ``url`` and return what it responds. Values that are None are left out.

    Raises ``MockError``, and ``ConfigurationError`` for a call that the mock does not take.
    """
    import aiohttp

    base = BaseURL.parse(url or os.environ.get("BASIQ_BASE_URL") or DEFAULT_URL)
    given = {name: value for name, value in values.items() if value is not None}
    target = f"{base.origin}/_fake{path}"
    if method == "GET" and given:
        target += "?" + urlencode(given)
    headers = {"X-Fake-Token": token} if (token := os.environ.get(TOKEN)) else {}
    try:
        async with (
            aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, timeout=aiohttp.ClientTimeout(total=timeout)
            ) as session,
            session.request(
                method, target, json=given if method == "POST" else None, headers=headers, allow_redirects=False
            ) as response,
        ):
            status, body = response.status, await response.content.read(_MOST)
    except TimeoutError:
        raise MockError(f"the mock at {base.origin} did not respond within {timeout:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise MockError(
            f"there is no mock at {base.origin} ({type(exc).__name__}): start one with 'basiq-async mock', "
            "or say where it is with --url or BASIQ_BASE_URL"
        ) from None
    return _read(base.origin, status, body)


def segment(text: str) -> str:
    """Return an id as one segment of a path."""
    return quote(text, safe="")


def _read(origin: str, status: int, body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MockError(f"what responds at {origin} is not a mock of Basiq", status=status)
    if status == 200:
        return found
    error = found.get("error")
    if not isinstance(error, dict):
        raise MockError(f"what responds at {origin} is not a mock of Basiq", status=status)
    message = str(error.get("message"))
    if status == 400:
        raise ConfigurationError(message)
    raise MockError(message, status=status, code=str(error.get("code")))
