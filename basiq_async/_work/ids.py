"""A set of ids that can be very large: 16 bytes an id, and a few more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

_MOST_IN_BUCKET = 128
_MOST_BUCKETS = 65_536
_EMPTY = blake2b(digest_size=16)


def digest_of(text: str) -> bytes:
    """Return the 16 bytes by which ``IdSet`` knows an id."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # to pass "surrogatepass" always would take as long as the digest
        encoded = text.encode("utf-8", "surrogatepass")
    found = _EMPTY.copy()  # faster than to make one
    found.update(encoded)
    return found.digest()


class IdSet:
    """A set of digests of ids (see ``digest_of``): 19 bytes each in a large set. They are spread over buckets of bytes.

    A digest is random, so it decides the bucket, and it is found in a bucket at no other place than its own.
    """

    def __init__(self) -> None:
        self._buckets = [bytearray()]
        self._shift = 16
        """The first two bytes of a digest, shifted by so many bits, are the number of its bucket."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, digests: Iterable[bytes]) -> None:
        """Add digests that are not in the set yet."""
        added = list(digests)
        self._count += len(added)
        while self._count > _MOST_IN_BUCKET * len(self._buckets) and len(self._buckets) < _MOST_BUCKETS:
            self._split()
        buckets, shift = self._buckets, self._shift
        for each in added:
            buckets[(each[0] << 8 | each[1]) >> shift] += each

    def known(self, digests: Sequence[bytes]) -> list[bool]:
        """Return for each digest whether it is in the set."""
        if not self._count:
            return [False] * len(digests)
        buckets, shift = self._buckets, self._shift
        # ``in`` would first make an error of each digest, because it is no number.
        return [buckets[(each[0] << 8 | each[1]) >> shift].find(each) >= 0 for each in digests]

    def _split(self) -> None:
        """Make four buckets of each."""
        former, self._shift = self._buckets, self._shift - 2
        shift, split = self._shift, [bytearray() for _ in range(4 * len(former))]
        for number, bucket in enumerate(former):
            former[number] = bytearray()  # freed as it goes
            for place in range(0, len(bucket), 16):
                each = bucket[place : place + 16]
                split[(each[0] << 8 | each[1]) >> shift] += each
        self._buckets = split
