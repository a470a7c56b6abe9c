"""The table of a delivery's results is what the receiver's own table says. BASIQ_SNAPSHOTS=write writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

from basiq_async.receiver import Outcome, Result
from basiq_async.receiver._results import RESULTS  # private: the table of which that of the docs is made

PAGE = Path(__file__).parents[2] / "docs" / "receiving.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
READS = {
    "handled": "counts it as handled",
    "skipped": "skips it",
    "failed": "has the handler's error",
    "refused": "counts it as failed",
    "ends": "ends",
}


def table_of_responses() -> str:
    """The table of receiving.md: the response, what happened and helps, and how a replay reads it."""
    lines = ["| response | result | what happened | Basiq sends again | a replay |", "| --- | --- | --- | --- | --- |"]
    for result in Result:
        outcome = Outcome(result)
        meaning, again = outcome._meaning, "no" if outcome.acknowledged else "yes"
        reads = READS[meaning.in_replay] + (f" (`{meaning.word}`)" if meaning.word else "")
        text = "; ".join(filter(None, [meaning.what, meaning.advice]))
        lines.append(f"| {outcome.status} | `{result}` | {text} | {again} | {reads} |")
    return "\n".join(lines)


def test_the_table_of_results_is_the_receivers() -> None:
    text, made = PAGE.read_text(encoding="utf-8"), table_of_responses()
    before, _, rest = text.partition(BEGIN)
    found, _, after = rest.partition(END)
    if os.environ.get("BASIQ_SNAPSHOTS") == "write":
        PAGE.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", encoding="utf-8")
        return
    assert found.strip() == made, "`make generated` writes the table of results"


def test_each_result_has_its_row_and_a_test() -> None:
    tests = "".join(path.read_text() for path in (Path(__file__).parents[1] / "receiver").glob("*.py"))
    for result in Result:
        assert result in RESULTS, f"{result} has no row in receiver/_results.py"
        assert f'"{result}"' in tests or f"Result.{result.name}" in tests, f"no test in tests/receiver sees {result}"
        outcome = Outcome(result)
        assert outcome._meaning.what, result
        assert outcome.acknowledged is (outcome._meaning.in_replay in ("handled", "skipped")), (
            f"{result}: Basiq and a replay read it differently"
        )
