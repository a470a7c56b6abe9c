"""Two callers of a fleet's record in Redis, and functions that make its data."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import attrs

from basiq_async.distributed import _connection  # private: its scripts ask Redis for the time
from basiq_async.distributed._job_store import JobStore  # private: a fleet's own is as patient as all are
from basiq_async.distributed._record_types import (  # private: what a record exchanges with its callers
    JobEntry,
    JobProgress,
    JobSpec,
    ListSpec,
    Outcome,
    SegmentClaim,
    SegmentPage,
    new_token,
)

WHEN = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)
ODD = 'id with "quotes", a line\nbreak, \x00, ü and \U0001f600'
_STOPPED = """(function()
  local micros = 1800000000000000 + tonumber(redis.call('GET', 'test:clock') or 0)
  return { string.format('%.0f', math.floor(micros / 1000000)), string.format('%.0f', micros % 1000000) }
end)()"""
"""The time in scripts, instead of the server's."""


class Pair:
    """Two callers of one Redis, each with its own connection. For both, the server's time stands until it is set."""

    def __init__(self, url: str) -> None:
        self.one, self.two = JobStore(url), JobStore(url)
        self.all = (self.one, self.two, self.one, self.two)
        for record in (self.one, self.two):
            connection = record.connection
            for name in connection._scripts:
                source = _connection._source(name).replace("redis.call('TIME')", _STOPPED)
                connection._scripts[name] = connection._redis.register_script(source)

    async def pass_seconds(self, seconds: float) -> None:
        """Set the server's time ahead, or back."""
        await self.one.connection.call(lambda redis: redis.incrby("test:clock", round(seconds * 1_000_000)))

    async def aclose(self) -> None:
        await self.one.connection.aclose()
        await self.two.connection.aclose()

    async def job(self, **changes: Any) -> str:
        spec = attrs.evolve(make_spec(uuid.uuid4().hex), **changes)
        await self.one.create(spec)
        return spec.key

    async def owned(self, **changes: Any) -> tuple[str, str]:
        """Create a job and claim its first segment. Return the job's key and the token."""
        key = await self.job(**changes)
        return key, await self.claim(key)

    async def claim(
        self, key: str, segment: str = "0.0", *, lease: float = 30.0, token: str | None = None, record: Any = None
    ) -> str:
        """Claim a segment, and return the token. Fails if the claim is refused."""
        token = token or new_token()
        found = await (record or self.one).claim(key, segment, token, lease=lease, worker="w")
        assert isinstance(found, SegmentClaim), f"the claim of {segment} was refused: {found}"
        return token

    async def claimed(self, key: str, segment: str = "0.0", **how: Any) -> SegmentClaim:
        """Claim a segment as another worker. Fails if the claim is refused."""
        found = await self._try(key, segment, how)
        assert isinstance(found, SegmentClaim), f"the claim of {segment} was refused: {found}"
        return found

    async def refusal(self, key: str, segment: str = "0.0", **how: Any) -> str:
        """Claim a segment as another worker, and return why it was refused. Fails if it was not."""
        found = await self._try(key, segment, how)
        assert isinstance(found, str), f"the claim of {segment} was not refused"
        return found

    async def _try(self, key: str, segment: str, how: dict[str, Any]) -> SegmentClaim | str:
        return await self.two.claim(key, segment, new_token(), **{"lease": 30.0, "worker": "other", **how})

    async def save(
        self, key: str, token: str, *outcomes: Outcome, segment: str = "0.0", before: int = 0, **how: Any
    ) -> Any:
        return await self.one.save(key, segment, token, outcomes, **{"before": before, "lease": 30.0, **how})

    async def page(self, key: str, token: str, ids: list[str], next_cursor: str | None, segment: str = "0.0") -> Any:
        page = make_page(ids, next_cursor)
        return await self.one.record_page(key, segment, token, page, read=len(ids), lease=30.0)

    async def ahead(self, key: str) -> float:
        """Draw a slot of the job's rate, and return how many seconds it is ahead."""
        slots = await self.two.rate_slots(key, 1)
        assert slots is not None, "the job has no rate"
        return slots.first - slots.now

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


def make_page(ids: list[str], next_cursor: str | None) -> SegmentPage:
    return SegmentPage(next_cursor=next_cursor, edge=ids)


def outcomes(*ids: str, result: str = "handled", **fields: Any) -> list[Outcome]:
    """Return the outcome of each message."""
    return [Outcome(id, result, **fields) for id in ids]


def set_aside(*ids: str, **fields: Any) -> list[Outcome]:
    """Return the outcomes of messages that failed, and go into the quarantine."""
    return [Outcome(id, "failed", make_entry(id, **fields)) for id in ids]


def make_entry(id: str, error: str = "ValueError: no", webhook_id: str = "w1") -> JobEntry:
    """Return an entry of the quarantine like one from a worker."""
    body = json.dumps({"id": id, "payload": {"eventId": "1"}}).encode()
    return JobEntry(
        key="k",
        delivery_id=id,
        event_type_id="t",
        event_id="1",
        body=body,
        signed_at=WHEN,
        error=error,
        failures=1,
        quarantined_at=WHEN,
        kind="message",
        acknowledged=False,
        seal=f"a seal on {id!a}",
        webhook_id=webhook_id,
    )
