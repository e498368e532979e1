"""The report's pictures, as SVG text to stand inside a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from twotower_tf.index import curve

COLORS = {"model": "#2463c4", "popularity": "#c2762b", "random": "#8a8f98"}
_STYLE = {
    **curve.STYLE,
    "text.color": "#22262b",
    "axes.labelcolor": "#4a515a",
    "xtick.color": "#4a515a",
    "ytick.color": "#4a515a",
}


def curves(series: Mapping[str, Sequence[float]], ks: Sequence[int], metric: str) -> str:
    """One line per ranking: the metric at each k."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "curves"}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for name, values in series.items():
            axes.plot(ks, values, marker="o", label=name, color=COLORS[name], linewidth=2)
        axes.set(xlabel="k", ylabel=f"{metric}@k", ylim=(0, None), xticks=list(ks))
        axes.legend(frameon=False)
        return _svg(figure)


def bars(groups: Mapping[str, Mapping[str, Any]], metric: str) -> str:
    """For each slice with a query, the metric of the model beside popularity's."""
    shown = {name: group for name, group in groups.items() if group["metrics"]}
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "".join(shown)}):
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for offset, (label, key) in ((-0.2, ("model", "metrics")), (0.2, ("popularity", "popularity"))):
            places = [place + offset for place in range(len(shown))]
            heights = [group[key][metric] for group in shown.values()]
            drawn = axes.bar(places, heights, width=0.38, label=label, color=COLORS[label])
            axes.bar_label(drawn, fmt="%.3f", fontsize=8, color="#4a515a")
        axes.set(ylabel=metric, xticks=range(len(shown)), xticklabels=list(shown))
        axes.margins(y=0.12)  # room for the figures on the bars
        axes.grid(visible=False, axis="x")
        axes.legend(frameon=False)
        return _svg(figure)


def cosines(histogram: Mapping[str, Sequence[float]]) -> str:
    """How near random pairs of items, and of users, are to each other."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "cosines"}):
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for side, color in (("item", COLORS["model"]), ("user", COLORS["popularity"])):
            total = max(1, sum(histogram[side]))
            shares = [count / total for count in histogram[side]]
            axes.stairs(shares, histogram["edges"], label=f"{side} pairs", color=color, fill=True, alpha=0.45)
        axes.set(xlabel="cosine of two vectors", ylabel="share of pairs", xlim=(-1, 1))
        axes.legend(frameon=False)
        return _svg(figure)


def steps(series: Mapping[str, Sequence[float]], edges: Sequence[float], label: str, bins: Sequence[str] = ()) -> str:
    """One outline per kind: the share of its draws in each bin, named by `bins` or else by the edges."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, shares) in enumerate(series.items()):
            color = COLORS["model"] if place == 0 else None  # the positives stand out
            axes.stairs(shares, edges, label=name, color=color, fill=place == 0, alpha=0.35 if place == 0 else 1.0)
        axes.set(xlabel=label, ylabel="share of draws")
        if bins:
            axes.set_xticks([place + 0.5 for place in range(len(bins))], bins, rotation=40, ha="right", fontsize=8)
        axes.legend(frameon=False)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the XML head, which has no place inside HTML
