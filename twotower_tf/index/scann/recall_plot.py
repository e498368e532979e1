"""Plots the trade-off of a tuned index: recall against queries per second."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

STYLE: dict[Any, Any] = {  # the report's pictures look like this too
    "svg.fonttype": "none",  # text stays text: small, sharp, and read aloud
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "axes.edgecolor": "#9aa1ab",
}
_MOST_LINES = 8


def draw(recall: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Draws SVG: a line per number of re-scored candidates over the partitions searched; a ring marks the choice."""
    import matplotlib
    from matplotlib.figure import Figure

    lines: dict[int, list[tuple[float, float]]] = {}
    for point in recall["curve"]:
        place = (point["recall"], 1e6 / max(point["microseconds"], 1e-3))
        lines.setdefault(point["reorder"], []).append(place)
    chosen = (parameters["reorder"], parameters["leaves_to_search"])
    rings = [(p["recall"], 1e6 / max(p["microseconds"], 1e-3)) for p in recall["curve"] if _setting(p) == chosen]
    near = sorted(lines, key=lambda reorder: abs(reorder - chosen[0]))[:_MOST_LINES]
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "recall"}):  # the same curve is the same file
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for reorder in sorted(near):
            xs, ys = zip(*sorted(lines[reorder]), strict=True)
            axes.plot(xs, ys, marker="o", markersize=3, linewidth=1.5, label=f"{reorder:,}")
        for x, y in rings:
            axes.plot([x], [y], marker="o", markersize=12, fillstyle="none", color="#22262b", linestyle="none")
        axes.axvline(recall["target"], color="#8a8f98", linewidth=1, linestyle="--")
        axes.set(xlabel=f"recall@{recall['k']}", ylabel="queries per second and core", yscale="log")
        axes.legend(frameon=False, title="candidates re-scored", fontsize=8, title_fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _setting(point: Mapping[str, Any]) -> tuple[int, int]:
    return point["reorder"], point["leaves_to_search"]
