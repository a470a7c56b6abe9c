"""What does it cost to write a history to a file of JSON lines?

In turns, with orjson on both sides and with json on both: with ``messages.list`` and by hand, and with a ``Replay`` and
by hand in a way that continues after a kill. As programs of their own, in turns: dlt, and the command line.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import httpx

from basiq_async import BasiqClient
from basiq_async.replay import JSONLinesTarget, Replay
from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, microseconds, ratios, run_program, server, without_orjson
from benchmarks._server import PAGE, WEBHOOK

_LIST = "a history to JSON lines by messages.list"
_REPLAY = "a history to JSON lines by a Replay with its default settings"
_RESUMING = "a loop by hand that continues after a kill"
_PAGES = 10
_PROGRAM_PAGES = 100
_QUIET = {"RUNTIME__DLTHUB_TELEMETRY": "false"}


def dump(message: Any) -> bytes:
    """Make a line, in the loop over ``messages.list`` as in those by hand."""
    return by.dumps(message) + b"\n"


async def to_file(messages: AsyncIterator[by.Message], path: Path) -> int:
    seen = 0
    with path.open("wb") as file:
        async for message in messages:
            file.write(dump(message))
            seen += 1
    return seen


async def by_list(basiq: BasiqClient, path: Path) -> int:
    seen = 0
    with path.open("wb") as file:
        async for message in basiq.messages.list(WEBHOOK):
            file.write(dump(message.raw))
            seen += 1
    return seen


async def by_replay(basiq: BasiqClient, folder: Path) -> int:
    path = folder / str(uuid4())
    return (await Replay(basiq, WEBHOOK, JSONLinesTarget(path)).run()).handled


async def by_hand_with_resume(session: aiohttp.ClientSession, url: str, folder: Path) -> int:
    """Write a history to a file by hand, so that it continues after a kill.

    The end of the file and the next page's link are committed to SQLite after each page, when the file is on the disk.
    The next run cuts the file to that end.
    """
    path, seen = folder / str(uuid4()), 0
    state = sqlite3.connect(path.with_suffix(".db"), isolation_level=None)
    state.execute("PRAGMA journal_mode=WAL")
    state.execute("CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY, size INTEGER, link TEXT)")
    found = state.execute("SELECT size, link FROM place").fetchone()
    size, link = found or (0, url + by.path())
    with path.open("ab") as file:
        file.truncate(size)
        while link:
            async with session.get(link) as response:
                response.raise_for_status()
                answer = by.loads(await response.read())
            for message in answer["data"]:
                file.write(dump(message))
                seen += 1
            file.flush()
            os.fsync(file.fileno())
            following = answer["links"].get("next")
            link = following and following.replace(by.VENDOR, url)
            state.execute("INSERT OR REPLACE INTO place VALUES (1, ?, ?)", (file.tell(), link))
    state.close()
    return seen


async def times(runs: int, slices: int) -> dict[str, list[float]]:
    """Return the best slice of each contestant in each run, with the decoder that is installed here."""
    with server(_PAGES) as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "messages.jsonl"
        async with by.client(url) as basiq, aiohttp.ClientSession() as session, httpx.AsyncClient() as http:
            contestants: dict[str, Callable[[], Any]] = {
                "list": partial(by_list, basiq, path),
                "aiohttp": lambda: to_file(by.by_aiohttp(session, url), path),
                "httpx": lambda: to_file(by.by_httpx(http, url), path),
                "replay": partial(by_replay, basiq, folder),
                "by hand": partial(by_hand_with_resume, session, url, folder),
            }
            for contestant in contestants.values():
                assert await contestant() == _PAGES * PAGE
            return await best_slices(contestants, runs=runs, slices=slices)


async def in_process(runs: int, slices: int) -> list[Figure]:
    plain = await asyncio.to_thread(without_orjson, f"export.times({runs}, {slices})")
    figures = []
    for decoder, found in (("orjson", await times(runs, slices)), ("json", plain)):
        each = {name: microseconds(seconds, _PAGES * PAGE) for name, seconds in found.items()}
        both, mark = f"{decoder} on both sides", "<= 1.6" if decoder == "orjson" else ""
        listed, replayed = found["list"], found["replay"]
        figures += [
            figure(_LIST, f"aiohttp by hand, {both}", ratios(listed, found["aiohttp"]), ours=each["list"]),
            figure(_LIST, f"httpx by hand, {both}", ratios(listed, found["httpx"]), ours=each["list"]),
            figure(_REPLAY, f"{_RESUMING}, {both}", ratios(replayed, found["by hand"]), mark, ours=each["replay"]),
        ]
    return sorted(figures, key=lambda one: one.job)


_LISTING = "import asyncio, sys; from benchmarks import export; asyncio.run(export.list_alone(*sys.argv[1:]))"
_REPLAYING = "import asyncio, sys; from benchmarks import export; asyncio.run(export.replay_alone(*sys.argv[1:]))"
_DLT = "import sys; from benchmarks import export; export.dlt_alone(*sys.argv[1:])"


async def list_alone(url: str, folder: str) -> None:
    """Write a history with ``messages.list``: a program of its own."""
    async with by.client(url) as basiq:
        await by_list(basiq, Path(folder, "listed.jsonl"))


async def replay_alone(url: str, folder: str) -> None:
    async with by.client(url) as basiq:
        await by_replay(basiq, Path(folder))


def dlt_alone(url: str, folder: str) -> None:
    """Write a history with dlt, as its documentation shows it for an API with pages."""
    import dlt
    from dlt.destinations import filesystem
    from dlt.sources.helpers.rest_client import RESTClient
    from dlt.sources.helpers.rest_client.paginators import JSONLinkPaginator

    class Paginator(JSONLinkPaginator):
        def update_request(self, request: Any) -> None:
            if self._next_reference:
                self._next_reference = self._next_reference.replace(by.VENDOR, url)
                super().update_request(request)

    client = RESTClient(url, paginator=Paginator("links.next"), data_selector="data")

    @dlt.resource(name="messages", max_table_nesting=0)
    def messages() -> Any:
        yield from client.paginate(by.path())

    pipeline = dlt.pipeline("bench", destination=filesystem(folder), dataset_name="out", pipelines_dir=f"{folder}/dlt")
    pipeline.run(messages(), loader_file_format="jsonl")


def programs(runs: int, pages: int = _PROGRAM_PAGES) -> list[Figure]:
    found: dict[str, list[float]] = {}
    with server(pages) as url, tempfile.TemporaryDirectory() as folder:
        environment = {"BASIQ_API_KEY": by.KEY, "BASIQ_BASE_URL": url, "HOME": folder, **_QUIET}
        cli = ["-c", "from basiq_async.cli import main; main()"]
        replay = [*cli, "replay", WEBHOOK, "--file"]
        ways: dict[str, Callable[[str], list[str]]] = {
            "list": lambda to: ["-c", _LISTING, url, to],
            "list by command": lambda to: [*cli, "messages", "list", WEBHOOK, "--json="],
            "replay": lambda to: ["-c", _REPLAYING, url, to],
            "replay by command": lambda to: [*replay, f"{to}/out.jsonl"],
            "dlt": lambda to: ["-c", _DLT, url, to],
        }
        for number in range(runs):
            for name, command in ways.items():
                to = Path(folder, f"{name}-{number}")
                to.mkdir()
                found.setdefault(name, []).append(run_program(command(str(to)), **environment))
    count = pages * PAGE
    figures = [
        figure(
            f"basiq-async {command}, {count:,} messages",
            f"a program with the library's {loop}",
            ratios(found[f"{name} by command"], found[name]),
            "<= 1.5",
            ours=microseconds(found[f"{name} by command"], count),
            itself=True,
        )
        for name, command, loop in (
            ("list", "messages list --json", "messages.list"),
            ("replay", "replay --file", "Replay"),
        )
    ]
    job = f"{_LIST}, a program for {count:,} messages"
    peer = "dlt, orjson on both sides"
    return [figure(job, peer, ratios(found["list"], found["dlt"]), ours=microseconds(found["list"], count)), *figures]


async def measure(runs: int = 5, slices: int = 6) -> list[Figure]:
    return [*await in_process(runs, slices), *await asyncio.to_thread(programs, max(1, runs - 2))]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
