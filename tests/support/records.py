"""Two callers of a fleet's record in Redis, and functions that make its data."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import attrs

from basiq_async.distributed import _connection  # private: its scripts ask Redis for the time
from basiq_async.distributed._record import Record  # private: a fleet's own is as patient as all are
from basiq_async.distributed._record_types import (  # private: what a record exchanges with its callers
    ClaimRefusal,
    JobProgress,
    JobSpec,
    ListSpec,
    Saving,
    SegmentClaim,
    SegmentPage,
    StoredDeadLetter,
    new_token,
)
from basiq_async.replay import DeadLetter

WHEN = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)
ODD = 'id with "quotes", a line\nbreak, \x00, ü, \U0001f600 and a lone \ud800'
_STOPPED = """(function()
  local micros = 1800000000000000 + tonumber(redis.call('GET', 'test:clock') or 0)
  return { string.format('%.0f', math.floor(micros / 1000000)), string.format('%.0f', micros % 1000000) }
end)()"""
"""The time in scripts, instead of the server's."""


class Pair:
    """Two callers of one Redis, each with its own connection. For both, the server's time stands until it is set."""

    def __init__(self, url: str) -> None:
        self.one, self.two = Record(url), Record(url)
        self.all = (self.one, self.two, self.one, self.two)
        for record in (self.one, self.two):
            connection = record._connection
            for name in connection._scripts:
                source = _connection._source(name).replace("redis.call('TIME')", _STOPPED)
                connection._scripts[name] = connection._redis.register_script(source)

    async def pass_seconds(self, seconds: float) -> None:
        """Set the server's time ahead, or back."""
        await self.one._connection.call(lambda redis: redis.incrby("test:clock", round(seconds * 1_000_000)))

    async def aclose(self) -> None:
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
        assert isinstance(found, SegmentClaim), f"the claim of {segment} was refused: {found}"
        return token

    async def claimed(self, key: str, segment: str = "0.0", **how: Any) -> SegmentClaim:
        """Claim a segment as another worker. Fails if the claim is refused."""
        found = await self._try(key, segment, how)
        assert isinstance(found, SegmentClaim), f"the claim of {segment} was refused: {found}"
        return found

    async def refusal(self, key: str, segment: str = "0.0", **how: Any) -> ClaimRefusal:
        """Claim a segment as another worker, and return why it was refused. Fails if it was not."""
        found = await self._try(key, segment, how)
        assert isinstance(found, ClaimRefusal), f"the claim of {segment} was not refused"
        return found

    async def _try(self, key: str, segment: str, how: dict[str, Any]) -> SegmentClaim | ClaimRefusal:
        return await self.two.claim(key, segment, new_token(), **{"lease": 30.0, "worker": "other", "width": 4, **how})

    async def save(self, key: str, token: str, segment: str = "0.0", **what: Any) -> Any:
        saving = Saving(**{"counts": {}, "before": 0, **what})
        return await self.one.save(key, segment, token, saving, lease=30.0)

    async def status(self, key: str) -> JobProgress:
        status = await self.two.progress(key)
        assert status is not None, "there is no such job"
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


def make_page(ids: list[str], next_cursor: str | None, chosen: list[bool] | None = None) -> SegmentPage:
    marks = "".join("01"[each] for each in chosen or [True] * len(ids))
    return SegmentPage(last=ids[-1] if ids else None, marks=marks, next_cursor=next_cursor, edge=ids)


def make_dead_letter(id: str, error: str = "ValueError: no", webhook_id: str = "w1") -> StoredDeadLetter:
    """Return a dead letter like one from a worker."""
    dead_letter = DeadLetter(id, error, WHEN, {"id": id, "payload": {"eventId": "1"}})
    return StoredDeadLetter(dead_letter, webhook_id, f"a seal on {id!a}")
