"""Draw the plots of the README and of docs/performance.md from the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from benchmarks._harness import Figure

matplotlib.use("svg")

from matplotlib import pyplot  # imported after the choice above

_PLOTS = Path(__file__).parents[1] / "docs" / "plots"


def draw(figures: Sequence[Figure]) -> None:
    """Write one SVG file for each question."""
    _PLOTS.mkdir(parents=True, exist_ok=True)
    # With a fixed seed and date, files change only if a figure does.
    pyplot.rcParams.update({"svg.hashsalt": "basiq_async", "font.size": 9})
    streaming = [one for one in figures if one.name.startswith("streaming") and one.name.endswith("raw loop")]
    _bars("throughput", "messages a second, the raw loop of aiohttp and json = 1", streaming, ": ", ", to the raw loop")
    _bars("imports", "time of an import", [one for one in figures if one.name.startswith("import")], ": ", "")
    _bars(
        "prefetch",
        "prefetch=1 beside prefetch=0",
        [one for one in figures if one.name.startswith("prefetch")],
        ": ",
        "",
    )
    peaks = [one for one in figures if one.name.startswith("memory: peak at")]
    axes = _axes("peak memory over the length of a history", 2.4)
    lengths = [int(one.name.partition("peak at ")[2].partition(" ")[0].replace(",", "")) for one in peaks]
    axes.semilogx(lengths, [one.value for one in peaks], "o-")
    axes.set_ylim(0)
    axes.set_xlabel("messages")
    axes.set_ylabel("MiB")
    _save("memory")


def _bars(name: str, title: str, figures: Sequence[Figure], after: str, before: str) -> None:
    labels = [one.name.partition(after)[2].removesuffix(before) for one in figures]
    axes = _axes(title, 0.6 + 0.3 * len(figures))
    values = [one.value for one in figures]
    spread = ([one.value - one.low for one in figures], [one.high - one.value for one in figures])
    colours = ["tab:blue" if "basiq" in label else "tab:gray" for label in labels]
    axes.barh(labels, values, xerr=spread, color=colours, error_kw={"linewidth": 0.8})
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    _save(name)


def _axes(title: str, height: float) -> pyplot.Axes:
    _, axes = pyplot.subplots(figsize=(7.5, height), layout="constrained")
    axes.set_title(title)
    return axes


def _save(name: str) -> None:
    pyplot.savefig(_PLOTS / f"{name}.svg", metadata={"Date": None})
    pyplot.close()
