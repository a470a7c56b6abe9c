"""Make Markdown tables of the figures: to peers, to this package itself, of memory, and those that have a mark."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from benchmarks._harness import MEMORY, Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
TABLE = HERE / "results.md"
MARKS = HERE / "marks.md"
_REASONS = """\
Two marks are another one than they once were:

- A delivery beside the same guarantees by hand, 1.25 in place of 1.1: the handler has a task of its own, with its time
  limit. By hand it is the request's task, which a client that goes away cancels in the middle of the work.
- An event that is acknowledged first, beside a table and a loop by hand, 1.0 in place of 1.5: reached, and kept.
"""


@attrs.frozen
class Results:
    """All figures, and what ``machine`` they were measured on."""

    machine: dict[str, Any]
    figures: list[Figure]


def committed() -> Results:
    found = json.loads(RESULTS.read_text())
    return Results(found, [Figure(**row) for row in found.pop("figures")])


def table(results: Results) -> str:
    """Return all figures as three Markdown tables: to peers, to this package itself, and of memory."""
    times = [one for one in results.figures if one.what != MEMORY]
    peers = _table(one for one in times if not one.itself)
    itself = _table(one for one in times if one.itself)
    memory = _table(one for one in results.figures if one.what == MEMORY)
    return f"{peers}\nThis package against itself:\n\n{itself}\nMemory:\n\n{memory}\n{_describe(results.machine)}\n"


def _table(figures: Iterable[Figure]) -> str:
    rows = ["| job | compared with | what | ours | lowest to highest run |", "| --- | --- | --- | ---: | ---: |"]
    rows += [f"| {one.job} | {one.peer} | {one.what} | {one.ours} | {one.text} |" for one in figures]
    return "\n".join(rows) + "\n"


def marks(results: Results) -> str:
    """Return the figures that have a mark to reach, each with whether all runs, some or none reach it."""
    rows = [
        "| job | compared with | what | lowest to highest run | mark | |",
        "| --- | --- | --- | ---: | ---: | --- |",
    ]
    for one in results.figures:
        if one.mark:
            verdict = f"**{one.verdict}**" if one.verdict == "missed" else one.verdict
            rows.append(f"| {one.job} | {one.peer} | {one.what} | {one.text} | {one.mark} | {verdict} |")
    return "\n".join(rows) + f"\n\n{_REASONS}"


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


def texts(results: Results) -> dict[Path, str]:
    """Return the files that show the figures, and what they are to hold."""
    return {TABLE: table(results), MARKS: marks(results)}


def write() -> None:
    for path, text in texts(committed()).items():
        path.write_text(text)


if __name__ == "__main__":
    write()
