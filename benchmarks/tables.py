"""The figures as tables: all of them, and those of the README."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from benchmarks._harness import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
TABLE = HERE / "results.md"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- speed: written by make bench -->\n", "<!-- end of speed -->\n"
HEADLINES = {
    "streaming: basiq_async with orjson, to the raw loop": "messages a second, beside a loop of aiohttp and orjson",
    "streaming: basiq_async with orjson, to svix": "messages a second, beside svix's client",
    "memory: what 1,000,000 messages take more than 10,000, MiB": (
        "memory of 1,000,000 messages above that of 10,000, MiB"
    ),
    "one call: over a socket, to bare aiohttp and json": "time of one call, beside aiohttp and json",
    "receiving, a handler that waits 2 ms: rate to bare": "deliveries a second, beside a handler that checks nothing",
    "replay: rate of HttpTarget to a hand-written pool without checkpoint, 64 connections": (
        "replay over HTTP, beside a pool that records nothing"
    ),
    "import: basiq_async, to svix.api": "time to import, beside svix",
}
"""The figures of the README, in words that need no context. All others are in results.md."""


def table(figures: Iterable[Figure], names: Mapping[str, str] = MappingProxyType({})) -> str:
    """The figures as a Markdown table."""
    rows = ["| figure | median | lowest to highest | mark | |", "| --- | ---: | ---: | ---: | --- |"]
    verdicts = {True: "reached", False: "**missed**", None: ""}
    for found in figures:
        spread = f"{found.low:.2f} to {found.high:.2f}" if found.high else ""
        name = names.get(found.name, found.name)
        rows.append(f"| {name} | {found.median:.2f} | {spread} | {found.mark} | {verdicts[found.reached]} |")
    return "\n".join(rows) + "\n"


def headlines(figures: Iterable[Figure]) -> str:
    """The README's table: the headlines, and every figure that missed its mark."""
    return table([one for one in figures if one.name in HEADLINES or one.reached is False], HEADLINES)


def committed() -> list[Figure]:
    return [Figure(**row) for row in json.loads(RESULTS.read_text())["figures"]]


def readme(figures: Iterable[Figure]) -> str:
    """The README with these figures in its table."""
    before, begin, rest = README.read_text().partition(BEGIN)
    return before + begin + headlines(figures) + END + rest.partition(END)[2]
