"""Identifiers made from a seed: the same in every run, and those of lazy data turned back into an index."""

from __future__ import annotations

import base64
from hashlib import blake2b

_MASK = (1 << 62) - 1
_STEP = 0x1D8E4E27C47D124F  # odd, so that multiplying by it modulo 2**62 loses nothing
_BACK = pow(_STEP, -1, 1 << 62)
_VARIANT = 1 << 63
UUID_PARTS = (8, 4, 4, 4, 12)


def digest(*parts: object, size: int = 16) -> bytes:
    """``size`` bytes that depend on all the parts and on nothing else."""
    return blake2b("\0".join(map(str, parts)).encode(errors="surrogatepass"), digest_size=size).digest()


def uuid_text(raw: bytes) -> str:
    """A version 4 UUID of 16 bytes."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[raw[8] & 3]}{text[17:20]}-{text[20:]}"


def is_uuid(text: str) -> bool:
    """Whether ``text`` is a UUID in the form of 8-4-4-4-12 hexadecimal digits."""
    parts = text.split("-")
    return (
        tuple(map(len, parts)) == UUID_PARTS
        and text.isascii()
        and all(part.isalnum() and not part.strip("0123456789abcdefABCDEF") for part in parts)
    )


class IdFactory:
    """New identifiers one after another, the same for the same seed."""

    def __init__(self, seed: int | str) -> None:
        self._seed = seed
        self.made = 0

    def _next(self, kind: str, size: int) -> bytes:
        self.made += 1
        return digest(self._seed, kind, self.made, size=size)

    def uuid(self) -> str:
        return uuid_text(self._next("uuid", 16))

    def opaque(self, size: int = 32) -> str:
        """An opaque lower-case hexadecimal identifier of ``size`` bytes."""
        return self._next("opaque", size).hex()

    def secret(self) -> bytes:
        """A signing key."""
        return self._next("secret", 24)

    def token(self) -> str:
        return "fake." + base64.urlsafe_b64encode(self._next("token", 30)).decode()


class SeededIds:
    """Identifiers of the items 0, 1, 2, ... of a lazy collection, each of which leads back to its index."""

    def __init__(self, *name: object) -> None:
        uuid_tag = uuid_text(digest("uuid", *name))
        self._uuid_tag = uuid_tag[:19]
        self._hex_tag = digest("hex", *name, size=24).hex()
        self._offset = int.from_bytes(digest("offset", *name, size=7), "big")

    def scatter(self, index: int) -> int:
        """62 bits that look like chance and name the index."""
        return ((index + self._offset) * _STEP) & _MASK

    def uuid(self, index: int) -> str:
        tail = f"{_VARIANT | self.scatter(index):016x}"
        return f"{self._uuid_tag}{tail[:4]}-{tail[4:]}"

    def hex(self, index: int) -> str:
        return f"{self._hex_tag}{self.scatter(index):016x}"

    def index_of_uuid(self, text: str) -> int | None:
        text = text.lower()
        if not text.startswith(self._uuid_tag) or len(text) != 36:
            return None
        return self._index(text[19:].replace("-", ""), _VARIANT)

    def index_of_hex(self, text: str) -> int | None:
        if not text.startswith(self._hex_tag) or len(text) != 64:
            return None
        return self._index(text[48:], 0)

    def _index(self, tail: str, variant: int) -> int | None:
        try:
            scattered = int(tail, 16) ^ variant
        except ValueError:
            return None
        return ((scattered * _BACK) - self._offset) & _MASK if scattered <= _MASK else None
