"""Make Markdown tables of the figures: of all, and of the README's headlines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks._harness import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
TABLE = HERE / "results.md"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- speed: written by make bench -->\n", "<!-- end of speed -->\n"
HEADLINES = {
    "streaming: messages for a second on the wall, with orjson, to svix": (
        "messages for a second, to svix's client",
        "Reading a history takes about half the time.",
    ),
    "streaming: basiq_async with orjson, to the raw loop": (
        "messages for a second, to a hand-written loop of aiohttp and json",
        "Checks, models, retries and cursors cost no speed, because orjson decodes faster than json.",
    ),
    "one call: over a socket, to bare aiohttp and json": (
        "processor time of one call, to aiohttp and json by hand",
        "The token, the retries and the model take about a quarter more.",
    ),
    "verify: to standardwebhooks, made once": (
        "time to verify a delivery, to standardwebhooks",
        "Checking a signature takes less than two thirds of the time.",
    ),
    "receiving, a handler that waits 2 ms: processor time of a delivery, to hand-written, with standardwebhooks": (
        "processor time of a delivery, to a hand-written handler with standardwebhooks",
        "The whole receiver costs as much as the signature check alone by hand.",
    ),
    "replay: messages for a second of the processor, HttpTarget to a hand-written pool without checkpoint": (
        "messages for a second of a replay over HTTP, to a hand-written pool of workers",
        "The checkpoint, which makes a killed replay continue, takes about a sixth of the rate.",
    ),
}
"""The README's figures: in words that need no context, and what each one means. results.md has all figures."""


def table(figures: Iterable[Figure]) -> str:
    """Return the figures as a Markdown table, each with the mark that it is to reach."""
    rows = ["| figure | ratio | spread | mark | |", "| --- | ---: | ---: | ---: | --- |"]
    verdicts = {True: "reached", False: "**missed**", None: ""}
    for found in figures:
        spread = f"{found.spread:.0%}" if found.high > found.low else ""
        rows.append(f"| {found.name} | {found.value:.2f} | {spread} | {found.mark} | {verdicts[found.reached]} |")
    return "\n".join(rows) + "\n"


def headlines(figures: Iterable[Figure]) -> str:
    """Return the README's table: six ratios to what a reader would use otherwise, each with its meaning."""
    known = {one.name: one for one in figures}
    rows = ["| figure | ratio | |", "| --- | ---: | --- |"]
    rows += [f"| {words} | {known[name].value:.2f} | {meaning} |" for name, (words, meaning) in HEADLINES.items()]
    return "\n".join(rows) + "\n"


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


if __name__ == "__main__":
    README.write_text(readme(committed()))
    TABLE.write_text(table(committed()) + on_other_pythons(committed()))
