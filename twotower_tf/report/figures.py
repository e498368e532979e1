"""Draws the figures of the pages as inline SVG, with colours that follow the page's light or dark theme."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from twotower_tf.evaluate.baseline_names import label_ranking
from twotower_tf.evaluate.slices import MISSING, OTHER
from twotower_tf.index.scann import recall_plot

# Colours drawn by matplotlib, which are replaced by the CSS variables of page.css.jinja, so that they follow the theme.
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
COLORS = {
    "model": _SERIES[0],
    "popularity": _SERIES[1],
    "recent_popularity": _SERIES[4],
    "item_knn": _SERIES[2],
    "random": _SERIES[-1],
}
_STATES = {"finished": _SERIES[0], "pruned": _SERIES[1], "failed": _SERIES[5]}  # of trials
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)))  # distinguishes series without colours
_LONGEST_NAME = 20  # of a value in a legend
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


def draw_curves(
    series: Mapping[str, Sequence[float]], ks: Sequence[int], metric: str, band: Sequence[Sequence[float]] = ()
) -> str:
    """Draws the metric at each k, one line per ranking; the band has lower and upper bounds of the model's."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "curves"}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        if band:
            low, high = zip(*band, strict=True)
            axes.fill_between(ks, low, high, color=COLORS["model"], alpha=0.2, linewidth=0)
        for name, values in series.items():
            axes.plot(ks, values, marker="o", label=label_ranking(name), color=COLORS[name], linewidth=2)
        axes.set(xlabel="k", ylabel=f"{metric}@k", ylim=(0, None), xticks=list(ks))
        _legend(figure)
        return _svg(figure)


def draw_training(history: Sequence[Mapping[str, float]], monitor: str, best_epoch: int) -> str:
    """Draws the training loss and the validation metric by epoch; the best epoch is marked."""
    validated = [each for each in history if monitor and monitor in each]
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "training"}):
        figure = Figure(figsize=(6.4, 4.2 if validated else 2.4), layout="constrained")
        panels = figure.subplots(2 if validated else 1, sharex=True, squeeze=False)[:, 0]
        epochs = [each["epoch"] for each in history]
        panels[-1].plot(epochs, [each["loss"] for each in history], marker=".", color=COLORS["popularity"])
        panels[-1].set(xlabel="epoch", ylabel="training loss")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panels[-1].set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        if validated:
            values = [each[monitor] for each in validated]
            panels[0].plot([each["epoch"] for each in validated], values, marker=".", color=COLORS["model"])
            panels[0].set_ylabel(f"validation {monitor}")
        for axes in panels:
            axes.axvline(best_epoch, color=_INK, linestyle="dashed", linewidth=1)
        panels[0].set_title(f"best epoch: {best_epoch}", fontsize=10, color=_INK)
        return _svg(figure)


def draw_bars(groups: Mapping[str, Mapping[str, Any]], metric: str) -> str:
    """Draws the metric of the model and of the popularity baseline for each slice with queries."""
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
        axes.margins(y=0.12)  # room for the labels on the bars
        axes.grid(visible=False, axis="x")
        _legend(figure)
        return _svg(figure)


def draw_cosines(histogram: Mapping[str, Sequence[float]], labels: Mapping[str, str], ylabel: str) -> str:
    """Draws histograms of cosines, one by label of `labels` (names of counts), as shares of their sum."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "".join(labels)}):
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for (name, label), color in zip(labels.items(), _SERIES, strict=False):
            total = max(1, sum(histogram[name]))
            shares = [count / total for count in histogram[name]]
            axes.stairs(shares, histogram["edges"], label=label, color=color, fill=True, alpha=0.45)
        axes.set(xlabel="cosine of two vectors", ylabel=ylabel, xlim=(-1, 1))
        axes.yaxis.set_major_formatter(_PERCENT)
        _legend(figure)
        return _svg(figure)


def draw_map(item_map: Mapping[str, Any]) -> str:
    """Draws items as points in two dimensions, by the colours of their values; see `evaluate.item_map.make_map`."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "map"}):
        figure = Figure(figsize=(6.4, 5.4), layout="constrained")
        axes = figure.add_subplot()
        for place, name in enumerate(item_map["names"]):
            shown = [(x, y) for x, y, code in item_map["points"] if code == place]
            color = _SERIES[-1] if name in (OTHER, MISSING) else _SERIES[place % len(_SERIES)]
            if shown:
                xs, ys = zip(*shown, strict=True)
                hollow: dict[str, Any] = {"facecolors": "none"} if name == MISSING else {"linewidths": 0}
                label = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
                label = label.replace("$", r"\$")  # no mathematics
                axes.scatter(xs, ys, s=12, label=label, alpha=0.7, color=color, **hollow)
        shares = [f"{100 * share:.0f} %" for share in item_map["explained"]]
        axes.set(xlabel=f"first axis ({shares[0]} of the variance)", ylabel=f"second axis ({shares[1]})")
        axes.set_aspect("equal", adjustable="datalim")
        _legend(figure, markerscale=2.0)
        return _svg(figure)


