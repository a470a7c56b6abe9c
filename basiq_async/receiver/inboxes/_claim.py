"""What a claim came to."""

from __future__ import annotations

import enum

import attrs

__all__ = ["Claim", "ClaimStatus"]


class ClaimStatus(enum.Enum):
    """Whose turn it is."""

    CLAIMED = "claimed"
    """Yours: handle it, then complete or release it."""
    DONE = "done"
    """It has been handled, or is in the quarantine."""
    BUSY = "busy"
    """Another worker is handling it."""


@attrs.frozen
class Claim:
    """The result of a claim.

    Where it is BUSY, ``retry_after`` is the number of seconds after which to ask again: what remains of the other
    worker's lease. ``holder`` is that worker's token, or None where the inbox does not know it.
    """

    status: ClaimStatus
    retry_after: float = 0.0
    holder: str | None = None
