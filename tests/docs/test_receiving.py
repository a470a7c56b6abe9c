"""The table of responses in docs/receiving.md is the receiver's."""

from __future__ import annotations

import re

from basiq_async.receiver import Outcome, Result
from tests.support.environment import ROOT


def test_the_table_of_responses_has_every_status_of_a_receiver() -> None:
    text = (ROOT / "docs" / "receiving.md").read_text()
    shown = {int(status) for status in re.findall(r"^\|[^|]+\| (\d{3})\b", text, re.MULTILINE)}
    assert shown == {Outcome(result).status for result in Result}
