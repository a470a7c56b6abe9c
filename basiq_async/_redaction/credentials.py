"""Remove credentials from texts that are shown, because a server may send them back in a response. No I/O."""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from collections import deque
from typing import Any, NoReturn, Protocol, Self, runtime_checkable

REDACTED = "[redacted]"
_SHORTEST = 6
"""Shorter texts do not count as credentials: hiding them would mutilate words."""
_SHORTEST_IN_BASE64 = 8
_LONGEST_PATTERN = 4_096
"""A longer credential is recognised only in its usual percent-encoding: a pattern for all encodings takes too long."""
_DEEPEST = 32
_LOOKS_LIKE_ONE = re.compile(
    r"(?<=\b)(bearer|basic)(?:\s|%20|\+)+[\w+/=.~%-]{20,}|whsec_[\w+/=%-]+", re.IGNORECASE | re.ASCII
)


@runtime_checkable
class SecretText(Protocol):
    """A text whose ``repr`` does not show it, such as pydantic's ``SecretStr``."""

    def get_secret_value(self) -> str:
        """Return the text."""
        ...


class Unpicklable:
    """Base class of objects that hold a credential. They cannot be pickled, and a copy is the object itself."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} holds a credential, which a pickle would show: make a new one where it is needed"
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Redactor(Unpicklable):
    """Removes from texts a client's API key, its last tokens, and other texts that look like credentials.

    A credential is recognised unchanged, without its padding, partly or wholly percent-encoded, and within a base64
    text. If it is itself base64, as an API key is, its decoded text is recognised too.
    """

    def __init__(self, api_key: str = "") -> None:
        self._api_key = _Forms(api_key) if len(api_key) >= _SHORTEST else None
        self._tokens: deque[_Forms] = deque(maxlen=16)

    def learn(self, token: str) -> None:
        """Recognise one more token from now on."""
        if len(token) >= _SHORTEST:
            self._tokens.append(_Forms(token))

    def text(self, text: str) -> str:
        """Return the text without credentials."""
        return _LOOKS_LIKE_ONE.sub(REDACTED, self.known(text))

    def known(self, text: str) -> str:
        """Return the text without the credentials of this client."""
        if self._api_key is not None:
            text = self._api_key.remove_from(text)
        for token in self._tokens:
            text = token.remove_from(text)
        return text

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return a JSON value without credentials, cut off below ``_DEEPEST`` levels, so that it can be shown."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (dict, list)) and depth >= _DEEPEST:
            return "[nested too deeply]"
        if isinstance(value, dict):
            return {self.text(name): self.value(inner, depth + 1) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.value(inner, depth + 1) for inner in value]
        return value

    def __repr__(self) -> str:
        return "Redactor(**********)"


class _Forms(Unpicklable):
    """The forms in which one credential is recognised."""

    def __init__(self, credential: str) -> None:
        bare = credential.rstrip("=") or credential
        self._bare = bare
        self._hidden = _in_base64(bare)
        decoded = _decode(credential)
        self._literals = [bare, *self._hidden, *([decoded] if decoded else [])]
        self._shortest = min(len(form) for form in self._literals)
        self._encoded: re.Pattern[str] | None = None
        self._patterns: re.Pattern[str] | None = None

    def __repr__(self) -> str:
        return "_Forms(**********)"

    def remove_from(self, text: str) -> str:
        """Return the text with every form of the credential replaced."""
        if len(text) < self._shortest:
            return text
        if any(form in text for form in self._literals):
            text = self._pattern().sub(REDACTED, text)
        if "%" in text:
            text = self._percent_pattern().sub(REDACTED, text)
        return text

    def _pattern(self) -> re.Pattern[str]:
        if self._patterns is None:
            plain = [re.escape(form) for form in self._literals if form not in self._hidden]
            hidden = [re.escape(form) for form in self._hidden]
            # The rest of the base64 text is removed too: its first character can hold bits of the credential.
            parts = [
                *(f"{form}(?:=|%3[dD]){{0,2}}" for form in plain),
                *(rf"{form}[\w+/-]*={{0,2}}" for form in hidden),
            ]
            self._patterns = re.compile("|".join(parts), re.ASCII)
        return self._patterns

    def _percent_pattern(self) -> re.Pattern[str]:
        if self._encoded is None:
            if len(self._bare) > _LONGEST_PATTERN:
                each = re.escape(urllib.parse.quote(self._bare, safe=""))
            else:
                each = "".join(f"(?:{re.escape(char)}|%(?i:{ord(char):02x}))" for char in self._bare)
            self._encoded = re.compile(each + "(?:=|%3[dD]){0,2}")
        return self._encoded


def _in_base64(credential: str) -> set[str]:
    """Return the texts by which a credential is recognised within a longer base64 text.

    There are three, one for each alignment: the characters that depend on the credential alone.
    """
    found = set()
    raw = credential.encode()
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        inner = text[-(-before * 8 // 6) : len(text) - bool((before + len(raw)) % 3)]
        if len(inner) >= _SHORTEST_IN_BASE64:
            found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


def _decode(credential: str) -> str | None:
    """Return the decoded text if the credential is base64 of a printable text, else None."""
    try:
        text = base64.b64decode(credential + "=" * (-len(credential) % 4), validate=True).decode("ascii")
    except (ValueError, binascii.Error):
        return None
    return text if len(text) >= _SHORTEST and text.isprintable() else None