def draw_histograms(
    series: Mapping[str, Sequence[float]], edges: Sequence[float], label: str, bins: Sequence[str] = ()
) -> str:
    """Draws the share of draws in each bin, one outline per kind; bins are labelled by `bins` or by the edges."""
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


def draw_trials(trials: Sequence[Mapping[str, Any]], metric: str, best: int) -> str:
    """Draws the value of each trial of a search, and the best finished one so far."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "trials"}):
        figure = Figure(figsize=(6.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for state, color in _STATES.items():
            shown = [each for each in trials if each["state"] == state and each["value"] is not None]
            places = [each["number"] for each in shown]
            axes.scatter(places, [each["value"] for each in shown], label=state, color=color, s=16)
        finished = [each for each in trials if each["state"] == "finished"]
        values = [each["value"] for each in finished]
        steps = [max(values[: place + 1]) for place in range(len(values))]
        axes.step([each["number"] for each in finished], steps, where="post", color=_INK, linewidth=1)
        axes.axvline(best, color=_INK, linestyle="dashed", linewidth=1)
        axes.set(xlabel="trial", ylabel=f"validation {metric}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure)
        return _svg(figure)


def draw_fields(trials: Sequence[Mapping[str, Any]], fields: Sequence[str], metric: str, best: int) -> str:
    """Draws the value of each trial by each searched field, logarithmic where values span more than a decade."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "fields"}):
        figure = Figure(figsize=(6.4, 2.2 * -(-len(fields) // 2)), layout="constrained")
        panels = figure.subplots(-(-len(fields) // 2), 2, squeeze=False, sharey=True).flat
        for axes, field in zip(panels, fields, strict=False):
            shown = [each for each in trials if each["value"] is not None and field in each["values"]]
            found = [each["values"][field] for each in shown]
            numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
            if not numbers:
                found = [str(value) for value in found]
            elif found and min(found) > 0 and max(found) > 10 * min(found):
                axes.set_xscale("log")
            for state, color in _STATES.items():
                pairs = [(at, each["value"]) for at, each in zip(found, shown, strict=True) if each["state"] == state]
                axes.scatter([at for at, _ in pairs], [value for _, value in pairs], color=color, s=12)
            marked = [(at, each["value"]) for at, each in zip(found, shown, strict=True) if each["number"] == best]
            axes.scatter(*zip(*marked, strict=True), facecolors="none", edgecolors=_INK, s=60)
            axes.set_xlabel(field, fontsize=8)
            axes.tick_params(labelsize=7)
        for axes in panels:  # those without a field
            axes.set_visible(False)
        figure.supylabel(f"validation {metric}", fontsize=9, color=_SOFT)
        return _svg(figure)


def draw_trial_curves(trials: Sequence[Mapping[str, Any]], metric: str, best: int) -> str:
    """Draws the metric by epoch of each trial of a search; the best one stands out."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "trial curves"}):
        figure = Figure(figsize=(6.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for each in sorted(trials, key=lambda trial: trial["number"] == best):
            chosen = each["number"] == best
            epochs, color = [int(epoch) for epoch in each["curve"]], _SERIES[0] if chosen else _SERIES[-1]
            values = [*each["curve"].values()]
            axes.plot(
                epochs, values, marker=".", color=color, alpha=1.0 if chosen else 0.5, linewidth=2 if chosen else 1
            )
        axes.set(xlabel="epoch", ylabel=f"validation {metric}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure)


def _legend(figure: Figure, markerscale: float = 1.0) -> None:
    """Adds the legend above the axes."""
    figure.legend(frameon=False, loc="outside upper center", ncols=4, markerscale=markerscale)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    for color, name in _PAGE.items():
        text = text.replace(color, f"var({name})")
    return text[text.index("<svg") :]  # without the XML declaration, which is not allowed inside HTML
