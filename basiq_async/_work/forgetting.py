"""Remove from the quarantine what names one user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import aclosing
from urllib.parse import unquote

from ..errors import ConfigurationError
from .protocol import Inbox
from .quarantine import ANY_WEBHOOK, drop_entry, read_pages

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_PLAIN = '/"\\'
"""What stands for itself after a backslash in JSON. Every other letter stands for white space."""
_MOST_DECODINGS = 4


async def forget_user(inbox: Inbox, user_id: str, *, timeout: float) -> int:
    """Remove the entries of all webhooks that name a user; they count as handled. Return the number removed.

    timeout: the limit for each call of the inbox, in seconds. Raises ``ConfigurationError`` for an empty id, and the
    errors of ``drop_entry``.
    """
    if not (isinstance(user_id, str) and user_id.strip()):
        raise ConfigurationError("user_id must be the id of a user, as Basiq has it")
    names_user = re.compile(rf"(?<![\w-]){re.escape(user_id)}(?![\w-])")
    dropped = 0
    async with aclosing(read_pages(inbox, ANY_WEBHOOK, timeout=timeout)) as pages:
        async for page in pages:
            for entry in page:
                texts = (*_readings(entry.body.decode(errors="replace")), entry.error)
                if any(names_user.search(text) for text in texts):
                    dropped += await drop_entry(inbox, entry.key, timeout=timeout)
    return dropped


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
