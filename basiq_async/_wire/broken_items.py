"""Read responses that a strict JSON decoder refuses because of one item. No I/O; used only after a decoder failed.

Basiq stores the responses of endpoints, and cuts them anywhere. Half of a surrogate pair in one of them must not make
the other 499 messages of the page unreadable. Python's own decoder, which accepts more, reads one item at a time.

The time is in proportion to the length of the page. No ``JSONDecodeError`` is made, because it counts the lines before
it, and Python loops look at a bounded part of the page.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import attrs

from .abridging import LEFT_OUT, LONGEST_TEXT

_SPACE = re.compile(r"[ \t\n\r]*")
_CONTROL = re.compile(r"[\x00-\x1f]")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_TOKEN = re.compile(
    r'[ \t\n\r]*(?:(?P<text>"[^"\\]*(?:\\.[^"\\]*)*")|(?P<sign>[\[\]{},:])'
    r"|(?P<plain>-?[0-9][-+.eE0-9]*|true|false|null|NaN|-?Infinity))",
    re.DOTALL,
)
_ROLES = {"[": "value", "{": "value", "]": "end", "}": "end", ",": "comma", ":": "colon"}
_DEEPEST = 1_000
"""Maximum depth of one item: about the limit of decoders, and shallow enough for code that recurses later."""
_MOST_TOKENS = 1_000_000
"""Maximum number of tokens in a page's items that are nested too deeply: a Python loop finds their ends in a second."""
_MOST_DIGITS = 4_300
_MOST_TEXT = 65_536
_TOO_LONG = f"a text of over {LONGEST_TEXT:,} bytes was left out, because the response is too large"


@attrs.frozen
class BrokenItem:
    """An item of a list that is not valid JSON: its text, cut if it is long, the fault, and its id if it has one."""

    text: str = attrs.field(repr=False)
    fault: str
    id: str | None = None


def mend(body: bytes) -> Any:
    """Return one JSON value, with halves of surrogate pairs escaped (``\\ud800`` becomes six characters).

    Such a half cannot be printed or sent. Raises ``ValueError`` for an object with such a half in its ``id`` and for
    any other fault, and ``RecursionError``.
    """
    scan = _Scan(body.decode())
    value, end = scan.value(scan.skip_space(0))
    if isinstance(value, BrokenItem) or scan.skip_space(end) != len(scan.text):
        raise ValueError("not JSON")
    return value


def mend_list(body: bytes) -> dict[str, Any]:
    """Return a list object, with a ``BrokenItem`` for each entry of its ``data`` that ``mend`` would refuse.

    Raises ``ValueError`` if the fault is not within an item, or if the end of the item cannot be found with certainty.
    """
    return _Scan(body.decode("utf-8", "surrogateescape")).list_object()


