"""Measures what the samplers of a run draw, and writes samples.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from twotower_tf import artifacts
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.features.arrays import EncodedData
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.report import figures, html_page
from twotower_tf.train.batches import Batches
from twotower_tf.train.checkpoints import load_model
from twotower_tf.train.mining import rank
from twotower_tf.train.sampling_stats import COSINE_EDGES, POSITIVES, View, look

SCHEMA_VERSION = 1

_ROWS = 20_000
_EXAMPLES = 6
_SHOWN = 4  # items of each kind in an example
_DIGITS = 6


def write_samples(config: ExperimentConfig, trained: ExperimentConfig, run_dir: Path) -> dict[str, Any]:
    """Draws the negatives of a training, and writes samples.html.

    Args:
        config: configuration of the samplers.
        trained: configuration of the run's model; if there is a model, it gives cosines and mined rankings.
        run_dir: a prepared run directory.

    Returns:
        schema_version, rows, trained, masked_share, kinds (statistics of each), popularity and cosines (histograms of
        each), examples.

    Raises:
        ArtifactError: if the run is not prepared.
        ConfigError, DataError: if the samplers cannot be built.
    """
    prepared = Prepared.open(run_dir)
    encoded = EncodedData(config, prepared)
    batches = Batches(config, prepared, encoded)
    paths = RunPaths(Path(run_dir))
    model = load_model(trained, run_dir) if paths.checkpoints.exists() else None
    if model is not None and batches.samplers.mined is not None:
        rank(model, encoded, batches.samplers.mined)
    view = look(batches, encoded, model, rows=_ROWS)
    document = {
        "schema_version": SCHEMA_VERSION,
        "rows": len(view.own),
        "trained": model is not None,
        "masked_share": None if view.masked_share is None else round(view.masked_share, _DIGITS),
        "kinds": {
            name: {key: round(value, _DIGITS) if isinstance(value, float) else value for key, value in kind.items()}
            for name, kind in view.figures().items()
        },
        **compute_histograms(view),
        "examples": collect_examples(view, prepared),
    }
    artifacts.write_text(paths.samples, render_samples(config.name, document))
    return document


def compute_histograms(view: View) -> dict[str, Any]:
    """Computes histograms of each kind's draws by popularity (0, 1, 2 to 3, 4 to 7, ...) and by cosine."""
    top = int(max(view.counts.max(initial=1), 1))
    edges = [0, 1, *(2**power for power in range(1, top.bit_length() + 1))]
    shares = {
        name: _shares(np.histogram(view.counts[kind.items], np.array(edges) - 0.5)[0])
        for name, kind in view.kinds.items()
    }
    cosines = {
        name: _shares(np.histogram(np.clip(kind.cosines, -1, 1), COSINE_EDGES)[0])
        for name, kind in view.kinds.items()
        if kind.cosines is not None
    }
    return {
        "popularity": {"edges": edges, "shares": shares},
        "cosines": {"edges": [round(float(edge), 3) for edge in COSINE_EDGES], "shares": cosines},
    }


def _shares(counts: np.ndarray) -> list[float]:
    return [round(float(count) / max(1, int(counts.sum())), _DIGITS) for count in counts]


def collect_examples(view: View, prepared: Prepared) -> list[dict[str, Any]]:
    """Collects some rows with their positive and the negatives drawn for them, by name."""
    items, users = prepared.items(["item_id", "item_name"]), prepared.user_ids()
    named: list[dict[str, Any]] = []
    for row in np.linspace(0, len(view.own) - 1, min(_EXAMPLES, len(view.own))).astype(int):
        drawn: dict[str, list[dict[str, Any]]] = {}
        for name, kind in view.kinds.items():
            first, last = np.searchsorted(kind.places, [row, row + 1])
            drawn[name] = []
            for at in range(first, min(last, first + _SHOWN)):
                item = int(kind.items[at])
                shown = {"id": items["item_id"][item].as_py(), "name": items["item_name"][item].as_py()}
                cosine = None if kind.cosines is None else round(float(kind.cosines[at]), 3)
                drawn[name].append({**shown, "train_count": int(view.counts[item]), "cosine": cosine})
        named.append({"user": users[view.users[row]], "positive": drawn.pop(POSITIVES)[0], "negatives": drawn})
    return named


def render_samples(name: str, document: dict[str, Any]) -> str:
    """Renders the page to HTML text."""
    popularity, cosines = document["popularity"], document["cosines"]
    ticks = [
        f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}"
        for low, high in zip(popularity["edges"], popularity["edges"][1:], strict=False)
    ]
    return html_page.render_template(
        "samples.html.jinja",
        name=name,
        document=document,
        popularity=Markup(
            figures.draw_histograms(popularity["shares"], list(range(len(ticks) + 1)), "training positives", ticks)
        ),
        cosines=Markup(figures.draw_histograms(cosines["shares"], cosines["edges"], "cosine of user and item")),
    )
