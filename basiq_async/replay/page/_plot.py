"""The rate of a replay over time, as the points of a line."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

WIDTH, HEIGHT = 600, 120


@attrs.frozen
class Plot:
    """``points`` is for a polyline within 600 by 120; ``top`` the rate at its upper edge, ``seconds`` its length."""

    points: str
    area: str
    top: float
    seconds: float


def draw(rates: Sequence[tuple[float, float]]) -> Plot | None:
    """The plot of these moments and rates; None where there are not two yet."""
    if len(rates) < 2:
        return None
    first, last = rates[0][0], rates[-1][0]
    top = max(max(rate for _, rate in rates), 1.0)
    points = " ".join(
        f"{(at - first) / max(last - first, 1e-9) * WIDTH:.1f},{HEIGHT - rate / top * (HEIGHT - 4):.1f}"
        for at, rate in rates
    )
    return Plot(points, f"0,{HEIGHT} {points} {WIDTH},{HEIGHT}", top, last - first)
