"""Responses that a strict decoder refuses: what is mended, which item is broken, and what is refused as a whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from basiq_async._wire import broken_items
from basiq_async._wire.broken_items import BrokenItem, mend, mend_list

HALF = r"\ud800"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ('{"a":1}', {"a": 1}),
        (' [1.5,null,true] ', [1.5, None, True]),
        (f'"{HALF}"', "\\ud800"),
        (f'{{"id":"a","{HALF}":["{HALF}",{{"x":"{HALF}"}}]}}', {"id": "a", "\\ud800": ["\\ud800", {"x": "\\ud800"}]}),
        (r'"\ud83d\ude00"', "\U0001f600"),
        ("9" * 4_300, int("9" * 4_300)),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_halves_of_surrogate_pairs_are_escaped(body: str, value: Any) -> None:
    assert mend(body.encode()) == value


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "1 2", "[1]x", "NaN", "[Infinity]", "1e999", "9" * 4_301, '"\x1f"', f'{{"id":"{HALF}"}}',
        "[" * 1_001 + "]" * 1_001,
    ],
    ids=lambda body: body[:12],
)  # fmt: skip
def test_any_other_fault_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match=r"not JSON|Expecting"):
        mend(body.encode())


def listed(item: str) -> Any:
    return mend_list(
        f'{{"type":"list","data":[{{"id":"a"}},{item},{{"id":"c"}}],"count":3}}'.encode("utf-8", "surrogateescape")
    )


@pytest.mark.parametrize(
    ("item", "fault", "item_id"),
    [
        ('{"id":"b","n":NaN}', "NaN is not valid JSON", "b"),
        ('{"id":"b","n":-Infinity}', "-Infinity is not valid JSON", "b"),
        ('{"id":"b","n":1e999}', "a number too large", "b"),
        ('{"id":"b","n":-1e999}', "a number too large", "b"),
        ('{"id":"b","n":' + "9" * 4_301 + "}", "a number too large", "b"),
        ('{"id":"b","t":"\n"}', "a control character in a text", "b"),
        ('{"id":"b","t":"\udcff"}', "not UTF-8", "b"),
        (f'{{"id":"{HALF}"}}', "half of a surrogate pair in the id", None),
        ('{"id":"","n":NaN}', "NaN is not valid JSON", None),
        ('{"id":7,"n":NaN}', "NaN is not valid JSON", None),
        ("[" * 1_001 + "]" * 1_001, "nested too deeply", None),
        ('{"a":' * 1_001 + "1" + "}" * 1_001, "nested too deeply", None),
        ('[{"\\"a[" :[ true,-1.5e3 ,{"b": ' * 700 + "{}" + '} ] , "c" : null }, {}]' * 700, "nested too deeply", None),
        ("NaN", "NaN is not valid JSON", None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_one_broken_item_leaves_the_others_readable(item: str, fault: str, item_id: str | None) -> None:
    first, broken, last = listed(item)["data"]
    assert (first, last) == ({"id": "a"}, {"id": "c"})
    assert isinstance(broken, BrokenItem)
    assert (broken.fault, broken.id) == (fault, item_id)
    assert broken.text.startswith(item[:5])


@pytest.mark.parametrize(
    "item",
    ['{"n":\n1}', "[" * 400 + "]" * 400, '{"a":' * 400 + "[]" + "}" * 400, "[[],[]," * 300 + "1" + "]" * 300],
)
def test_an_item_that_is_only_odd_is_not_broken(item: str) -> None:
    assert not isinstance(listed(item)["data"][1], BrokenItem)


@pytest.mark.parametrize(("size", "cut"), [(65_536, False), (65_537, True)])
def test_a_long_text_is_cut(size: int, cut: bool) -> None:
    item = '{"n":NaN,"t":"' + "x" * (size - 16) + '"}'
    assert len(item) == size
    broken = listed(item)["data"][1]
    assert broken.text == item[:65_536] + "…" * cut
    assert broken.text not in repr(broken)


@pytest.mark.parametrize(
    "body",
    [
        "", "[]", "{", '{"data":[]', '{"data":[]}x', '{"data":[1 2]}', '{"data":[1}', '{"data":[1,]}', '{"data" []}',
        '{"data":[],}', '{7:[]}', '{"a\x1f":1,"data":[]}', '{"a":NaN,"data":[]}', '{"data":{"n":NaN}}', '{"x":[NaN]}',
        '{"data":[' + "[" * 2_000 + "]" * 1_999 + ']}', '{"data":[NaN,]}', '{"data":[NaN] "links":{}}',
        '{"data" [NaN]}',
        "[NaN]",
        '{"data":[{"id":"a","x":"said "hi""},{"id":"c","x":"said "hi"}]}',
        '{"data":[{"id":"a","x":"odd"","id":"b"},{"id":"c","x":"odd""}]}',
        '{"data":[' + "[" * 2_000 + "}" * 2_000 + ']}', '{"data":[' + "[" * 2_000 + "1 2" + "]" * 2_000 + ']}',
        '{"data":[' + "[" * 2_000 + '{"a" "b"}' + "]" * 2_000 + ']}',
        '{"data":[' + "[" * 2_000 + '{"a":1,}' + "]" * 2_000 + ']}',
        '{"data":[' + "[" * 2_000 + "[,1]" + "]" * 2_000 + ']}',
    ],
    ids=lambda body: body[:16],
)  # fmt: skip
def test_a_fault_that_is_not_within_an_item_is_refused_as_a_whole(body: str) -> None:
    with pytest.raises(ValueError, match=r"not JSON|Expecting|delimiter|trailing comma"):
        mend_list(body.encode())


@pytest.mark.parametrize("body", ['{"data":[]}', ' { "data" : [ ] , "a" : {"b":[1]} } ', '{"data":{"a":1},"a":"x"}'])
def test_a_list_without_a_fault_is_what_it_is(body: str) -> None:
    assert mend_list(body.encode()) == json.loads(body)


def test_the_work_for_a_page_of_deep_items_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "[" * 1_001 + "]" * 1_001
    body = f'{{"data":[{deep}]}}'.encode()
    monkeypatch.setattr(broken_items, "_MOST_TOKENS", 2_002)
    assert isinstance(mend_list(body)["data"][0], BrokenItem)
    monkeypatch.setattr(broken_items, "_MOST_TOKENS", 2_001)
    with pytest.raises(ValueError, match="not JSON at offset"):
        mend_list(body)
