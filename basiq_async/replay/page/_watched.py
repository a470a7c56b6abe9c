"""A replay as its page sees it, and what the page can have it do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from ..._tasks import wait_out
from ..._ui._errors import ControlError
from ...errors import BasiqError
from .._report import Progress
from ..checkpoints._base import DeadLetter

if TYPE_CHECKING:
    from .._replay import Replay

_MOST_LETTERS = 200
_MOST_RATES = 300
_EVERY = 1.0


class Watched:
    """Listens to the runs of a replay, and calls those back who watch it."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.revision = 0
        self.progress: Progress | None = None
        self.rates: deque[tuple[float, float]] = deque(maxlen=_MOST_RATES)
        self.wrong: str | None = None
        self._watchers: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, progress: Progress) -> None:
        """Take in the progress of a run."""
        if self.rates and progress.elapsed < self.rates[-1][0]:
            self.rates.clear()  # another run
        if not self.rates or progress.elapsed - self.rates[-1][0] >= _EVERY:
            self.rates.append((progress.elapsed, progress.rate))
        self.progress = progress
        self.note()

    def note(self) -> None:
        self.revision += 1
        for watcher in tuple(self._watchers):
            watcher()

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call ``changed`` after each change. Returns what ends that."""
        self._watchers.append(changed)

        def stop() -> None:
            if changed in self._watchers:
                self._watchers.remove(changed)

        return stop

    async def letters(self) -> Sequence[DeadLetter]:
        """The first dead letters, while a run is under way and between runs."""
        try:
            return await self.replay.dead_letters(limit=_MOST_LETTERS)
        except BasiqError as error:  # such as a run that has not opened its checkpoint yet
            raise ControlError(409, "not-now", str(error)) from error

    async def letter(self, id: str) -> DeadLetter:
        for letter in await self.letters():
            if letter.id == id:
                return letter
        raise ControlError(404, "not-found", f"there is no dead letter {id!r} among the first {_MOST_LETTERS}")

    def retry(self, ids: Sequence[str] | None) -> None:
        """Put dead letters through the target again, in the background."""
        self._check_rests()
        self._start(self._retry(ids))

    async def _retry(self, ids: Sequence[str] | None) -> None:
        await self.replay.retry_dead(ids=ids)

    async def drop(self, ids: Sequence[str]) -> int:
        """Remove dead letters for good."""
        self._check_rests()
        count = await self.replay.drop_dead(ids)
        self.note()
        return count

    def _check_rests(self) -> None:
        if self.replay.running:
            raise ControlError(409, "running", "the replay is running: change its dead letters when it has ended")

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
                self.wrong = None
            except BasiqError as error:
                self.wrong = f"{type(error).__name__}: {error}"
            self.note()

        task = asyncio.create_task(run(), name="basiq-async replay page")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Stop what the page began, and wait until it is recorded."""
        cancelled: asyncio.CancelledError | None = None
        for task in tuple(self._tasks):
            self.replay.stop()
            cancelled = await wait_out(task) or cancelled
        if cancelled is not None:
            raise cancelled
