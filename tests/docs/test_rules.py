"""The table of the fake's rules has each rule that ``Quirks`` can set, the engine's value, and a test that sees it."""

from __future__ import annotations

import re

import attrs

from basiq_async.testing import Quirks
from tests.support.environment import ROOT

TABLE = (ROOT / "docs" / "the-fake.md").read_text().partition("<!-- rules -->")[2].partition("<!-- end of rules -->")[0]
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| `(test_\w+)` \|$", re.MULTILINE)


def test_each_rule_of_the_engine_has_a_row_with_its_value() -> None:
    shown = re.findall(r'`(\w+)="?([\w-]+)"?`', "\n".join(cells[3] for cells in ROW.findall(TABLE)))
    engine, default = attrs.asdict(Quirks.engine()), attrs.asdict(Quirks())
    assert sorted(shown) == sorted((name, str(value)) for name, value in engine.items() if value != default[name])


def test_each_row_names_a_test_of_the_fake() -> None:
    rows = ROW.findall(TABLE)
    assert len(rows) == len(TABLE.strip().splitlines()) - 2
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "testing" / "fake").glob("test_*.py"))
    assert [name for *_, name in rows if f"def {name}(" not in tests] == []
