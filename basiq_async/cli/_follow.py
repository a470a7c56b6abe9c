"""Follow a history: show new messages (``messages tail``), or hand them to a service (``listen --poll``)."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from .._storage.private_files import publish_private
from .._wire.order import NewestItems, read_newest
from .._work.limits import wait_for_event
from ..errors import APIError, ConfigurationError, NotFoundError, ReplayError, TransportError
from ..models import Message
from ..replay import HttpTarget, Replay, SQLiteCheckpoint, Target, Where, event_types, message_time
from ..replay.protocol import Commit
from ..replay.shared import TOP, WINDOW, Feed, Part, Place, write_text
from ._listen import ListenOptions, Showing
from ._options import check_event_types, duration, explain, read_secrets
from ._output import OutputClosedError, OutputError, live, note
from ._results import Row, View
from ._run import make_client, wait_patiently
from ._runs import ProgressLine

if TYPE_CHECKING:
    from ..client import BasiqClient

_FIRST_WAIT, _LONGEST_WAIT = 2.0, 30.0
_SLOWEST = 60.0
_GROWTH = 1.5
_CONCURRENCY = 8
_LONGEST_OUTAGE = 365 * 86_400.0
"""The longest outage of the service that the program waits for, in seconds: a year, so that it does not give up."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


async def follow_up(
    poll: Callable[[], Awaitable[int]],
    *,
    first: float | None = None,
    longest: float = _LONGEST_WAIT,
    stop: asyncio.Event | None = None,
) -> None:
    """Call ``poll``, which returns how many messages were new, until ``stop`` is set.

    While none are new, and while Basiq cannot be asked, the pauses between the calls grow from ``first`` to
    ``longest`` seconds.
    """
    first, stop = first or _FIRST_WAIT, stop or asyncio.Event()
    wait = first
    while not stop.is_set():
        try:
            wait = first if await poll() else min(longest, wait * _GROWTH)
        except (APIError, TransportError) as exc:
            wait = wait_patiently(exc, wait, longest)
        await wait_for_event(stop, wait * random.uniform(0.9, 1.0))


class History:
    """The messages of a webhook: ``begin`` reads the newest, then each ``poll`` yields those that came since.

    Both read the list through a replay's ``Feed``, which knows the messages that were read before.
    """

    def __init__(self, basiq: BasiqClient, webhook_id: str, filter: str | None = None) -> None:
        def open_feed(place: str | None) -> Feed[Message]:
            return Feed(basiq.messages.list(webhook_id, filter=filter, prefetch=0), place)

        self._open_feed = open_feed
        self._place: str | None = None

    async def begin(
        self,
        most: int | None,
        *,
        wanted: Callable[[Message], bool] | None = None,
        on_read: Callable[[int], object] = lambda count: None,
    ) -> NewestItems[Message]:
        """Return the ``most`` newest messages; None for all. ``on_read`` is called with the number of messages read."""
        ids: list[str] = []
        count = 0

        def read(message: Message) -> None:
            nonlocal count
            count += 1
            if count <= WINDOW:
                ids.append(message.id)
            on_read(count)

        feed = self._open_feed(None)
        found = await read_newest(feed, most, wanted=wanted, on_read=read)
        if found.complete:
            self._place = feed.text()
        else:
            # What follows these messages counts as known: 64 steps show that the list begins with the newest.
            while (message := feed.take()) is not None:
                read(message)
            known = Part(top=ids[:TOP], last=dict.fromkeys(ids))
            place = Place(base=known, whole=True, steps=[0, 64, 0, 64], grows="top", page=len(ids))
            self._place = write_text(place)
        await feed.aclose()
        return found

    async def poll(self) -> Sequence[Message]:
        """Return the messages that came since the last call, oldest first."""
        feed = self._open_feed(self._place)
        try:
            fresh = [message async for message in feed]
        finally:
            await feed.aclose()
        self._place = feed.text()
        return sorted(fresh, key=lambda message: message_time(message) or _LONG_AGO)


_POLLED: View[Row] = View("result message_id event_type_id event_id webhook_id error body")


