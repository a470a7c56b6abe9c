"""What the command line and telemetry use of a replay."""

from __future__ import annotations

from ._sources import Source, message_of

__all__ = ["Source", "message_of"]
