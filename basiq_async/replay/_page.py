"""Serve the page that shows a replay in a browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from aiohttp import web

from .._lazy import missing_extra
from .._web.access import IN_PATH, ControlError, Guard
from .._web.serving import listening, make_app, read_json, respond
from .._work.protocol import InboxEntry
from .._work.tasks import run_to_completion
from ..errors import BasiqError
from ._report import Progress, Report

if TYPE_CHECKING:
    from .._web.page import Context
    from ._replay import Replay


ROOT = "/replay"


@asynccontextmanager
async def serve_page(
    replay: Replay, host: str = "127.0.0.1", port: int = 0, *, allowed_hosts: Iterable[str] = ()
) -> AsyncGenerator[str]:
    """Serve a page that shows the runs of a replay. Yields its URL, which contains the token that opens it.

    .. code-block:: python

        async with serve_page(replay) as url:
            print(url)
            await replay.run()

    The page shows the progress, and the quarantine with its errors. Between runs it can retry and
    drop its messages. Every request needs the token, on this machine too, because the page shows data that an inbox
    hides from other users. All of the page's URLs are below the one that is yielded. Raises ``MissingExtraError`` if
    the extra ``ui`` is not installed.
    """
    try:
        from .._web.page import LivePage
    except ModuleNotFoundError as error:
        raise missing_extra("a page", "ui") from error
    feed = ReplayFeed(replay)
    guard = Guard.make(host, allowed_hosts, None, root=ROOT, everybody=True)
    app = make_app(guard)
    app.add_routes(_routes(feed))

    async def entry(id: str) -> Context:
        return {"entry": _show_entry(await feed.entry(id), with_body=True)}

    LivePage(
        ROOT,
        Path(__file__).parent / "templates",
        ("progress", "quarantine"),
        lambda query: _show(feed),
        feed.watch,
        lambda: {"revision": [feed.revision, replay.running], "texts": {}},
        {"entry": entry},
        lambda context: {"quarantine": len(context["quarantine"])},
    ).add_to(app)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(listening(app, host, port, handler_cancellation=True))
        stack.push_async_callback(lambda: run_to_completion(feed.aclose))
        stack.callback(feed.job.listen(feed.hear))
        yield guard.page(address)


def _routes(feed: ReplayFeed) -> list[web.RouteDef]:
    async def entry(request: web.Request) -> web.Response:
        return respond(_show_entry(await feed.entry(request.query.get("id", "")), with_body=True))

    async def retry(request: web.Request) -> web.Response:
        feed.retry(_read_ids(await read_json(request)))
        return respond({"started": True})

    async def drop(request: web.Request) -> web.Response:
        ids = _read_ids(await read_json(request))
        if ids is None:
            raise ControlError(400, "not-valid", "ids is missing: pass the ids of the quarantined messages to drop")
        try:
            return respond({"dropped": await feed.drop(ids)})
        except BasiqError as error:
            raise ControlError(409, "refused", str(error)) from error

    async def stop(request: web.Request) -> web.Response:
        feed.replay.stop()
        return respond({"stopping": feed.replay.running})

    return [
        web.get(f"{ROOT}{IN_PATH}/quarantine-entry", entry),
        web.post(f"{ROOT}{IN_PATH}/quarantine/retry", retry),
        web.post(f"{ROOT}{IN_PATH}/quarantine/drop", drop),
        web.post(f"{ROOT}{IN_PATH}/stop", stop),
    ]


def _read_ids(body: Mapping[str, object]) -> list[str] | None:
    ids = body.get("ids")
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ControlError(400, "not-valid", "ids must be an array of strings")
    return [str(each) for each in ids]


async def _show(feed: ReplayFeed) -> Context:
    try:
        entries = [_show_entry(each) for each in await feed.quarantine()]
    except ControlError:
        entries = []  # the inbox is away: the next change shows them
    return {"state": _show_state(feed), "quarantine": entries}


def _show_state(feed: ReplayFeed) -> Context:
    job, progress = feed.job, feed.progress
    return {
        "job": {
            "webhookId": job.webhook_id,
            "filter": job.filter or "",
            "source": job.source,
            "selection": job.where.description,
        },
        "running": job.running,
        "finished": isinstance(progress, Report) and progress.finished,
        "progress": None if progress is None else attrs.asdict(progress),
        "error": feed.wrong,
    }


def _show_entry(entry: InboxEntry, *, with_body: bool = False) -> Context:
    shown: Context = {
        "id": entry.delivery_id,
        "error": entry.error,
        "failures": entry.failures,
        "quarantinedAt": entry.quarantined_at.isoformat(),
        "eventTypeId": entry.event_type_id or None,
    }
    return {**shown, "body": _read_body(entry.body)} if with_body else shown


def _read_body(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")


_MOST_ENTRIES = 200


class ReplayFeed:
    """Listens to the runs of a replay, and calls its listeners after each change."""

    def __init__(self, replay: Replay) -> None:
        self.replay, self.job = replay, replay._job
        self.revision = 0
        self.progress: Progress | None = None
        self.wrong: str | None = None
        self._watchers: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, progress: Progress) -> None:
        """Record the progress of a run, and call the listeners."""
        self.progress = progress
        self.count_change()

    def count_change(self) -> None:
        self.revision += 1
        for watcher in tuple(self._watchers):
            watcher()

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call ``changed`` after each change. Return a function that removes it."""
        self._watchers.append(changed)

        def stop() -> None:
            if changed in self._watchers:
                self._watchers.remove(changed)

        return stop

    async def quarantine(self) -> Sequence[InboxEntry]:
        """Return the first entries of the quarantine, during a run and between runs."""
        try:
            return await self.replay.quarantined(limit=_MOST_ENTRIES)
        except BasiqError as error:
            raise ControlError(409, "not-now", str(error)) from error

    async def entry(self, id: str) -> InboxEntry:
        for entry in await self.quarantine():
            if entry.delivery_id == id:
                return entry
        raise ControlError(404, "not-found", f"there is no message {id!r} among the first {_MOST_ENTRIES} quarantined")

    def retry(self, ids: Sequence[str] | None) -> None:
        """Hand quarantined messages to the target again, in the background."""
        self._check_rests()
        task = asyncio.create_task(self._retry(ids), name="basiq-async replay page")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _retry(self, ids: Sequence[str] | None) -> None:
        try:
            await self.replay.retry_quarantined(ids=ids)
            self.wrong = None
        except BasiqError as error:
            self.wrong = f"{type(error).__name__}: {error}"
        self.count_change()

    async def drop(self, ids: Sequence[str]) -> int:
        """Remove quarantined messages for good."""
        self._check_rests()
        count = await self.replay.drop_quarantined(ids)
        self.count_change()
        return count

    def _check_rests(self) -> None:
        if self.replay.running:
            raise ControlError(409, "running", "the replay is running: change its quarantine when it has ended")

    async def aclose(self) -> None:
        """Stop the retry that the page started, and wait until its results are recorded. Safe to repeat."""
        if self._tasks:
            self.replay.stop()
            await asyncio.wait(self._tasks)
