"""The table of the fake's rules has each rule of ``Quirks``, with the engine's value: ``rules.txt`` has tests"""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from basiq_async.testing import Quirks
from tests.support.environment import ROOT

TABLE = (ROOT / "docs" / "the-fake.md").read_text().partition("<!-- rules -->")[2].partition("<!-- end of rules -->")[0]
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def test_each_rule_of_the_engine_has_a_row_with_its_value() -> None:
    shown = re.findall(r'`(\w+)="?([\w-]+)"?`', "\n".join(cells[3] for cells in ROW.findall(TABLE)))
    engine, default = attrs.asdict(Quirks.engine()), attrs.asdict(Quirks())
    assert sorted(shown) == sorted((name, str(value)) for name, value in engine.items() if value != default[name])


def test_each_row_has_a_test_of_the_fake() -> None:
    rows = [rule for rule, *_ in ROW.findall(TABLE)][2:]
    assert len(rows) == len(TABLE.strip().splitlines()) - 2
    named = dict(re.findall(r"^(.+): (test_\w+)$", Path(__file__).with_name("rules.txt").read_text(), re.MULTILINE))
    assert sorted(named) == sorted(rows)
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "testing" / "fake").glob("test_*.py"))
    assert [name for name in named.values() if f"def {name}(" not in tests] == []
