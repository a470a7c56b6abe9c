"""Leave out the long texts of a JSON body while it arrives, so that a body of any size needs little memory."""

from __future__ import annotations

import re

LONGEST_TEXT = 8_192
"""Maximum number of bytes of a text that is kept: urls have fewer, and the responses of endpoints may have more."""
LEFT_OUT = "\x1atoo long\x1a"
"""What stands in place of another text. It is not JSON, so that an item with it counts as unreadable."""
_INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""The rest of a text, up to its end or to a backslash without the character after it."""
_QUOTE, _COLON = b'"', b":"
_EXPENDABLE = b"response"
"""The member whose long text becomes null: what an endpoint responded to an attempt (the vendor's reference)."""


class Abridger:
    """Takes the chunks of a body, in order. What it returns holds no text of more than ``LONGEST_TEXT`` bytes.

    A body that is not JSON stays as it is, or loses what would be a text.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._text: bytearray | None = None
        """The text that has begun, as far as it is short; None outside of a text."""
        self._length = 0
        self._name: bytes = b""
        """The last text that ended."""
        self._is_value = False
        """Whether a colon followed it."""

    def feed(self, chunk: bytes) -> bytes:
        """Return what to keep of the body up to the end of a chunk, as far as that is known."""
        data, kept, at = self._rest + chunk, bytearray(), 0
        self._rest = b""
        while at < len(data):
            if self._text is None:
                begin = data.find(_QUOTE, at)
                end = len(data) if begin < 0 else begin
                between = data[at:end]
                kept += between
                self._is_value = (self._is_value and not between.strip()) or between.strip() == _COLON
                at = end + 1
                if begin >= 0:
                    self._text, self._length = bytearray(), 0
                continue
            found = _INSIDE.match(data, at)
            end = at if found is None else found.end()
            self._length += end - at
            if self._length <= LONGEST_TEXT:
                self._text += data[at:end]
            if end == len(data):
                break
            if data[end] != _QUOTE[0]:
                self._rest = data[end:]  # a backslash, whose character comes with the next chunk
                break
            kept += self._end_text(self._text)
            at = end + 1
        return bytes(kept)

    def _end_text(self, text: bytearray) -> bytes:
        is_value, name = self._is_value, self._name
        self._text, self._is_value = None, False
        if self._length <= LONGEST_TEXT:
            self._name = bytes(text)
            return _QUOTE + self._name + _QUOTE
        self._name = b""
        return b"null" if is_value and name == _EXPENDABLE else _QUOTE + LEFT_OUT.encode() + _QUOTE
