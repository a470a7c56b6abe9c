"""The numbers and the loggers that pages name are those of the code."""

from __future__ import annotations

import inspect
import re
from datetime import timedelta

import attrs
import pytest

from basiq_async.receiver import Deferred, SQLInbox, WebhookReceiver
from basiq_async.receiver._attempts import PATIENCE  # private: what pages say in words
from basiq_async.receiver._trying import _WAITS  # private: what pages say in words
from basiq_async.replay._reading import _LATE  # private: what pages say in words
from basiq_async.replay._tally import RunSettings  # private: what pages say in words
from basiq_async.testing.fake import _lists, _logs  # private: what pages say in words
from basiq_async.testing.mock import _history  # private: what pages say in words
from tests.support.environment import ROOT
from tests.support.pages import PAGES

RUN = {field.name: field.default for field in attrs.fields(RunSettings)}
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "changelog.d").glob("*.md")]
MEASURED = ("figures.md", "performance.md", "README.md")
"""Where ratios stand. ``make bench`` writes those of the first and the last."""
WAITS = r"(\d+ s, \d+ s, \d+ min),? (?:and )?then every (\d+ min)"
SENTENCES = [
    ("guarantees.md", f"The others wait {PATIENCE:g} s for it"),
    ("guarantees.md", f"late by more than {_LATE} places, or a page"),
    ("mock.md", f"A request looks at {_lists.MOST_SCANNED:,} messages at most"),
    ("mock.md", f"and a control call at {_history.MOST_SCANNED:,}"),
    ("mock.md", f"The log keeps {_logs.MOST_KEPT:,} entries, and at most {_logs.MOST_BYTES // 2**20} MiB"),
    ("replay.md", f"{RUN['target_timeout']:g} s for one message"),
    ("replay.md", f"{RUN['record_timeout']:g} s for a `flush`"),
]


@pytest.mark.parametrize(("page", "sentence"), SENTENCES)
def test_a_page_gives_the_number_of_the_code(page: str, sentence: str) -> None:
    assert sentence in " ".join((ROOT / "docs" / page).read_text().split())


def test_each_page_has_the_waits_and_the_days_of_a_deferred_delivery_that_fails() -> None:
    texts = {path.name: " ".join(path.read_text().split()) for path in TEXTS}
    units = [f"{wait:g} s" if wait < 60 else f"{wait / 60:g} min" for wait in _WAITS]
    waits = [f"{first}, {then}" for text in texts.values() for first, then in re.findall(WAITS, text)]
    assert waits
    assert set(waits) == {f"{', '.join(units[:-1])}, {units[-1]}"}
    days = [int(each) for text in texts.values() for each in re.findall(r"`keep_trying`[ |(]+(\d+) days", text)]
    assert days
    assert {timedelta(days=each).total_seconds() for each in days} == {Deferred().keep_trying}


def test_the_page_on_logging_names_each_logger() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "basiq_async").rglob("*.py"))
    table = re.findall(r"^\| `(basiq_async\.\w+)` \|", (ROOT / "docs" / "logging.md").read_text(), re.MULTILINE)
    assert set(table) == set(re.findall(r'getLogger\("(basiq_async\.\w+)"\)', sources))


def test_ratios_stand_in_one_place() -> None:
    """A ratio has two places behind the point, as 0.10 has; a version, an address or a factor of a formula is none."""
    ratio = re.compile(r"\b[012]\.\d\d (?:of|in place of|to|as much|times)\b")
    part = re.compile(
        r"\b(?:third|fifths?|sixth|eighth|tenth) (?:of|less|more)[^.]*\b(?:DBOS|procrastinate|asyncpg|by hand|dlt)\b"
    )
    for path in TEXTS:
        if path.name not in MEASURED:
            text = " ".join(path.read_text().split())
            assert (ratio.findall(text), part.findall(text)) == ([], []), path.name


def test_each_time_limit_that_a_page_names_is_the_default() -> None:
    known = inspect.signature(WebhookReceiver).parameters
    timeouts = {inspect.signature(SQLInbox).parameters["timeout"].default, Deferred().timeout}
    found = 0
    for path in TEXTS:
        for name, seconds in re.findall(r"`(\w+)`\s\((\d+)\s(?:s|seconds)\)", path.read_text()):
            assert float(seconds) in (timeouts if name == "timeout" else {known[name].default}), (path.name, name)
            found += 1
    assert found >= 8


def test_the_grace_period_is_longer_than_a_receiver_takes_to_stop() -> None:
    """At most twice ``handler_timeout`` and both calls of the inbox, after the time for the load balancer."""
    limits = inspect.signature(WebhookReceiver).parameters
    stops = 2 * limits["handler_timeout"].default + 2 * limits["inbox_timeout"].default
    page = (ROOT / "docs" / "howto" / "deploy.md").read_text()
    (grace,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", page)
    (before,) = re.findall(r"preStop: {sleep: {seconds: (\d+)}}", page)
    assert int(grace) > stops + int(before)
    assert {float(each) for each in re.findall(r"TimeoutStopSec=(\d+)", page)} == {float(grace)}
    assert f"{stops:g} s with the defaults" in " ".join(page.split())
