"""The pages' pictures, as SVG text to stand inside a page, in the colours that the page has by day and by night."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from twotower_tf.index.scann import recall_plot

# what is drawn in these colours is given the page's (page.css.jinja)
_PAGE = {
    "#22262b": "--ink",
    "#4a515a": "--soft",
    "#e4e7eb": "--line",
    "#2463c4": "--one",
    "#b8651b": "--two",
    "#1b8a6b": "--three",
    "#a2408f": "--four",
    "#7d6608": "--five",
    "#c0392b": "--six",
    "#4f8fb0": "--seven",
    "#6b52b5": "--eight",
    "#868c95": "--rest",
}
_INK, _SOFT, _LINE, *_SERIES = _PAGE
COLORS = {"model": _SERIES[0], "popularity": _SERIES[1], "random": _SERIES[-1]}
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)))  # for eyes that do not tell the colours apart
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:g} %")
_STYLE = {
    **recall_plot.STYLE,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "grid.color": _LINE,
    "axes.edgecolor": _SOFT,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
}


def curves(series: Mapping[str, Sequence[float]], ks: Sequence[int], metric: str) -> str:
    """One line per ranking: the metric at each k."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "curves"}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for name, values in series.items():
            axes.plot(ks, values, marker="o", label=name, color=COLORS[name], linewidth=2)
        axes.set(xlabel="k", ylabel=f"{metric}@k", ylim=(0, None), xticks=list(ks))
        _legend(figure)
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
            axes.bar_label(drawn, fmt="%.3f", fontsize=8, color=_SOFT)
        axes.set(ylabel=metric, xticks=range(len(shown)), xticklabels=list(shown))
        axes.margins(y=0.12)  # room for the figures on the bars
        axes.grid(visible=False, axis="x")
        _legend(figure)
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
        axes.yaxis.set_major_formatter(_PERCENT)
        _legend(figure)
        return _svg(figure)


def steps(series: Mapping[str, Sequence[float]], edges: Sequence[float], label: str, bins: Sequence[str] = ()) -> str:
    """One outline per kind: the share of its draws in each bin, named by `bins` or else by the edges."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, shares) in enumerate(series.items()):
            color, first = _SERIES[place % len(_SERIES)], place == 0  # the positives stand out
            dashes = "solid" if first else _DASHES[place % len(_DASHES)]
            axes.stairs(
                shares,
                edges,
                label=name,
                color=color,
                fill=first,
                alpha=0.35 if first else 1.0,
                linestyle=dashes,
                linewidth=1.5,
            )
        axes.set(xlabel=label, ylabel="share of draws")
        axes.yaxis.set_major_formatter(_PERCENT)
        if bins:
            axes.set_xticks([place + 0.5 for place in range(len(bins))], bins, rotation=40, ha="right", fontsize=8)
        _legend(figure)
        return _svg(figure)


def _legend(figure: Figure) -> None:
    """Above what is drawn, never over it."""
    figure.legend(frameon=False, loc="outside upper center", ncols=4)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    for color, name in _PAGE.items():
        text = text.replace(color, f"var({name})")
    return text[text.index("<svg") :]  # without the XML head, which has no place inside HTML
