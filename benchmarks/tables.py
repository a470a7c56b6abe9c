"""Make Markdown tables of the figures: of all, and of the README's six."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from benchmarks._harness import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
TABLE = HERE / "results.md"
MARKS = HERE / "marks.md"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- speed: written by make bench -->\n", "<!-- end of speed -->\n"
HEADLINES = {
    ("an event in FastAPI and PostgreSQL, handled once", "SQLAlchemy by hand"): (
        "The receiver adds checks, time limits, retries and a quarantine to what you would write yourself."
    ),
    ("an event in FastAPI and PostgreSQL, handled once", "DBOS"): (
        "A transaction in your own service costs less than a workflow, which can do more."
    ),
    (
        "a delivery to a handler that waits 2 ms",
        "the same guarantees by hand: a dict of what was handled, a time limit, busy, at most 1,000",
    ): "Without them, by hand is cheaper: see all figures.",
    ("reading a history as typed messages", "svix's client, json on both sides"): (
        "Models, checks and retries need not be slow."
    ),
    ("a history to JSON lines by messages.list", "aiohttp by hand, orjson on both sides"): (
        "The token, the retries and the checks."
    ),
    (
        "a history to JSON lines by a Replay with its default settings",
        "a loop by hand that continues after a kill, orjson on both sides",
    ): "The file is the record: a message that it has is not written again, wherever the list shows it.",
}
"""The README's figures, by job and peer, and what each one means. ``results.md`` has all figures."""


@attrs.frozen
class Results:
    """All figures, and what ``machine`` they were measured on."""

    machine: dict[str, Any]
    figures: list[Figure]


def committed() -> Results:
    found = json.loads(RESULTS.read_text())
    return Results(found, [Figure(**row) for row in found.pop("figures")])


def table(results: Results) -> str:
    """Return all figures as two Markdown tables: to peers, and to this package itself."""
    peers = _table(one for one in results.figures if not one.itself)
    itself = _table(one for one in results.figures if one.itself)
    return f"{peers}\nThis package against itself:\n\n{itself}\n{_describe(results.machine)}\n"


def _table(figures: Iterable[Figure]) -> str:
    rows = ["| job | compared with | what | ours | ratio | spread |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for one in figures:
        spread = f"±{one.spread / 2:.0%}" if one.high > one.low and not one.ranged else ""
        rows.append(f"| {one.job} | {one.peer} | {one.what} | {one.ours} | {one.text} | {spread} |")
    return "\n".join(rows) + "\n"


def marks(results: Results) -> str:
    """Return the figures that have a mark to reach."""
    rows = ["| job | compared with | what | ratio | mark | |", "| --- | --- | --- | ---: | ---: | --- |"]
    for one in results.figures:
        if one.mark:
            verdict = "reached" if one.reached else "**missed**"
            rows.append(f"| {one.job} | {one.peer} | {one.what} | {one.text} | {one.mark} | {verdict} |")
    return "\n".join(rows) + "\n"


def _describe(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"CPython {machine['python']}, {machine['system']}, {machine['processors']} processors "
        f"({machine['processor']}), load average before {machine['load']}; {packages}.{_describe_missing(machine)}"
    )


def _describe_missing(machine: dict[str, Any]) -> str:
    """Return a sentence on the programs whose figures are of an earlier run; nothing if there are none."""
    missing = machine.get("not_measured", {})
    each = ", ".join(f"{name} ({why if why == 'failed' else f'no {why}'})" for name, why in missing.items())
    return f" Kept from an earlier run: {each}." if each else ""


def headlines(figures: Iterable[Figure]) -> str:
    """Return the README's table: six ratios to what a reader would use otherwise, each with its meaning."""
    known = {(one.job, one.peer): one for one in figures}
    rows = ["| processor time of | compared with | ratio | |", "| --- | --- | ---: | --- |"]
    rows += [f"| {job} | {peer} | {known[job, peer].value:.2f} | {text} |" for (job, peer), text in HEADLINES.items()]
    return "\n".join(rows) + "\n"


def readme(results: Results) -> str:
    """Return the README's text with these figures in its table."""
    before, begin, rest = README.read_text().partition(BEGIN)
    return before + begin + headlines(results.figures) + END + rest.partition(END)[2]


def texts(results: Results) -> dict[Path, str]:
    """Return the files that show the figures, and what they are to hold."""
    return {TABLE: table(results), MARKS: marks(results), README: readme(results)}


def write() -> None:
    for path, text in texts(committed()).items():
        path.write_text(text)


if __name__ == "__main__":
    write()
