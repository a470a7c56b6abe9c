"""A served fake, and a caller of its control API that holds every response to the description."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import attrs
import jsonschema
import pytest

from basiq_async.testing import FakeBasiq, serve


@attrs.define
class Controller:
    """Calls the control API; each response is checked against the OpenAPI document."""

    fake: FakeBasiq
    base_url: str
    session: aiohttp.ClientSession
    api_key: str = ""
    document: dict[str, Any] = attrs.field(factory=dict[str, Any])
    called: set[str] = attrs.field(factory=set[str])

    def named(self, api_key: str) -> Controller:
        """Calls for the state with this key."""
        return attrs.evolve(self, api_key=api_key)

    async def get(self, path: str, /, *, expect: int = 200, **query: str) -> Any:
        return await self._call("GET", path, expect, params=query)

    async def post(self, path: str, /, *, expect: int = 200, **body: Any) -> Any:
        return await self._call("POST", path, expect, json=body)

    async def _call(self, method: str, path: str, status: int, **options: Any) -> Any:
        headers = {"Authorization": f"Basic {self.api_key or self.fake.api_key}"}
        async with self.session.request(method, f"{self.base_url}/_fake{path}", headers=headers, **options) as response:
            body = await response.json()
        assert response.status == status, body
        operation = self._find(method, path)
        if operation is not None:
            self.called.add(operation["operationId"])
            key = "200" if status == 200 else "default"
            schema = operation["responses"][key]["content"]["application/json"]["schema"]
            jsonschema.Draft202012Validator(
                {**schema, "components": self.document["components"]},
                format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
            ).validate(body)
        return body

    def _find(self, method: str, path: str) -> dict[str, Any] | None:
        parts = f"/_fake{path}".split("/")
        exact = self.document["paths"].get("/".join(parts), {})
        if method.lower() in exact:
            return exact[method.lower()]
        for pattern, operations in self.document["paths"].items():
            wanted = pattern.split("/")
            if len(wanted) == len(parts) and all(
                want == part or want.startswith("{") for want, part in zip(wanted, parts, strict=True)
            ):
                return operations.get(method.lower())
        return None


@pytest.fixture
async def control(fake: FakeBasiq) -> AsyncIterator[Controller]:
    async with serve(fake) as base_url, aiohttp.ClientSession() as session:
        async with session.get(f"{base_url}/_fake/openapi.json") as response:
            document = await response.json()
        yield Controller(fake, base_url, session, document=document)
