"""A caller that speaks raw JSON to a fake, so that nothing of the client stands between a test and an answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest

from basiq_async import Request, Response
from basiq_async.testing import FakeBasiq, Quirks

BASE = "https://au-api.basiq.io"
FORM = {"content-type": "application/x-www-form-urlencoded"}
ENDPOINT = "https://example.com/hook"


def token_request(key: str, *, version: str | None = "3.0", body: bytes = b"scope=SERVER_ACCESS") -> Request:
    headers = {**FORM, "authorization": f"Basic {key}", **({"basiq-version": version} if version else {})}
    return Request("POST", f"{BASE}/token", headers, body)


@attrs.define
class Caller:
    """One application's view of a fake."""

    fake: FakeBasiq
    key: str = FakeBasiq.DEFAULT_API_KEY
    token: str = ""

    def authorize(self) -> str:
        answer = self.fake.handle(token_request(self.key))
        assert answer.status == 200, answer.body
        self.token = json.loads(answer.body)["access_token"]
        return self.token

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Response:
        if not self.token:
            self.authorize()
        url = path if "://" in path else BASE + path
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.fake.handle(Request(method, url, {"authorization": f"Bearer {self.token}", **named}, body))

    def json(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        raw = None if body is None else json.dumps(body).encode()
        answer = self.send(method, path, raw, content_type="application/json")
        assert answer.status == status, answer.body
        return json.loads(answer.body) if answer.body else None

    def get(self, path: str, *, status: int = 200) -> Any:
        return self.json("GET", path, status=status)

    def error(self, method: str, path: str, body: Any = None, *, status: int) -> dict[str, Any]:
        answer = self.json(method, path, body, status=status)
        assert answer["type"] == "list"
        assert answer["correlationId"]
        (entry,) = answer["data"]
        assert entry["type"] == "error"
        assert entry["title"]
        assert entry["detail"]
        return entry

    def create(self, url: str = ENDPOINT, events: Any = ("user.created",), **more: Any) -> dict[str, Any]:
        return self.json(
            "POST", "/notifications/webhooks", {"url": url, "subscribedEvents": list(events), **more}, status=201
        )

    def every(self, path: str) -> list[dict[str, Any]]:
        """All items of a list, its next links followed as they are."""
        items: list[dict[str, Any]] = []
        link: str | None = path
        while link is not None:
            page = self.get(link)
            items += page["data"]
            link = page["links"].get("next")
        return items


@pytest.fixture
def fake() -> FakeBasiq:
    return FakeBasiq()


@pytest.fixture
def caller(fake: FakeBasiq) -> Caller:
    return Caller(fake)


class Endpoint:
    """A coroutine that answers with one status after another, the last one for ever."""

    def __init__(self, *statuses: Any) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[dict[str, str], bytes]] = []

    async def __call__(self, headers: dict[str, str], body: bytes) -> Any:
        self.got.append((headers, body))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(status, BaseException):
            raise status
        return status


def handling(fake: FakeBasiq, do: Callable[[dict[str, str], bytes], Awaitable[object]], url: str = ENDPOINT) -> str:
    """Add a webhook whose endpoint does something and then acknowledges, and return its id."""

    async def receive(headers: dict[str, str], body: bytes) -> int:
        await do(headers, body)
        return 200

    fake.route(url, receive)
    return fake.add_webhook(url)


def arranged(endpoint: Any, **options: Any) -> tuple[FakeBasiq, str]:
    fake = FakeBasiq(**options)
    fake.route(ENDPOINT, endpoint)
    return fake, fake.add_webhook(ENDPOINT)


def quirks_name(quirks: Quirks) -> str:
    """Return the quirk that is not as by default, for the name of a test."""
    changed = [f"{name}={form}" for name, form in attrs.asdict(quirks).items() if form != getattr(Quirks(), name)]
    return changed[0] if len(changed) == 1 else "together" if changed else "default"
