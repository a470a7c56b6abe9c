"""Remove credentials from texts that are shown, because a server may send them back in a response. No I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import Any, NoReturn, Protocol, Self, runtime_checkable
from urllib.parse import unquote_to_bytes

REDACTED = "[redacted]"
_SHORTEST = 6
"""Shorter texts do not count as credentials: hiding them would mutilate words."""
_SHORTEST_IN_BASE64 = 8
_TOKENS = 8
"""The number of tokens that are remembered: enough for a working day, since a token is valid for an hour."""
_DEEPEST = 32
_PADDING = re.compile(r"(?:=|%3[dD]){0,2}")
_REST_OF_BASE64 = re.compile(r"[\w+/-]*={0,2}", re.ASCII)
_PERCENT = re.compile(r"%([0-7][0-9A-Fa-f])")
_PERCENT_BYTES = re.compile(rb"%([0-7][0-9A-Fa-f])")
_ESCAPED = re.compile(rb"\\(?:u00(2[013-9A-Fa-f]|5[0-9abABd-fD-F]|[3467][0-9A-Fa-f])|(/))")
"""A JSON escape of a character that a credential can have: not of a quote or a backslash, which end texts."""
_RAREST = b"QXJZVKWYPHGUBNFLRDAMCEOSITqzjxk"
"""Characters that are rare in Basiq's responses, the rarest first."""
_IN_PERCENT = frozenset(b"%0123456789abcdefABCDEF")
_FEW_PERCENT = 100_000
_LOOKS_LIKE_ONE = re.compile(
    r"(?<=\b)(bearer|basic)(?:\s|%20|\+)+[\w+/=.~%-]{20,}|whsec_[\w+/=%-]+", re.IGNORECASE | re.ASCII
)


