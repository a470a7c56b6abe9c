"""Find what names one user in the quarantine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from ..errors import ConfigurationError
from .protocol import InboxEntry

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_PLAIN = '/"\\'
"""What stands for itself after a backslash in JSON. Every other letter stands for white space."""
_MOST_DECODINGS = 4


def names_user(user_id: str) -> Callable[[InboxEntry], bool]:
    """Return the function that says whether an entry names a user. Raises ``ConfigurationError`` for an empty id."""
    if not (isinstance(user_id, str) and user_id.strip()):
        raise ConfigurationError("user_id must be the id of a user, as Basiq has it")
    found = re.compile(rf"(?<![\w-]){re.escape(user_id)}(?![\w-])")

    def is_named(entry: InboxEntry) -> bool:
        return any(found.search(text) for text in (*_readings(entry.body.decode(errors="replace")), entry.error))

    return is_named


def _readings(body: str) -> Iterator[str]:
    """Yield a body without JSON's escapes, and without those of urls, layer by layer. It need not be JSON."""
    text = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _plain(found[2]), body)
    for _ in range(_MOST_DECODINGS):
        yield text
        text, before = unquote(text), text
        if text == before:
            return


def _plain(letter: str) -> str:
    return letter if letter in _PLAIN else " "
