"""What other folders use of a replay, beside its public names."""

from __future__ import annotations

from ._report import OnProgress
from ._sources import Source, message_of

__all__ = ["OnProgress", "Source", "message_of"]
