"""Removes credentials, which the other side may send back, from everything that is shown. Pure."""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from collections import deque
from typing import Any, NoReturn, Protocol, Self, runtime_checkable

REDACTED = "[redacted]"
_SHORTEST = 6
"""Shorter texts do not count as credentials: to hide them would mutilate words."""
_SHORTEST_IN_BASE64 = 8
_LONGEST_PATTERN = 4_096
"""Of a longer credential only the usual percent-encoding is known: a pattern for any is long to make."""
_DEEPEST = 32
_LOOKS_LIKE_ONE = re.compile(
    r"(?<=\b)(bearer|basic)(?:\s|%20|\+)+[\w+/=.~%-]{20,}|whsec_[\w+/=%-]+", re.IGNORECASE | re.ASCII
)


@runtime_checkable
class SecretText(Protocol):
    """A text that does not show itself, such as pydantic's ``SecretStr``."""

    def get_secret_value(self) -> str:
        """Return the text."""
        ...


class Unpicklable:
    """Base of objects with a credential, which a pickle would show to every queue and cache. A copy is the object."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a credential, which a pickle would show: make another from it")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Redactor(Unpicklable):
    """Knows the API key and the last tokens of a client, and what credentials look like.

    A credential is known as it is, without its padding, percent-encoded in part or whole, and in base64, with
    anything before it; and the text that it is the base64 of, as an API key is of its two halves.
    """

    def __init__(self, api_key: str = "") -> None:
        self._api_key = _Forms(api_key) if len(api_key) >= _SHORTEST else None
        self._tokens: deque[_Forms] = deque(maxlen=16)

    def learn(self, token: str) -> None:
        """Know one more token."""
        if len(token) >= _SHORTEST:
            self._tokens.append(_Forms(token))

    def text(self, text: str) -> str:
        """A text without credentials."""
        return _LOOKS_LIKE_ONE.sub(REDACTED, self.known(text))

    def known(self, text: str) -> str:
        """A text without the credentials of this client."""
        if self._api_key is not None:
            text = self._api_key.remove_from(text)
        for token in self._tokens:
            text = token.remove_from(text)
        return text

    def value(self, value: Any, depth: int = 0) -> Any:
        """A JSON value without credentials, and not nested so deeply that it could not be shown."""
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
        """The text without any of the forms."""
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
            # What follows in the same base64 text goes too: its first character can hold bits of the credential.
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
    """The credential in the middle of a base64 text: the characters that it alone decides, at each of three places."""
    found = set()
    raw = credential.encode()
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        inner = text[-(-before * 8 // 6) : len(text) - bool((before + len(raw)) % 3)]
        if len(inner) >= _SHORTEST_IN_BASE64:
            found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


def _decode(credential: str) -> str | None:
    """The text that the credential is the base64 of, where it is one."""
    try:
        text = base64.b64decode(credential + "=" * (-len(credential) % 4), validate=True).decode("ascii")
    except (ValueError, binascii.Error):
        return None
    return text if len(text) >= _SHORTEST and text.isprintable() else None
