"""Calls of the control API of a mock that runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from .._urls import BaseURL
from ..errors import BasiqError, ConfigurationError

TOKEN = "BASIQ_MOCK_TOKEN"  # noqa: S105  # the name of a variable
_TIMEOUT = 60.0
_MOST = 64 * 2**20


class MockError(BasiqError):
    """The mock did not do what it was asked for; ``status`` is its HTTP status, where it responded."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Place:
    """Which mock, and which of its states, is meant: where it is, and the API key that says that it is that one."""

    base: BaseURL
    api_key: str = field(repr=False)


def find_place() -> Place:
    """Return the mock that is meant: the one at ``BASIQ_BASE_URL`` whose key ``BASIQ_API_KEY`` is.

    Neither has a default, since what listens on a usual port can be somebody else's; and they are set together, so that
    the key of another API is sent to no mock. Raises ``ConfigurationError``.
    """
    where, key = (os.environ.get(name) for name in ("BASIQ_BASE_URL", "BASIQ_API_KEY"))
    if not where or not key:
        raise ConfigurationError(
            f"which mock? {'BASIQ_API_KEY' if where else 'BASIQ_BASE_URL'} is not set: evaluate the line that the mock "
            "printed, or that 'basiq-async mock wait' prints"
        )
    return Place(BaseURL.parse(where), key)


async def call(method: str, path: str, values: Mapping[str, Any], *, timeout: float = _TIMEOUT) -> dict[str, Any]:
    """Call an operation of the mock that is meant and return what it responds. Values that are None are left out.

    Raises ``MockError``, and ``ConfigurationError`` for a call that the mock does not take.
    """
    return await call_at(find_place(), method, path, values, timeout=timeout)


async def call_at(
    place: Place, method: str, path: str, values: Mapping[str, Any], *, timeout: float = _TIMEOUT
) -> dict[str, Any]:
    """Like ``call``, of the mock at ``place``."""
    import aiohttp

    base = place.base
    given = {name: value for name, value in values.items() if value is not None}
    target = f"{base.origin}/_fake{path}"
    if method == "GET" and given:
        target += "?" + urlencode(given)
    headers = {"Authorization": f"Basic {place.api_key}"}
    if token := os.environ.get(TOKEN):
        headers["X-Fake-Token"] = token
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
            "and evaluate the line that it prints"
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
    if error.get("code") == "another-mock":
        message = f"the mock at {origin} does not have the key in BASIQ_API_KEY: it is another one, or was started anew"
    if status == 400:
        raise ConfigurationError(message)
    raise MockError(message, status=status, code=str(error.get("code")))
