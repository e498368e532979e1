"""Renders the page of a hyper-parameter search."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from twotower_tf.report import figures, html_page


def render_search(document: dict[str, Any]) -> str:
    """Renders tune.html: all trials in a table, and figures of their values, fields and validation curves.

    Args:
        document: the content of tune.json.
    """
    trials, metric, best = document["trials"], document["monitor"], document["best"]
    pictures = {
        "trials": figures.draw_trials(trials, metric, best),
        "fields": figures.draw_fields(trials, list(document["space"]), metric, best),
        "curves": figures.draw_trial_curves(trials, metric, best),
    }
    ordered = sorted(trials, key=lambda trial: (_order(trial), trial["number"]))
    return html_page.render_template(
        "search.html.jinja",
        document=document,
        best=next(trial for trial in trials if trial["number"] == best),
        trials=ordered,
        counts={state: sum(trial["state"] == state for trial in trials) for state in ("finished", "pruned", "failed")},
        pictures={label: Markup(text) for label, text in pictures.items()},
    )


def _order(trial: dict[str, Any]) -> tuple[int, float]:
    """Orders finished trials first, by value, then pruned ones, then the others."""
    place = ("finished", "pruned").index(trial["state"]) if trial["state"] in ("finished", "pruned") else 2
    return place, -(trial["value"] or 0.0)