class Polling(Showing):
    """Reads the new messages of one or all webhooks, and posts them to a service if ``forward_to`` names one.

    Each webhook is a replay job. Its checkpoint remembers which messages were handled, so that the next run begins
    with the messages that were missed. While no messages come, the time between requests grows to a minute.
    """

    def __init__(self, options: ListenOptions) -> None:
        super().__init__(options, "accepted", "failed")
        if options.poll is None and options.checkpoint is not None:
            raise ConfigurationError("--checkpoint is for one webhook: with --all, each webhook has its own file")
        if not math.isfinite(options.every):
            raise ConfigurationError("--every must be a finite number of seconds")
        forwards = options.forward_to is not None
        self._secrets = read_secrets(options.secret_file, options.secret) if forwards else []
        self._back = duration(options.since, "--since") if options.since is not None else timedelta()
        self._jobs: dict[str, Replay | None] = {}
        """The job of each webhook; None before the start of its first run is known."""
        self._under_way: set[str] = set()
        """The ids of messages whose delivery has begun and has not ended."""
        self._progress = ProgressLine()

    async def run(self) -> None:
        """Poll until SIGINT or SIGTERM, until the limit is reached, or until the output's reader closes it."""
        options = self._options
        async with AsyncExitStack() as stack:
            basiq = await stack.enter_async_context(make_client())
            await check_event_types(basiq, options.event)
            target: HttpTarget | None = None
            if options.forward_to is not None:
                target = HttpTarget(options.forward_to, self._secrets, connections=_CONCURRENCY)
                await stack.enter_async_context(target)
            ids = [options.poll] if options.poll else [each.id async for each in basiq.webhooks.list()]
            if not ids:
                raise ConfigurationError("there is no webhook to poll")
            self._jobs = dict.fromkeys(ids)
            slowest = max(_SLOWEST, options.every)
            note(
                f"polling {len(ids)} {'webhook' if len(ids) == 1 else 'webhooks'}: a message appears within "
                f"{options.every:g} s while messages arrive, and within {slowest:g} s after a quiet time; "
                f"{60 / slowest * len(ids):.0f} to {60 / options.every * len(ids):.0f} requests per minute, and one "
                "token per hour"
            )

            async def poll() -> int:
                return sum([await self._read(basiq, each, target) for each in list(self._jobs)])

            stack.enter_context(self.until_end(lambda: bool(self._under_way)))
            await follow_up(poll, first=options.every, longest=slowest, stop=self._done)
        if failed := self._counts["failed"]:
            note(f"{failed:,} messages were not accepted; 'basiq-async messages resend' posts them again")

    async def _read(self, basiq: BasiqClient, webhook_id: str, target: HttpTarget | None) -> int:
        """Deliver the new messages of one webhook, and return how many there were."""
        if self._done.is_set():
            return 0
        try:
            job = self._jobs[webhook_id]
            if job is None:
                job = self._jobs[webhook_id] = await self._make_job(basiq, webhook_id, target)
            report = await job.run(self._progress)
            return report.handled + report.failed
        except _NotShownError:
            return 1
        except NotFoundError:
            if len(self._jobs) == 1:
                raise
            del self._jobs[webhook_id]
            note(f"the webhook {webhook_id} was deleted; the others are polled")
            return 0
        finally:
            live(f"{self.status}; Ctrl-C ends")

    async def _make_job(self, basiq: BasiqClient, webhook_id: str, target: HttpTarget | None) -> Replay:
        path = self._options.checkpoint or _default_path(webhook_id, self._options.forward_to)
        start = Start.read(path)
        if start is None:
            start = (await self._find_start(basiq, webhook_id)).keep(path)
        return Replay(
            basiq,
            webhook_id,
            _Shown(target, self),
            checkpoint=_Announcing(path, self),
            where=start.select(self._options.event),
            concurrency=_CONCURRENCY,
            max_failures=None,
            max_pause=_LONGEST_OUTAGE,
        )

    async def _find_start(self, basiq: BasiqClient, webhook_id: str) -> Start:
        """Return the start of the first run: after the newest message, or ``--since`` ago by the API's clock."""
        live(f"finding the newest message of {webhook_id}")
        times: dict[str, datetime] = {}
        latest = _LONG_AGO

        def see(message: Message) -> None:
            nonlocal latest, times
            time = message_time(message) or _LONG_AGO
            if time > latest:
                latest, times = time, {}
            if time == latest:
                times[message.id] = time

        await read_newest(aiter(basiq.messages.list(webhook_id)), 1, on_read=see)
        if self._back:
            # By the API's clock, as the times of its messages are. These have whole seconds.
            return Start((basiq._now() - self._back).replace(microsecond=0))
        return Start(latest, frozenset(times))

    def begin(self, message: Message) -> None:
        """Record that the delivery of a message begins. Raises ``_NotShownError`` if the program is about to end."""
        limit, shown = self._options.limit, sum(self._counts.values())
        if self._done.is_set() or (limit and shown + len(self._under_way - {message.id}) >= limit):
            raise _NotShownError("the program is ending: this message will be the first of the next run")
        self._under_way.add(message.id)

    def finish(self, message: Message, error: str | None = None) -> None:
        """Show a message that was accepted, or with an error one that was not, and will not be tried again."""
        forwarding = self._options.forward_to is not None
        self._under_way.discard(message.id)
        self._counts["failed" if error else "accepted"] += 1
        result = "failed" if error else "forwarded" if forwarding else "received"
        row: dict[str, object] = {
            "result": result,
            "message_id": message.id,
            "event_type_id": message.event_type_id,
            "event_id": message.event_id,
            "webhook_id": message.webhook_id,
            "error": error,
        }
        if self._options.body:
            row["body"] = dict(message.payload)
        try:
            self.show(row, _POLLED, result, message.event_type_id, message.id, error)
        except (OutputClosedError, OutputError) as exc:
            self.fail(exc)
        if self._options.limit and sum(self._counts.values()) >= self._options.limit:
            self.stop()
        if self._failure is not None and not forwarding:
            raise _NotShownError("nobody saw this message")

    def stop(self) -> None:
        """See ``Showing``."""
        super().stop()
        for job in self._jobs.values():
            if job is not None:
                job.stop()


