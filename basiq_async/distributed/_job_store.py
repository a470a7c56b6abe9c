"""The record of a fleet in Redis. Every change is a Lua script in ``lua/``; its header states its invariant."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, cast

import attrs
import cattrs

from .._work.throughput import messages_per_second
from ..errors import InboxError, RecordError, ReplayError
from ..replay.shared import HANDLED_BEFORE
from ._connection import Connection
from ._record_types import (
    EDGE,
    LONGEST_KEY,
    SEGMENT_NAME,
    Heartbeat,
    JobEntry,
    JobProgress,
    JobSpec,
    JobState,
    LeaseLostError,
    LeftAtService,
    Outcome,
    RateSlots,
    SegmentClaim,
    SegmentPage,
    StateChange,
    is_retry,
    shorten,
)

_MOST_TRIES = 20
_LEAVES = ("handled", f"skipped:{HANDLED_BEFORE}")
"""The results with which an entry leaves the quarantine."""
_NEVER = datetime.fromtimestamp(0, UTC)
_SPECS = cattrs.Converter(detailed_validation=False)
_SPECS.register_unstructure_hook(datetime, datetime.isoformat)
_SPECS.register_structure_hook(datetime, lambda text, _: datetime.fromisoformat(text))


class JobStore:
    """The jobs of a fleet and their segments, in Redis: it decides which worker owns a segment.

    Every method is atomic and durable. A call whose result is unknown can be repeated with the same arguments. A call
    with a ``token`` that is not the owner's raises ``LeaseLostError`` and changes nothing. ``job`` is the id of the
    job that a worker means: if the key belongs to another job by now, the call changes nothing. Errors of Redis are
    raised as ``RecordUnavailableError``, once it was away for ``patience`` seconds.
    """

    def __init__(self, url: str, *, prefix: str = "basiq", patience: float = 60.0) -> None:
        self.connection = Connection(url, patience=patience)
        self._prefix = prefix

    async def create(self, spec: JobSpec) -> tuple[str, Sequence[str]]:
        """Record a job, and return its state and first segments. For a known key, set the job's rate; it has none then.

        The job is active from then until it ends. Raises ``ReplayError`` for a known key with another name, source or
        other lists.
        """
        fields = {**_SPECS.unstructure(spec), "lists": json.dumps(_SPECS.unstructure(spec.lists))}
        pairs = [part for name, value in fields.items() for part in (name, "" if value is None else value)]
        state, *found = await self._run("create", spec.key, _selection(spec), len(spec.lists), *pairs)
        if state == "other":
            raise ReplayError(
                f"the job {spec.key!r} is {shorten(found[0])}, and not {_selection(spec)}: submit it under another "
                "key, or with the same arguments to continue it"
            )
        return state, found

    async def spec(self, key: str) -> JobSpec | None:
        """Return the job that was submitted under a key; None for an unknown key."""
        found: dict[str, str] = await self.connection.call(lambda redis: redis.hgetall(self._base(key)))
        if "selection" not in found:
            return None
        with _damage(key):
            known = {name: text or None for name, text in found.items()}
            return _SPECS.structure({**known, "lists": json.loads(found["lists"])}, JobSpec)

    async def keys(self, *, active: bool = False) -> Sequence[str]:
        """Return the keys of all jobs, or only of the active ones: those that are running or paused."""
        name = f"{self._prefix}:{'active' if active else 'jobs'}"
        found: list[str] = await self.connection.call(lambda redis: redis.smembers(name))
        return sorted(each for each in found if len(each) <= LONGEST_KEY)

    async def claim(
        self, key: str, segment: str, token: str, *, lease: float, worker: str, job: str = ""
    ) -> SegmentClaim | str:
        """Claim a segment that has no owner, or whose owner's lease has run out.

        Returns why, if that is refused: "gone", it is finished, or was rolled back; "held", another worker owns it;
        "stopped", the job does not run; "another", the key belongs to another job by now.

        If a segment was claimed 20 times without a release or a saved message, the job fails.
        """
        found = await self._run("claim", key, segment, token, _ms(lease), worker, _MOST_TRIES, job=job)
        if found[0] != "ok":
            return str(found[0])
        with _damage(key):
            cursor, before, after, edge, upto = found[1]
            rate, paused = found[2]
            return SegmentClaim(
                cursor=cursor or None,
                before=before or None,
                after=_ids(after),
                edge=_ids(edge),
                upto=_int(upto),
                done=[each for ids in found[3] for each in json.loads(ids)],
                rate=_float(rate),
                paused=paused / 1000,
            )

    async def record_page(
        self, key: str, segment: str, token: str, page: SegmentPage, *, read: int, lease: float
    ) -> str | None:
        """Record the segment's page, and create the next segment. A later call only sets the number of messages read.

        Return the next segment if this call created it.
        """
        more, edge = page.next_cursor is not None, json.dumps(page.edge)
        place = (int(more), page.next_cursor or "", page.cursor or "", edge)
        return (await self._run_as_owner("record_page", key, segment, token, _ms(lease), read, *place))[1] or None

    async def save(
        self,
        key: str,
        segment: str,
        token: str,
        outcomes: Sequence[Outcome],
        *,
        before: int,
        lease: float,
        max_failures: int | None = None,
    ) -> Heartbeat | int:
        """Record finished messages. ``before`` is the number of ids that are recorded already.

        What a retry of the quarantine handled leaves it. If another number is recorded, return that and change nothing:
        the store has lost some, or has these.
        """
        counts = Counter(each.result for each in outcomes)
        handled, failed = counts["handled"], counts["failed"]
        gone: list[str] = []
        if is_retry(segment):
            gone = [each.id for each in outcomes if each.result in _LEAVES]
        elif given_up := sum(each.result == "failed" and each.entry is None for each in outcomes):
            counts["given_up"] = given_up
        entries = [(each.id, each.entry.pack(seal=True)) for each in outcomes if each.entry is not None]
        lists: Sequence[Sequence[Any]] = (
            [part for pair in counts.items() for part in pair],
            [part for pair in entries for part in pair],
            gone,
        )
        ids = json.dumps([each.id for each in outcomes])
        found = await self._run_as_owner(
            *("save", key, segment, token, _ms(lease), before, len(outcomes), ids, handled, failed, max_failures or 0),
            *(part for each in lists for part in (len(each), *each)),
        )
        return int(found[1]) if found[0] == "recorded" else Heartbeat(found[1], found[2] / 1000)

    async def finish(
        self, key: str, segment: str, token: str, *, counts: bool = False, left: LeftAtService | None = None
    ) -> Literal["finished", "unread", "uncounted"]:
        """Remove a finished segment, and return "finished"; the last one finishes the job.

        Returns "unread", and removes nothing, if its page was never recorded. If the worker ``counts`` what is left at
        a service, the last segment needs it, counted after "uncounted" was returned.
        """
        known = () if left is None else (left.waiting, left.failed)
        found = await self._run_as_owner("finish", key, segment, token, int(counts), *known)
        return cast(Literal["finished", "unread", "uncounted"], found[0])

    async def release(self, key: str, segment: str, token: str, *, delay: float = 0.0, problem: str = "") -> None:
        """Release a segment, to be claimed again after ``delay`` seconds."""
        await self._run_as_owner("release", key, segment, token, _ms(delay), problem)

    async def heartbeat(
        self, key: str, worker: str, held: Mapping[str, str], *, lease: float, job: str = ""
    ) -> Heartbeat:
        """Prolong the leases of ``held``, which maps segments to tokens. Return the state of the job."""
        pairs = [part for pair in held.items() for part in pair]
        state, rate, paused, lost = await self._run("heartbeat", key, worker, _ms(lease), *pairs, job=job)
        return Heartbeat(state, paused / 1000, _float(rate), lost)

    async def reclaim_expired(self, key: str, worker: str, *, grace: float, limit: int = 100) -> Sequence[str]:
        """Return segments without an owner. Each is returned to only one worker within ``grace`` seconds.

        One that stays unclaimed is returned more rarely then: its notification may still wait in the broker's queue.
        """
        _, *found = await self._run("reclaim_expired", key, limit, _ms(grace), worker)
        return [each for each in found if SEGMENT_NAME.fullmatch(each)]  # not what another program wrote

    async def set_state(
        self, key: str, action: StateChange, reason: str = "", *, job: str = ""
    ) -> tuple[str, Sequence[str]]:
        """Change a job's state if the current state allows it. Return the state, and the segments to notify of."""
        state, *found = await self._run("set_state", key, action, reason, job=job)
        return state, found

    async def pause(self, key: str, seconds: float, *, job: str = "") -> None:
        """Pause all workers of a job for so many seconds. A longer pause is not shortened."""
        await self._run("pause", key, _ms(seconds), job=job)

    async def rate_slots(self, key: str, count: int) -> RateSlots | None:
        """Return the next ``count`` slots of the job's rate; None for a job without a rate."""
        found = await self._run("rate_slots", key, count)
        return RateSlots(*(float(each) / 1_000_000 for each in found)) if found else None

    async def progress(self, key: str) -> JobProgress | None:
        """Return the progress of a job; None for an unknown key."""
        found = await self._run("progress", key)
        if not found:
            return None
        with _damage(key):
            fields = dict(zip(found[0][::2], found[0][1::2], strict=True))
            counts = Counter({name[2:]: int(value) for name, value in fields.items() if name.startswith("n:")})
            now, segments, held, read, quarantined, paused = found[1]
            state, ended, total = fields["state"], int(fields.get("ended") or now), _int(fields["total"])
            finished = counts["handled"] + counts["failed"]
            samples = (each.split() for name, each in fields.items() if name.startswith("at:"))
            skipped = (name for name in sorted(counts) if name.startswith("skipped:") and counts[name])
            names = found[2]
            known = counts["handled"] + counts[f"skipped:{HANDLED_BEFORE}"]
            return JobProgress(
                state=cast(JobState, "waiting" if state == "running" and not names else state),
                reason=shorten(fields.get("reason", "")),
                problem=shorten(fields.get("problem", "")),
                read=counts["read"] + read,
                handled=counts["handled"],
                failed=counts["failed"],
                skipped={name.removeprefix("skipped:"): counts[name] for name in skipped},
                quarantined=quarantined,
                waiting=min(known, int(fields.get("waiting") or 0)),
                at_service=min(known, int(fields.get("at_service") or 0)),
                given_up=counts["given_up"],
                rate=messages_per_second(
                    [(int(at) / 1000, int(count)) for at, count in samples],
                    now_seconds=ended / 1000,
                    began_seconds=int(fields["began"]) / 1000,
                    finished=finished,
                ),
                elapsed=(ended - int(fields["began"])) / 1000,
                remaining=None if total is None else max(0, total - finished),
                worker_names=[shorten(each) for each in names],
                segments=segments,
                held=held,
                takeovers=int(fields.get("takeovers") or 0),
                paused=paused / 1000,
            )

    async def quarantined(self, key: str, *, after: int = 0, limit: int = 250) -> Sequence[JobEntry]:
        """Return the first ``limit`` entries of the quarantine with numbers greater than ``after``, in their order."""
        found = await self._run("quarantined", key, after, limit)
        with _damage(key):
            return [_read_entry(id, int(number), text) for id, number, text in found]

    async def drop_quarantined(self, key: str, ids: Sequence[str]) -> int:
        """Remove entries of the quarantine, and return how many were removed."""
        return int(await self._run("drop_quarantined", key, *ids)) if ids else 0

    async def retry_quarantined(self, key: str, request: str) -> str | None:
        """Record a segment that retries the present entries of the quarantine, and return it.

        Without entries it is empty, for an unknown job None.
        Entries that another segment is to retry already are left to it, so that each is retried once.
        ``request`` is a random id of this call: a repeated call returns the same segment.
        """
        state, segment = await self._run("retry_quarantined", key, request)
        return None if state == "gone" else str(segment)

    async def forget(self, key: str) -> None:
        """Remove a job. Raises ``ReplayError`` if it is running or paused."""
        (state,) = await self._run("forget", key)
        if state != "gone":
            raise ReplayError(f"the job {key!r} is {state}: cancel it before it is forgotten")

    def _base(self, key: str) -> str:
        return f"{self._prefix}:{{{key}}}"

    async def _run_as_owner(self, name: str, key: str, segment: str, token: str, *arguments: Any) -> Any:
        found = await self._run(name, key, segment, token, *arguments)
        if found[0] == "lost":
            raise LeaseLostError(f"this worker no longer owns segment {segment} of the job {key!r}")
        return found

    async def _run(self, name: str, key: str, *arguments: Any, job: str = "") -> Any:
        keys = (self._base(key), f"{self._prefix}:jobs", f"{self._prefix}:active")
        return await self.connection.run(name, keys, (key, job, *arguments))


