"""Credentials of ours that the other side sends back are taken out of whatever is shown. Pure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Any

REDACTED = "[redacted]"
_SHORTEST = 6
"""What is shorter is no credential, and taking it out would mutilate words."""
_DEEPEST = 32
_LOOKS_LIKE_ONE = re.compile(r"(?<=\b)(bearer|basic)\s+[\w+/=.~-]{20,}|whsec_[\w+/=-]+", re.IGNORECASE | re.ASCII)


class Redactor:
    """Knows the API key and the last tokens of a client, and what credentials look like."""

    def __init__(self, api_key: str = "") -> None:
        self._api_key = api_key
        self._tokens: deque[str] = deque(maxlen=16)

    def learn(self, token: str) -> None:
        """Know one more token."""
        self._tokens.append(token)

    def text(self, text: str) -> str:
        """A text without credentials."""
        return _LOOKS_LIKE_ONE.sub(REDACTED, self.known(text))

    def known(self, text: str) -> str:
        """A text without the credentials of this client."""
        for secret in self._secrets():
            if secret in text:
                text = text.replace(secret, REDACTED)
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

    def _secrets(self) -> Iterator[str]:
        yield from (secret for secret in (self._api_key, *self._tokens) if len(secret) >= _SHORTEST)

    def __repr__(self) -> str:
        return "Redactor(**********)"
