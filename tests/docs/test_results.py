"""The table of a delivery's results says of each what the receiver does."""

from __future__ import annotations

import re
from pathlib import Path

from basiq_async.receiver import Outcome, Result

PAGE = Path(__file__).parents[2] / "docs" / "receiving.md"
READS = {
    "handled": "counts it as handled",
    "skipped": "skips it",
    "failed": "has the handler's error",
    "refused": "counts it as failed",
    "ends": "ends",
}
ROW = re.compile(r"\| (\d+) \| `([a-z-]+)` \| [^|]+ \| (no|yes) \| ([^|]+) \|")


def test_each_result_has_its_row_and_the_row_says_what_the_receiver_does() -> None:
    _, _, table = PAGE.read_text(encoding="utf-8").partition("<!-- results -->")
    found = ROW.findall(table.partition("<!-- end of results -->")[0])
    expected = []
    for result in Result:
        outcome = Outcome(result)
        meaning = outcome._meaning
        reads = READS[meaning.in_replay] + (f" (`{meaning.word}`)" if meaning.word else "")
        expected.append((str(outcome.status), result.value, "no" if outcome.acknowledged else "yes", reads))
    assert found == expected


def test_each_result_is_seen_by_a_test_of_the_receiver() -> None:
    tests = "".join(path.read_text() for path in (Path(__file__).parents[1] / "receiver").glob("*.py"))
    for result in Result:
        assert f'"{result}"' in tests or f"Result.{result.name}" in tests, f"no test in tests/receiver sees {result}"
