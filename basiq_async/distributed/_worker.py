"""A worker: it runs a segment for each notification, and renews leases and finds abandoned segments meanwhile."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from .._redaction.text import printable
from .._work.tasks import TaskOwner, cancelling, run_to_completion
from ..errors import InboxError, RateLimitError, ReplayError, ServerError, TransportError
from ._job import Notify
from ._job_store import JobStore
from ._rate_limiter import SharedRateLimiter
from ._record_types import JobSpec, LeaseLostError, RecordUnavailableError, SegmentClaim, describe, is_notification
from ._segment import ActiveJob, Lease, Segment, clock
from ._work import JobFunction, WorkCache

logger = logging.getLogger("basiq_async.distributed")

_HEARTBEAT = 0.25
_LONGEST_HEAL = 1.0
_DELAY = 2.0
"""The longest pause before a segment is tried again, unless Basiq asks for a longer one: the client has retried."""


class Worker:
    """A worker of this process, from ``Fleet.worker()``. It runs segments, renews leases, and finds abandoned segments.

    Open it with ``async with``. Each job function is opened once, when it is needed.
    """

    def __init__(self, store: JobStore, functions: Mapping[str, JobFunction], notify: Notify, *, lease: float) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._store, self._functions, self._notify, self._lease = store, functions, notify, lease
        self._missing: set[str] = set()
        """The names of job functions that jobs need and this worker does not have."""
        self._works = WorkCache(self._fail_jobs_of)
        self._active: dict[str, ActiveJob] = {}
        """The active jobs by their ids: a forgotten key may belong to another job by now."""
        self._owner = TaskOwner()
        self._checking: asyncio.Task[None] | None = None
        self._stopping = False

    async def __aenter__(self) -> Self:
        """Check the record, and start the background tasks, which renew leases and notify of abandoned segments."""
        logger.info("worker %s starts", self.name)
        self._checking = self._owner.spawn(self._store.connection.check())
        try:
            await self._checking
        except asyncio.CancelledError:
            if cancelling():
                raise
            logger.warning("the worker was stopped before it had started")
            return self
        logger.info("worker %s runs jobs of the job functions %s", self.name, sorted(self._functions))
        self._owner.spawn(self._repeat(self._heal, min(_LONGEST_HEAL, self._lease / 6)))
        self._owner.spawn(self._repeat(self._heartbeat, min(_HEARTBEAT, self._lease / 6)))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End the background tasks, and close the open job functions."""
        self.stop()
        await self._owner.aclose()
        await self._works.aclose()

    def stop(self) -> None:
        """Begin no more messages. The messages under way are finished and recorded."""
        self._stopping = True
        if self._checking is not None:
            self._checking.cancel()  # Redis may be away for as long as the record is patient
        self._works.stop()
        for active in self._active.values():
            for segment in active.segments.values():
                segment.stop()

    async def process_segment(self, key: str, segment: str) -> None:
        """Claim a segment and run it, unless another worker owns it. Call this for each notification.

        Errors are logged and never raised; the segment is found again.
        """
        if self._stopping:
            return
        if not is_notification(key, segment):
            logger.warning("a notification that is not one of a fleet is ignored")
            return
        with _logged(f"segment {segment} of the job {key!r} was not processed"):
            await self._process(key, segment)

    async def _process(self, key: str, segment: str) -> None:
        spec = await self._spec(key)
        if spec is None or self._stopping:
            return
        try:
            work = await self._works.get(spec.name, self._functions[spec.name])
        except Exception as exc:
            if not self._stopping:
                logger.exception("the job function %r failed to start", spec.name)
                await self._fail(spec, f"the job function {spec.name!r} failed to start: {describe(exc)}")
            return
        lease = Lease(self._lease)
        asked_at = clock()
        claim = await self._store.claim(key, segment, lease.token, lease=self._lease, worker=self.name, job=spec.id)
        if isinstance(claim, SegmentClaim):
            lease.prolong(asked_at)
            await self._run(Segment(self._store, self._job(spec), segment, lease, work, claim, self._notify))

    # --- one segment ---

    def _job(self, spec: JobSpec) -> ActiveJob:
        if spec.id not in self._active:
            spread = functools.partial(self._store.pause, spec.key, job=spec.id)
            limiter = SharedRateLimiter(self._store, spec.key)
            self._active[spec.id] = ActiveJob(spec, limiter, lambda seconds: self._owner.spawn(spread(seconds)))
        return self._active[spec.id]

    async def _run(self, segment: Segment) -> None:
        job, name, key = segment.job, segment.name, segment.job.spec.key
        job.limiter.set_rate(segment.claim.rate)
        job.segments[segment.lease.token] = segment
        if self._stopping:
            segment.stop()
        problem, delay = "", 0.0
        finished = False
        try:
            finished = await segment.run()
            if not finished and not segment.stopping:
                problem, delay = f"other workers hold messages of segment {name}, and did not end", _DELAY
        except LeaseLostError as exc:
            logger.warning("this worker leaves segment %s of the job %r: %s", name, key, describe(exc))
            return
        except Exception as exc:
            problem = describe(exc)
            if _passing(exc):
                delay = max(_DELAY * (0.5 + random.random() / 2), getattr(exc, "retry_after", None) or 0.0)
                logger.warning("segment %s of the job %r is tried again in %.1f s: %s", name, key, delay, problem)
            else:
                logger.error("the job %r stops at segment %s: %s", key, name, problem)
                await self._fail(job.spec, f"segment {name}: {problem}")
        finally:
            del job.segments[segment.lease.token]
            if not job.segments:
                self._active.pop(job.spec.id, None)
            if not finished:
                await run_to_completion(functools.partial(self._let_go, segment, delay, problem))

    async def _let_go(self, segment: Segment, delay: float, problem: str) -> None:
        with _logged(f"segment {segment.name} of the job {segment.job.spec.key!r} was not released"):
            await self._store.release(*segment.owner, delay=delay, problem=problem)

    async def _fail(self, spec: JobSpec, reason: str) -> None:
        with _logged(f"the job {spec.key!r} could not be stopped"):
            await self._store.set_state(spec.key, "fail", reason, job=spec.id)

    def _fail_jobs_of(self, name: str, error: Exception) -> None:
        """Stop the jobs of a job function that has ended by itself."""
        logger.error("the job function %r ended while it was needed: %s", name, describe(error))
        for active in self._active.values():
            if active.spec.name == name:
                for segment in active.segments.values():
                    segment.stop()
                reason = f"the job function {name!r} ended while it was needed: {describe(error)}"
                self._owner.spawn(self._fail(active.spec, reason))

    async def _spec(self, key: str) -> JobSpec | None:
        """Return the job of a key, if this worker has its job function."""
        spec = await self._store.spec(key)
        if spec is None or spec.name in self._functions:
            return spec
        if spec.name not in self._missing:
            self._missing.add(spec.name)
            text = "the job %r is not for this worker: it has no job function %r, but %s"
            logger.error(text, key, printable(spec.name), sorted(self._functions))
        return None

    # --- background tasks ---

    async def _repeat(self, step: Callable[[], Awaitable[None]], every: float) -> None:
        while True:
            with _logged("a background task of the worker failed, and is tried again"):
                await step()
            await asyncio.sleep(every * (0.75 + random.random() / 2))

    async def _heal(self) -> None:
        for key in await self._store.keys(active=True):
            with _logged(f"no segments of the job {key!r} were looked for"):
                if await self._spec(key) is None:
                    continue
                grace = max(1.0, self._lease / 2)
                if segments := await self._store.reclaim_expired(key, self.name, grace=grace):
                    logger.info("segments of the job %r have no worker: %s", key, ", ".join(segments))
                    await self._notify(key, segments)

    async def _heartbeat(self) -> None:
        for active in list(self._active.values()):
            held = {segment.name: segment.lease for segment in active.segments.values()}
            with _logged(f"the leases of the job {active.spec.key!r} were not renewed"):
                asked_at, spec = clock(), active.spec
                tokens = {name: lease.token for name, lease in held.items()}
                heartbeat = await self._store.heartbeat(spec.key, self.name, tokens, lease=self._lease, job=spec.id)
                for name, lease in held.items():
                    if name in heartbeat.lost:
                        lease.end()
                    else:
                        lease.prolong(asked_at)
                active.limiter.set_rate(heartbeat.rate)
                active.apply(heartbeat)


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log an error instead of raising it, so that the rest goes on: it is found again."""
    try:
        yield
    except ReplayError as exc:  # of the record, or the lease ran out
        logger.warning("%s: %s", what, describe(exc))
    except Exception:
        logger.exception("%s", what)


def _passing(exc: Exception) -> bool:
    """Whether the error is temporary: Basiq, the network, the inbox or the record is away for a while."""
    return isinstance(exc, (TransportError, RateLimitError, ServerError, InboxError, RecordUnavailableError))
