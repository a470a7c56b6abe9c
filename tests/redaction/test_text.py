"""Foreign text that is shown: nothing in it steers a terminal, and JSON decodes to exactly what it was."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basiq_async._redaction.text import json_line, printable

STEERING = {
    "osc title": "\x1b]0;title\x07",
    "csi clear": "\x1b[2J",
    "c1 csi": "\x9b2J",
    "c1 osc": "\x9d0;t\x9c",
    "bidi override": "\u202eevil",
    "bidi isolate": "\u2066x\u2069",
    "marks": "\u200e\u200f\u061c",
    "newline": "a\nb\r\n",
    "line separators": "\u2028\u2029\x85",
    "half a pair": "\ud800",
    "tag": "\U000e0041",
    "del": "\x7f",
}


@pytest.mark.parametrize("text", STEERING.values(), ids=STEERING)
def test_what_steers_a_terminal_is_escaped(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.isascii()
    assert shown.count("\\") >= 1


@pytest.mark.parametrize("text", ["plain", "Zoë 日本 😀", "\u0645\u06cc\u200c\u062e", "👩\u200d👧", ""], ids=repr)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@given(st.text(st.characters(exclude_categories=())))
def test_no_control_or_format_character_is_ever_shown(text: str) -> None:
    for shown in (printable(text), json_line(text), json_line({text: [text]})):
        assert not {unicodedata.category(char) for char in shown if char not in "\u200c\u200d"} & {
            "Cc", "Cf", "Cs", "Zl", "Zp",
        }  # fmt: skip


@given(st.text(st.characters(exclude_categories=())), st.booleans())
def test_a_line_of_json_decodes_to_the_same_value(text: str, ascii: bool) -> None:
    line = json_line({text: [text, 1.5, None, True]}, ascii=ascii)
    assert json.loads(line) == {text: [text, 1.5, None, True]}
    assert not ascii or line.isascii()


def test_what_has_no_json_form_is_an_error() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        json_line(object())