class _Scan:
    """Reads one JSON text, in one pass."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._faults: list[str] = []
        self._tokens_left = _MOST_TOKENS
        self._decode = json.JSONDecoder(
            strict=False,
            parse_constant=self._add_fault_of_constant,
            parse_float=self._read_float,
            parse_int=self._read_int,
        ).raw_decode

    def skip_space(self, at: int) -> int:
        found = _SPACE.match(self.text, at)
        return found.end() if found else at

    def list_object(self) -> dict[str, Any]:
        members: dict[str, Any] = {}
        at = self._expect("{", self.skip_space(0))
        while True:
            start = self.skip_space(at)
            name, at = self._decode(self.text, start)
            if not isinstance(name, str) or _CONTROL.search(self.text, start, at):
                self._fail(at)
            at = self.skip_space(self._expect(":", self.skip_space(at)))
            if name == "data" and self.text.startswith("[", at):
                members[name], at = self._items(at + 1)
            else:
                members[name], at = self.value(at)
                if isinstance(members[name], BrokenItem):
                    self._fail(at)
            at = self.skip_space(at)
            if not self.text.startswith(",", at):
                break
            at += 1
        if self.skip_space(self._expect("}", at)) != len(self.text):
            self._fail(at)
        return members

    def _items(self, at: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        at = self.skip_space(at)
        if self.text.startswith("]", at):
            return items, at + 1
        while True:
            item, at = self.value(self.skip_space(at))
            items.append(item)
            at = self.skip_space(at)
            if not self.text.startswith(",", at):
                return items, self._expect("]", at)
            at += 1

    def value(self, start: int) -> tuple[Any, int]:
        """Return the value that begins at ``start``, mended or as a ``BrokenItem``, and its end. Raises ValueError."""
        self._faults.clear()
        value: Any = None
        try:
            value, end = self._decode(self.text, start)
        except RecursionError:
            end, _ = self._walk(start)
            self._faults = ["nested too deeply"]
        text = self.text[start:end]
        if not self._faults and _CONTROL.search(text) and not _is_strict(text):
            self._faults = [_TOO_LONG if LEFT_OUT in text else "a control character in a text"]
        if not self._faults and text.count("[") + text.count("{") > _DEEPEST and self._walk(start)[1] > _DEEPEST:
            self._faults = ["nested too deeply"]
        item_id = value.get("id") if isinstance(value, dict) else None
        if not _is_encodable(text):
            self._faults = ["not UTF-8"]
        elif _HALF.search(text):
            if isinstance(item_id, str) and not _is_encodable(item_id):
                self._faults = self._faults or ["half of a surrogate pair in the id"]
            value = _escape_halves(value)
        if not self._faults:
            return value, end
        raw = text[:_MOST_TEXT].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        known = item_id if isinstance(item_id, str) and item_id and _is_encodable(item_id) else None
        return BrokenItem(raw + "…" * (len(text) > _MOST_TEXT), self._faults[0], known), end

    def _walk(self, at: int) -> tuple[int, int]:
        """Return the end and the depth of the list or object at ``at``. Raises ValueError for invalid JSON."""
        opened: list[str] = []
        deepest, wanted = 0, "value"
        while self._tokens_left > 0:
            self._tokens_left -= 1
            found = _TOKEN.match(self.text, at)
            if found is None:
                break
            at = found.end()
            sign = found["sign"] or ("name" if found["text"] and "name" in wanted else "value")
            if _ROLES.get(sign, sign) not in wanted:
                break
            if sign in "[{":
                opened.append(sign)
                deepest = max(deepest, len(opened))
                wanted = "value or end" if sign == "[" else "name or end"
            elif sign == ",":
                wanted = "value" if opened[-1] == "[" else "name"
            elif sign in ("name", ":"):
                wanted = "colon" if sign == "name" else "value"
            else:
                if sign in "]}" and opened.pop() + sign not in ("[]", "{}"):
                    break
                if not opened:
                    return at, deepest
                wanted = "comma or end"
        raise ValueError(f"not JSON at offset {at}")

    def _expect(self, sign: str, at: int) -> int:
        if not self.text.startswith(sign, at):
            self._fail(at)
        return at + 1

    def _fail(self, at: int) -> NoReturn:
        raise ValueError(f"not JSON at offset {at}")

    def _add_fault_of_constant(self, name: str) -> None:
        self._faults.append(f"{name} is not valid JSON")

    def _read_float(self, text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            self._faults.append("a number too large")
        return value

    def _read_int(self, text: str) -> int:
        if len(text) > _MOST_DIGITS:
            self._faults.append("a number too large")
            return 0
        return int(text)


def _is_strict(text: str) -> bool:
    """Return whether no text within the JSON of one item has a control character, such as a newline."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escape_halves(value: Any) -> Any:
    """Escape each half of a surrogate pair, in texts and in names, and return the value, which is changed in place."""
    if isinstance(value, str):
        return _escape(value)
    left = [value]
    while left:
        box = left.pop()
        if isinstance(box, dict):
            parts = [(_escape(name), part) for name, part in box.items()]
            box.clear()
            box.update(parts)
        elif not isinstance(box, list):
            continue
        for place, part in list(box.items() if isinstance(box, dict) else enumerate(box)):
            if isinstance(part, str):
                box[place] = _escape(part)
            elif isinstance(part, (dict, list)):
                left.append(part)
    return value


def _escape(text: str) -> str:
    return text if _is_encodable(text) else text.encode("utf-8", "backslashreplace").decode()
