"""Passing a delivery on to a service, as it came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .._wire.hosts import show_url
from .._wire.urls import read_endpoint
from ..errors import ConfigurationError

if TYPE_CHECKING:
    import aiohttp

_MOST_RETURNED = 65_536
_PASSED_ON = ("content-type", "user-agent")
_SIGNED = "webhook-"


@dataclass(frozen=True)
class Forwarded:
    """What a service did with a delivery: its response, or what stands for none."""

    status: int
    duration: float
    error: str | None = None
    body: bytes = b""
    content_type: str | None = None
    retry_after: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the response is a 2xx."""
        return 200 <= self.status <= 299

    @property
    def text(self) -> str:
        """For people: the status and the time it took, or what went wrong."""
        return self.error or f"{self.status} in {self.duration * 1000:.0f} ms"


class Forwarder:
    """Posts raw bodies to one URL. Redirects are not followed, no cookie is kept, no proxy is used."""

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        endpoint = read_endpoint(url)
        del url  # error reporters show local variables, and its query can hold a key
        if isinstance(endpoint, ConfigurationError):
            raise endpoint
        self._url = endpoint
        del endpoint
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"Forwarder({show_url(self._url)!r})"

    async def post(self, headers: Mapping[str, str], body: bytes) -> Forwarded:
        """Post a body with the headers that belong to a delivery. 502 and 504 stand for no response."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                trust_env=False,
                auto_decompress=False,
            )
        passed_on = {
            name: value
            for name, value in headers.items()
            if name.lower() in _PASSED_ON or name.lower().startswith(_SIGNED)
        }
        began = time.perf_counter()
        try:
            async with self._session.post(self._url, data=body, headers=passed_on, allow_redirects=False) as response:
                content = await response.content.read(_MOST_RETURNED)
                return Forwarded(
                    response.status,
                    time.perf_counter() - began,
                    body=content,
                    content_type=response.headers.get("content-type"),
                    retry_after=response.headers.get("retry-after"),
                )
        except TimeoutError:
            return Forwarded(504, time.perf_counter() - began, f"no response within {self._timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            return Forwarded(502, time.perf_counter() - began, f"no response: {type(exc).__name__}")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