@contextmanager
def _damage(key: str) -> Iterator[None]:
    """Raise ``RecordError`` if what was read is not what a fleet wrote: others may write to Redis too."""
    try:
        yield
    except Exception as exc:
        raise RecordError(
            f"another program changed the job {key!r} in Redis ({type(exc).__name__}): forget the job, and submit it "
            "again, with an inbox, so that nothing is handled twice"
        ) from None


def _selection(spec: JobSpec) -> str:
    lists = ", ".join(
        f"webhook {list_spec.webhook_id!r}" + (f" with filter {list_spec.filter!r}" if list_spec.filter else "")
        for list_spec in spec.lists
    )
    return f"{spec.name!r} over the {spec.source} of {lists}{f' as {spec.identity!r}' if spec.identity else ''}"


def _read_entry(id: str, number: int, text: str | None) -> JobEntry:
    """Read an entry of the quarantine. Of what no worker wrote, return one that has no seal, and so is refused."""
    try:
        entry = JobEntry.unpack(text or "")
        if not isinstance(entry, JobEntry) or type(entry.webhook_id) is not str:
            raise TypeError
        return attrs.evolve(entry, delivery_id=id, number=number, seal=entry.seal or "")
    except (InboxError, TypeError):
        return JobEntry(
            key="",
            delivery_id=id,
            event_type_id="",
            event_id="",
            body=b"{}",
            signed_at=_NEVER,
            error="its entry is not one that a worker wrote",
            failures=0,
            quarantined_at=_NEVER,
            seal="",
            number=number,
        )


def _ids(text: str | None) -> Sequence[str]:
    return [str(each) for each in json.loads(text or "[]")][-EDGE:]


def _int(value: str | None) -> int | None:
    return int(value) if value else None


def _float(value: str | None) -> float | None:
    return float(value) if value else None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
