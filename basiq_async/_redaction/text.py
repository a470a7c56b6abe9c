"""Make untrusted text safe to show on a terminal, in a line of JSON, or in a line for a shell. No I/O.

An id, an error's detail or a URL comes from a server, and a terminal obeys control characters: an escape sequence sets
its title or its clipboard, a bidi control reorders a line, a newline forges a second line of a log.

Every shell command that the command line, a diagnosis or a page suggests to a person is made here, by ``shell_line`` or
``command_line``. Its parts may come from the API or a file. Whatever their text, bash and zsh pass it to the program
unchanged; so does fish, or it refuses the line.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date
from functools import cache, partial
from typing import Any

import attrs

_LONGEST = 200
"""Characters of an id, or of an event type, that are logged, counted or passed to a hook."""
_JOINERS = "\u200c\u200d"
"""Zero-width joiners and non-joiners are ordinary in Persian, Hindi and emoji, and do not control a terminal."""
_PERHAPS_UNPRINTABLE = re.compile(r"[^ -~]")


def printable(value: object) -> str:
    """Return text with unprintable characters escaped as in a Python literal, such as ``\\x1b``.

    These are C0 and C1 controls, newlines, bidi and other format characters, lone surrogates, private use and
    unassigned characters. Other characters stay unchanged.
    """
    text = value if isinstance(value, str) else str(value)
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() or char in _JOINERS else _escape(char) for char in text])


def amount(count: int, one: str, many: str) -> str:
    """Return a number and what it counts: ``amount(1, "message was", "messages were")``."""
    return f"{count:,} {one if count == 1 else many}"


def shorten(text: str) -> str:
    """Return an id or a type from outside as logs, metrics and memory hold it: it may have a megabyte."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def json_line(value: Any, *, ascii: bool = False) -> str:
    """Return a value as one line of compact JSON that is safe to show and decodes to exactly the same value.

    ``ascii`` escapes all characters outside ASCII, for a stream that cannot encode them. Raises ``TypeError`` for a
    value without a JSON form, and ``RecursionError`` for a value that is nested too deeply.
    """
    quick_encode = _quick_encoder()
    if quick_encode is not None:
        with suppress(TypeError):  # such as a number above 64 bits
            text = quick_encode(value).decode()
            if text.isascii() and text.isprintable():
                return text
    text = (_encode_ascii if ascii else _encode)(value)
    return text if text.isprintable() else _PERHAPS_UNPRINTABLE.sub(_escape_for_json, text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _escape_for_json(found: re.Match[str]) -> str:
    char = found[0]
    if char.isprintable() or char in _JOINERS:
        return char
    return json.dumps(char)[1:-1] if ord(char) > 0x7F else f"\\u{ord(char):04x}"


def _plain(value: object) -> Any:
    if isinstance(value, date):  # a datetime too
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    from ..models import Secret

    if isinstance(value, Secret):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


@cache
def _quick_encoder() -> Callable[[Any], bytes] | None:
    """Return orjson's encoder if it is installed (extra ``speed``). It is loaded with the first line."""
    try:
        from orjson import OPT_PASSTHROUGH_DATACLASS, dumps
    except ImportError:
        return None
    return partial(dumps, default=_plain, option=OPT_PASSTHROUGH_DATACLASS)


_COMPACT = (",", ":")
_encode = json.JSONEncoder(default=_plain, separators=_COMPACT, ensure_ascii=False).encode
_encode_ascii = json.JSONEncoder(default=_plain, separators=_COMPACT).encode

_SPECIAL = re.compile(r"([\\']+)")


@attrs.frozen
class ShellText:
    """A trusted word in the shell's syntax, such as a variable in double quotes, which must not be quoted again."""

    text: str


def shell_line(words: Iterable[str | ShellText]) -> str:
    """Return words as a line for a shell, each quoted if needed."""
    return " ".join(word.text if isinstance(word, ShellText) else _quote(word) for word in words)


def _quote(word: str) -> str:
    if not word.isprintable():
        # A control character would act on the terminal that the line is pasted into, even between quotes.
        return "$'" + "".join(map(_escape_for_shell, word)) + "'"
    # Within single quotes, a backslash is literal in bash and zsh but an escape in fish, so it is written outside them.
    return "".join(
        "".join(f"\\{char}" for char in piece) if index % 2 else _quote_plain(piece)
        for index, piece in enumerate(_SPECIAL.split(word) if "\\" in word else [word])
        if piece or not word
    )


def _quote_plain(text: str) -> str:
    # zsh replaces a word that begins with = with the path of a program.
    quoted = shlex.quote(text)
    return f"'{text}'" if quoted.startswith("=") else quoted


def _escape_for_shell(char: str) -> str:
    if char.isascii() and char.isalnum():
        return char
    if char == "\0":  # no argument of a program can hold it
        char = "\ufffd"
    return "".join(f"\\x{byte:02x}" for byte in char.encode(errors="replace"))