class _NotShownError(ReplayError):
    """A message was not delivered, or nobody saw its output. It is not recorded, so the next run begins with it."""


class _Shown:
    """A target that shows each message that is accepted."""

    def __init__(self, inner: Target | None, polling: Polling) -> None:
        self._inner = inner
        self._polling = polling

    async def deliver(self, message: Message) -> str | None:
        """See ``Target``."""
        self._polling.begin(message)
        found = await self._inner.deliver(message) if self._inner is not None else None
        self._polling.finish(message)
        return found

    async def flush(self) -> None:
        """See ``Target``."""
        if self._inner is not None:
            await self._inner.flush()


class _Announcing(SQLiteCheckpoint):
    """A checkpoint that shows each dead letter when it is saved: a failed attempt alone may still be retried."""

    def __init__(self, path: str, polling: Polling) -> None:
        super().__init__(path)
        self._polling = polling

    async def save(self, commit: Commit) -> None:
        """See ``Checkpoint``."""
        await super().save(commit)
        for dead_letter in commit.dead:
            with suppress(_NotShownError):
                self._polling.finish(Message(dead_letter.id, dead_letter.message), dead_letter.error)


@attrs.frozen
class Start:
    """The start of the first run. Messages before ``time``, and the messages ``ids`` at ``time``, are not new.

    It is kept in a file beside the checkpoint, because later runs must not skip the messages that were missed.
    """

    time: datetime
    ids: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: str) -> Start | None:
        """Return the start that is kept beside a checkpoint; None if there is none yet."""
        file = Path(path + ".start")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return cls(datetime.fromisoformat(found["time"]), frozenset(map(str, found["ids"])))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, TypeError, KeyError):
            raise ConfigurationError(f"{str(file)!r} cannot be read: to start again, remove it and {path!r}") from None

    def keep(self, path: str) -> Start:
        """Keep the start, unless another process has kept one. Return the start that is kept."""
        file = Path(path + ".start")
        try:
            text = json.dumps({"time": self.time.isoformat(), "ids": sorted(self.ids)})
            written = publish_private(file, text.encode())
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"{str(file)!r} cannot be written: {explain(exc)}") from None
        return self if written else Start.read(path) or self

    def select(self, types: Sequence[str] | None) -> Where:
        """Return the filter for the messages that came later, and have one of the event types."""

        def since_first_start(message: Message) -> bool:
            time = message_time(message)
            return time is None or time > self.time or (time == self.time and message.id not in self.ids)

        where = Where(since_first_start)
        return where & event_types(*types) if types else where


def _default_path(webhook_id: str, forward_to: str | None) -> str:
    import hashlib

    digest = hashlib.blake2b((forward_to or "").encode(errors="replace"), digest_size=4).hexdigest()
    return f"basiq-listen-{re.sub('[^A-Za-z0-9-]', '_', webhook_id)[:64]}-{digest}.db"
