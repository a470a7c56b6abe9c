"""The filter builder: Basiq's syntax, and no way out of a value."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basiq_async import ConfigurationError, F
from basiq_async.filters import filter_text

TERM = re.compile(r"[A-Za-z][A-Za-z0-9_.]*\.[a-z]+\((?P<values>'(?:[^'\\]|\\['\\])*'(?:,'(?:[^'\\]|\\['\\])*')*)\)")


def test_the_syntax_is_the_references() -> None:
    both = F("event.entity").eq("consent") & F("user.id").ne("u-1")
    assert str(both) == "event.entity.eq('consent'),user.id.ne('u-1')"
    assert f"{both}" == str(both)


@pytest.mark.parametrize("operator", ["eq", "ne", "gt", "gteq", "lt", "lteq"])
def test_every_operator(operator: str) -> None:
    assert str(getattr(F("a.b"), operator)("x")) == f"a.b.{operator}('x')"


def test_between_takes_two_values() -> None:
    assert str(F("message.date").bt(date(2024, 1, 1), date(2024, 2, 1))) == "message.date.bt('2024-01-01','2024-02-01')"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "2024-01-02T03:04:05Z"),
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=10))), "2024-01-01T17:04:05Z"),
        (datetime(2024, 1, 2), "2024-01-02T00:00:00Z"),
        ("a, b", "a, b"),
        ("it's", "it\\'s"),
        ("back\\slash", "back\\\\slash"),
        ("日本", "日本"),
    ],
)
def test_values_are_written_as_text(value: Any, text: str) -> None:
    assert str(F("a").eq(value)) == f"a.eq('{text}')"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1, max_size=4))
def test_no_value_can_break_out_of_its_quotes(values: list[str]) -> None:
    expression = F("a.b").eq(values[0])
    for value in values[1:]:
        expression &= F("a.b").bt(value, values[0])
    text = str(expression)
    terms = list(TERM.finditer(text))
    assert ",".join(term.group() for term in terms) == text
    quoted = [each for term in terms for each in re.findall(r"'((?:[^'\\]|\\.)*)'", term["values"])]
    between = [each for value in values[1:] for each in (value, values[0])]
    assert [re.sub(r"\\(.)", r"\1", each) for each in quoted] == [values[0], *between]


@pytest.mark.parametrize(
    "value",
    [None, b"x", ["x"], {}, object(), "a\nb", "\x00", "\x7f", "\ud800", math.nan, math.inf, 10**5000,
     datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
     datetime.max.replace(tzinfo=timezone(-timedelta(hours=14)))],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_that_cannot_be_sent_is_refused(value: Any) -> None:
    for term in (F("a").eq, F("a").ne, F("a").gt, F("a").gteq, F("a").lt, F("a").lteq, partial(F("a").bt, value)):
        with pytest.raises(ConfigurationError, match=r"value|number|date"):
            term(value)


@pytest.mark.parametrize(
    "name", ["", ".", "a b", "a.", ".a", "a..b", "a'", "a.eq('x'),b", "é", "a\n", "1a", 5, b"a", None], ids=repr
)
def test_a_field_that_cannot_be_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="field"):
        F(name)


def test_plain_text_passes_as_it_is() -> None:
    assert filter_text("anything.at('all') OR more") == "anything.at('all') OR more"
    assert filter_text(F("a").eq("b")) == "a.eq('b')"
    assert filter_text(None) is None
    assert filter_text("") is None


@pytest.mark.parametrize("value", [5, F("a"), ["a"], "\ud800"], ids=repr)
def test_what_is_no_filter_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="filter"):
        filter_text(value)


def test_a_filter_joins_with_filters_alone() -> None:
    assert repr(F("a.b")) == "F('a.b')"
    with pytest.raises(TypeError):
        F("a").eq("b") & "c"
