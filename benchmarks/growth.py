"""Does what a message, a delivery or a commit costs grow with what was before it? Figures are ratios to a small case.

The messages of a history: two loops are at its 10,000th and its 1,000,000th message, and each reads two more pages in
turns. The inboxes are those of ``inbox_growth``, which measures up to 10,000,000 entries. The checkpoints are of
replays of one webhook and of a thousand in one database, and with no dead letter and with ten thousand.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from basiq_async import BasiqClient, Message
from basiq_async.replay import DeadLetter, Replay, SQLCheckpoint, SQLiteCheckpoint
from basiq_async.replay.protocol import Commit, ReplayJob
from benchmarks import _contestants as by
from benchmarks import inbox_growth
from benchmarks._entries import stores
from benchmarks._harness import Figure, best_slices, figure, microseconds, ratios, server
from benchmarks._server import PAGE, WEBHOOK, message
from benchmarks._service import engine_of
from tests.support.servers import postgres_server

_PLACES = (10_000, 1_000_000)
_WEBHOOKS = 1_000
_DEAD = 10_000


async def _loop(basiq: BasiqClient, place: int) -> AsyncIterator[Message]:
    """Open a loop at a message. It requests no page early, so that each slice includes only its own pages."""
    loop = aiter(basiq.messages.list(WEBHOOK, prefetch=0))
    await _read(loop, place)
    return loop


async def _read(messages: AsyncIterator[Message], count: int) -> None:
    for _ in range(count):
        await anext(messages)


async def history(runs: int, slices: int = 40) -> list[Figure]:
    near, far = _PLACES
    found: dict[str, list[float]] = {"near": [], "far": []}
    at_once = 2 * PAGE
    with server((far + (runs + 1) * slices * at_once) // PAGE) as url:
        async with by.client(url) as basiq:
            furthest = await _loop(basiq, far)
            for _ in range(runs):
                pair = {"near": partial(_read, await _loop(basiq, near), at_once)}
                pair["far"] = partial(_read, furthest, at_once)
                for name, seconds in (await best_slices(pair, runs=1, slices=slices)).items():
                    found[name] += seconds
    ours = microseconds(found["far"], at_once)
    return [
        figure(f"the {far:,}th message of a history", f"the {near:,}th", ratios(found["far"], found["near"]), ours=ours)
    ]


async def inboxes(runs: int) -> list[Figure]:
    few, many = _PLACES
    figures = []
    for kind, opened in stores().items():
        with opened() as store:
            seconds = await inbox_growth.deliveries(store, (few, many), runs=runs, processor=True)
        figures.append(
            figure(
                f"a delivery with {many:,} events in the inbox, {kind}",
                f"with {few:,}",
                ratios(seconds[many], seconds[few]),
                ours=microseconds(seconds[many]),
            )
        )
    return figures


async def webhooks(runs: int, slices: int = 10, commits: int = 20) -> list[Figure]:
    """Measure the commits of replays: of one webhook in a database of its own, and of one of a thousand."""
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(postgres_server())
        engine = engine_of(postgres.url())
        stack.push_async_callback(engine.dispose)
        contestants = {}
        for count in (1, _WEBHOOKS):
            for number in range(count):
                checkpoint = SQLCheckpoint(engine, table=f"of_{count}")
                await checkpoint.open(ReplayJob(f"w-{number}"), concurrency=32)
                if number + 1 < count:
                    await checkpoint.aclose()
            stack.push_async_callback(checkpoint.aclose)
            contestants[str(count)] = partial(_commit, checkpoint, commits)
        seconds = await best_slices(contestants, runs=runs, slices=slices)
    one, many = seconds["1"], seconds[str(_WEBHOOKS)]
    job = f"a commit of a replay, with {_WEBHOOKS:,} webhooks in one database"
    return [figure(job, "with one", ratios(many, one), ours=microseconds(many, commits))]


async def _commit(checkpoint: SQLCheckpoint, count: int) -> None:
    for _ in range(count):
        await checkpoint.save(Commit(done=["m"], handled=1))


async def dead_letters(runs: int, slices: int = 8, pages: int = 4) -> list[Figure]:
    with server(pages) as url, tempfile.TemporaryDirectory() as folder:
        async with by.client(url) as basiq:
            contestants = {str(count): partial(_replay_beside, basiq, Path(folder), count) for count in (0, _DEAD)}
            seconds = await best_slices(contestants, runs=runs, slices=slices, clock=None)
    none, many = seconds["0"], seconds[str(_DEAD)]
    job = f"a replayed message, with {_DEAD:,} dead letters"
    return [figure(job, "with none", ratios(many, none), ours=microseconds(many, pages * PAGE))]


async def _replay_beside(basiq: BasiqClient, folder: Path, dead: int) -> float:
    """Replay a history whose job has so many dead letters. Return the seconds of the processor."""
    path = Path(tempfile.mkstemp(dir=folder, suffix=".db")[1])
    path.unlink()
    async with SQLiteCheckpoint(path) as checkpoint:
        await checkpoint.open(ReplayJob(WEBHOOK), concurrency=32)
        for begin in range(0, dead, 1_000):
            await checkpoint.save(Commit(dead=list(_dead(begin, 1_000)), failed=1_000))
    began = time.process_time()
    report = await Replay(basiq, WEBHOOK, _nothing, checkpoint=SQLiteCheckpoint(path)).run()
    seconds = time.process_time() - began
    assert report.dead == dead
    return seconds


def _dead(begin: int, count: int) -> Iterable[DeadLetter]:
    for number in range(begin, begin + count):
        yield DeadLetter(f"dead-{number}", "no", datetime.now(UTC), {**message(number), "id": f"dead-{number}"})


async def _nothing(message: Message) -> None:
    """Do nothing: the target."""


async def measure(runs: int = 5) -> list[Figure]:
    return [*await history(runs), *await inboxes(runs), *await webhooks(runs), *await dead_letters(runs)]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