def prove(api_key: str, challenge: str, method: str, path: str, body: bytes) -> str:
    """Return what shows, for one request, that its sender knows an API key. The key cannot be computed from it."""
    content = "\n".join([challenge, method, path, hashlib.sha256(body).hexdigest()])
    return hmac.new(api_key.encode("utf-8", "surrogatepass"), content.encode(), "sha256").hexdigest()


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
    text. If it is itself base64, as an API key is, its decoded text is recognised too. All methods need time in
    proportion to the length of the text, whatever the text and the tokens, which a server chooses.
    """

    def __init__(self, api_key: str = "") -> None:
        self._api_key = _Forms(api_key) if len(api_key) >= _SHORTEST else None
        self._tokens: deque[_Forms] = deque(maxlen=_TOKENS)
        self._index()

    def learn(self, token: str) -> None:
        """Recognise one more token from now on."""
        if len(token) >= _SHORTEST:
            self._tokens.append(_Forms(token))
            self._index()

    def _index(self) -> None:
        self._searched = frozenset(each for forms in self._all() for each in forms.searched)
        having = ((char, frozenset(form for form in self._searched if char in form)) for char in _RAREST)
        self._by_char = [(char, forms) for char, forms in having if forms]

    def text(self, text: str) -> str:
        """Return the text without credentials."""
        return _LOOKS_LIKE_ONE.sub(REDACTED, self.known(text))

    def known(self, text: str) -> str:
        """Return the text without the credentials of this client."""
        for forms in self._all():
            text = forms.remove_from(text)
        if "%" in text:
            decoded = _decode_percent(text)
            for forms in self._all():
                if forms.bare in decoded:
                    text = forms.remove_encoded(text)
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

    def clean_body(self, body: bytes) -> bytes:
        """Return a JSON body without the credentials of this client, mostly unchanged.

        This is the boundary where a response becomes objects: a server that sends a credential back, in an id or a
        name, must not have it shown.
        """
        escaped = _find_encoded(body, b"\\", _ESCAPED) if b"\\" in body else set[int]()
        encoded = _find_encoded(body, b"%", _PERCENT_BYTES) if b"%" in body else set[int]()
        forms = self._searched
        if escaped.isdisjoint(_IN_PERCENT):  # else the body has escapes of percent-encodings
            # To look for one character takes a tenth of the time that it takes to look for a form, and the rarest ones
            # rule out all forms in nearly every body.
            for char, having in self._by_char:
                if not forms.isdisjoint(having) and not (char in encoded or char in escaped or char in body):
                    forms -= having
                    if not forms:
                        return body
        plain = _ESCAPED.sub(_unescape, body) if escaped else body
        shown = [plain]
        if b"%" in plain:
            few = plain.count(b"%") <= _FEW_PERCENT  # unquote_to_bytes is fast but allocates per escape
            shown.append(unquote_to_bytes(plain) if few else _PERCENT_BYTES.sub(_unescape, plain))
        if any(form in text for text in shown for form in forms):
            return self.known(plain.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        return body

    def _all(self) -> Iterable[_Forms]:
        return self._tokens if self._api_key is None else (self._api_key, *self._tokens)

    def __repr__(self) -> str:
        return "Redactor(**********)"


class _Forms(Unpicklable):
    """The forms in which one credential is recognised."""

    def __init__(self, credential: str) -> None:
        self.bare = credential.rstrip("=") or credential
        decoded = _decode(credential)
        plain = {self.bare, *([decoded] if decoded else [])}
        # The rest of a base64 text is removed too: its first character can hold bits of the credential.
        self._literals = [
            *((form, _PADDING) for form in sorted(plain, key=len, reverse=True)),
            *((form, _REST_OF_BASE64) for form in sorted(_in_base64(self.bare))),
        ]
        self._shortest = min(len(form) for form, _ in self._literals)
        # Without the decoded text, which the API never gets: to look for it in each page costs as much as all others.
        self.searched = [form.encode() for form, _ in self._literals if form != decoded]

    def __repr__(self) -> str:
        return "_Forms(**********)"

    def remove_from(self, text: str) -> str:
        """Return the text with every form of the credential replaced, except those with percent-encodings."""
        if len(text) < self._shortest:
            return text
        for form, tail in self._literals:
            text = _cut(text, form, tail)
        return text

    def remove_encoded(self, text: str) -> str:
        """Return the text with the credential replaced where at least one of its characters is percent-encoded."""
        decoded = _decode_percent(text)
        # In ``decoded``, the places of the characters that were encoded: each took two more characters in ``text``.
        places = [found.start() - 2 * index for index, found in enumerate(_PERCENT.finditer(text))]
        parts, at = [], 0
        found = decoded.find(self.bare)
        while found >= 0:
            end = _end(_PADDING, decoded, found + len(self.bare))
            parts += [text[at : found + 2 * bisect_left(places, found)], REDACTED]
            at = end + 2 * bisect_left(places, end)
            found = decoded.find(self.bare, end)
        return "".join([*parts, text[at:]]) if parts else text


def _cut(text: str, form: str, tail: re.Pattern[str]) -> str:
    parts, at = [], 0
    found = text.find(form)
    while found >= 0:
        parts += [text[at:found], REDACTED]
        at = _end(tail, text, found + len(form))
        found = text.find(form, at)
    return "".join([*parts, text[at:]]) if parts else text


def _decode_percent(text: str) -> str:
    return _PERCENT.sub(lambda found: chr(int(found[1], 16)), text)


def _end(tail: re.Pattern[str], text: str, at: int) -> int:
    found = tail.match(text, at)
    return at if found is None else found.end()


def _find_encoded(body: bytes, mark: bytes, pattern: re.Pattern[bytes]) -> set[int]:
    """Return the characters that are encoded in a body. Each match of the pattern begins with the mark."""
    found = pattern.finditer(body, body.find(mark), body.rfind(mark) + len(rb"\u0000"))
    return {_unescape(each)[0] for each in found}


def _unescape(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 16)]) if found[1] else b"/"


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
