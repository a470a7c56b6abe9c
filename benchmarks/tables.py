"""Make Markdown tables of the figures: of all, and of the README's headlines."""

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
    "streaming: basiq_async with orjson, to the raw loop": "messages for a second, to a loop of aiohttp and json",
    "streaming: messages for a second on the wall, with orjson, to svix": "messages for a second, to svix's client",
    "memory: what 1,000,000 messages take more than 10,000, MiB": (
        "memory of 1,000,000 messages above that of 10,000, MiB"
    ),
    "one call: over a socket, to bare aiohttp and json": "one call, to aiohttp and json",
    "verify: to bare hmac and base64": "verifying a delivery, to bare hmac and base64",
    "receiving, a handler that waits 2 ms: processor time of a delivery, to bare": (
        "a delivery, to a handler that checks nothing"
    ),
    "replay: messages for a second of the processor, HttpTarget to a hand-written pool without checkpoint": (
        "messages for a second of a replay over HTTP, to a pool that records nothing"
    ),
    "import: basiq_async, to svix.api": "an import, to svix",
}
"""The names of the README's figures, in words that need no context. results.md has all figures."""


def table(figures: Iterable[Figure], names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the figures as a Markdown table."""
    rows = ["| figure | ratio | spread | mark | |", "| --- | ---: | ---: | ---: | --- |"]
    verdicts = {True: "reached", False: "**missed**", None: ""}
    for found in figures:
        spread = f"{found.spread:.0%}" if found.high > found.low else ""
        name = names.get(found.name, found.name)
        rows.append(f"| {name} | {found.value:.2f} | {spread} | {found.mark} | {verdicts[found.reached]} |")
    return "\n".join(rows) + "\n"


def headlines(figures: Iterable[Figure]) -> str:
    """Return the README's table: the headlines, and all figures that missed their marks."""
    return table([one for one in figures if one.name in HEADLINES or one.reached is False], HEADLINES)


def committed(path: Path = RESULTS) -> list[Figure]:
    return [Figure(**row) for row in json.loads(path.read_text())["figures"]]


def python_of(path: Path = RESULTS) -> str:
    """Return the version of Python that measured the committed figures, such as ``3.11``."""
    version: str = json.loads(path.read_text())["python"]
    return version.rpartition(".")[0]


def on_other_pythons(figures: Iterable[Figure]) -> str:
    """Return a table of figures that were also measured with other versions of Python; empty if none was."""
    files = {python_of(path): path for path in sorted(HERE.glob("results-*.json"))}
    if not files:
        return ""
    others = {version: {one.name: one for one in committed(path)} for version, path in files.items()}
    rows = [f"\n| figure | {' | '.join([python_of(), *others])} |", "| --- |" + " ---: |" * (1 + len(others))]
    for found in figures:
        beside = [known.get(found.name) for known in others.values()]
        if any(beside):
            values = ["" if one is None else f"{one.value:.2f}" for one in (found, *beside)]
            rows.append(f"| {found.name} | {' | '.join(values)} |")
    return "\n".join(rows) + "\n"


def readme(figures: Iterable[Figure]) -> str:
    """Return the README's text with these figures in its table."""
    before, begin, rest = README.read_text().partition(BEGIN)
    return before + begin + headlines(figures) + END + rest.partition(END)[2]
