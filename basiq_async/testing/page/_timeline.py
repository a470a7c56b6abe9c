"""Where the attempts of a message are drawn."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

# One step of Basiq's schedule after another, each as wide: on a straight scale the first four would be one mark.
_SCHEDULE: Sequence[tuple[float, str, bool]] = (
    (0, "0 s", True),
    (5, "5 s", False),
    (305, "5 min", True),
    (2105, "35 min", False),
    (9305, "2.6 h", True),
    (27305, "7.6 h", False),
    (63305, "18 h", True),
    (99305, "28 h", True),
)
_LEFT, _RIGHT = 4.0, 96.0


@attrs.frozen
class Mark:
    """One attempt on the line: ``x`` in percent, ``kind`` ok, failed, lost or due, and what it says."""

    x: float
    kind: str
    text: str


@attrs.frozen
class Tick:
    """One label of the scale. A narrow page shows only the important ones."""

    x: float
    label: str
    important: bool


def place(seconds: float) -> float:
    """Where on the line, in percent, something is that long after the message."""
    moments = [moment for moment, _, _ in _SCHEDULE]
    step = min(max(bisect_right(moments, seconds) - 1, 0), len(moments) - 2)
    share = (seconds - moments[step]) / (moments[step + 1] - moments[step])
    whole = (step + min(max(share, 0.0), 1.0)) / (len(moments) - 1)
    return round(_LEFT + whole * (_RIGHT - _LEFT), 2)


def ticks() -> Iterator[Tick]:
    """The scale."""
    return (Tick(place(seconds), label, important) for seconds, label, important in _SCHEDULE)


def marks(message: Mapping[str, Any]) -> Iterator[Mark]:
    """The attempts of a message, and the one that is to come."""
    created = datetime.fromisoformat(message["created"])
    for attempt in message["attempts"]:
        since = (datetime.fromisoformat(attempt["at"]) - created).total_seconds()
        kind = "ok" if attempt["ok"] else "lost" if attempt["status"] is None else "failed"
        shown = "no response" if attempt["status"] is None else str(attempt["status"])
        text = (
            f"Attempt {attempt['number']}, {describe(since)}: {shown}, {attempt['response']}, "
            f"{attempt['duration'] * 1000:.0f} ms"
        )
        yield Mark(place(since), kind, text)
    coming = message["nextAttempt"]
    if coming is not None:
        since = (datetime.fromisoformat(coming["due"]) - created).total_seconds()
        yield Mark(place(since), "due", f"Attempt {coming['number']} is due {describe(since)}")


def describe(seconds: float) -> str:
    """How long after the message."""
    if seconds < 1:
        return "at once"
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"after {seconds / size:.3g} {unit}"
    return f"after {seconds:.3g} s"
