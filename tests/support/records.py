"""Helpers for the checks of a record: callers that share a storage, and functions that make its data."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import attrs

from ...distributed.record import (
    ClaimRefusal,
    JobSpec,
    ListSpec,
    PageMark,
    Record,
    Saving,
    SegmentClaim,
    Status,
    StoredDeadLetter,
    new_token,
)
from ...replay import DeadLetter
from ._runner import hold

MakeRecord = Callable[[], Record]
"""A function that returns a record of the same storage each time, with a new connection."""

WHEN = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)
ODD = 'id with "quotes", a line\nbreak, \x00, ü, \U0001f600 and a lone \ud800'
SHORT = 0.3
"""The length in seconds of a lease that is left to expire."""


class RecordProbe:
    """Two callers of a record."""

    def __init__(self, make: MakeRecord) -> None:
        self.one, self.two = make(), make()
        self.all = (self.one, self.two, self.one, self.two)

    def promises(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return a mapping from each promise, which is a method's docstring, to the method that checks it."""
        names = [name for cls in reversed(type(self).__mro__) for name in vars(cls) if not name.startswith("_")]
        methods = [getattr(self, name) for name in names if name not in vars(RecordProbe)]
        return {(method.__doc__ or "").strip().rstrip("."): method for method in methods}

    async def aclose(self) -> None:
        """Close the connections."""
        await self.one.aclose()
        await self.two.aclose()

    async def job(self, **changes: Any) -> str:
        spec = attrs.evolve(make_spec(uuid.uuid4().hex), **changes)
        await self.one.create(spec)
        return spec.key

    async def claim(
        self, key: str, segment: str = "0.0", *, lease: float = 30.0, token: str | None = None, record: Any = None
    ) -> str:
        """Claim a segment, and return the token. Fails if the claim is refused."""
        token = token or new_token()
        found = await (record or self.one).claim(key, segment, token, lease=lease, worker="w", width=4)
        hold(isinstance(found, SegmentClaim), f"the claim of {segment} was refused: {found}")
        return token

    async def tried(self, key: str, segment: str = "0.0") -> SegmentClaim | ClaimRefusal:
        return await self.two.claim(key, segment, new_token(), lease=30.0, worker="other", width=4)

    async def save(self, key: str, token: str, segment: str = "0.0", **what: Any) -> Any:
        saving = Saving(**{"counts": {}, "before": 0, **what})
        return await self.one.save(key, segment, token, saving, lease=30.0)

    async def status(self, key: str) -> Status:
        status = await self.two.status(key)
        if status is None:
            raise AssertionError("status() of the job returned None")
        return status


def make_spec(key: str, **changes: Any) -> JobSpec:
    fields: dict[str, Any] = {
        "name": "work",
        "lists": (ListSpec("w1"),),
        "submitted_at": WHEN,
        "lease": 30.0,
        **changes,
    }
    return JobSpec(key=key, **fields)


def make_page(ids: list[str], next_cursor: str | None, chosen: list[bool] | None = None) -> PageMark:
    marks = [True] * len(ids) if chosen is None else chosen
    return PageMark(last=ids[-1] if ids else None, chosen=marks, next_cursor=next_cursor)


def make_dead_letter(id: str, error: str = "ValueError: no", webhook_id: str = "w1") -> StoredDeadLetter:
    """Return a dead letter like one from a worker."""
    letter = DeadLetter(id, error, WHEN, {"id": id, "payload": {"eventId": "1"}})
    return StoredDeadLetter(letter, webhook_id, f"a seal on {id!a}")
