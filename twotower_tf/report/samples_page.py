"""What the samplers of a run really draw: figures for a terminal, and samples.html."""

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


def samples(config: ExperimentConfig, trained: ExperimentConfig, run_dir: Path) -> dict[str, Any]:
    """Draws what a training would draw, and writes samples.html.

    Args:
        config: whose samplers draw.
        trained: the run's own, of which its model is; where the run has one, it gives cosines and mined rankings.
        run_dir: a prepared run directory.

    Returns:
        schema_version, rows, trained, masked_share, kinds (figures of each), popularity and cosines (histograms of
        each), examples.

    Raises:
        ArtifactError: where the run is not prepared.
        ConfigError, DataError: where the samplers cannot be made.
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
        **histograms(view),
        "examples": examples(view, prepared),
    }
    artifacts.write_text(paths.samples, render(config.name, document))
    return document


def histograms(view: View) -> dict[str, Any]:
    """Shares of each kind's draws by popularity (0, 1, 2 to 3, 4 to 7, ...) and by cosine."""
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


def examples(view: View, prepared: Prepared) -> list[dict[str, Any]]:
    """Some rows with their positive and what each kind drew for them, by name."""
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


def render(name: str, document: dict[str, Any]) -> str:
    """The page's HTML text."""
    popularity, cosines = document["popularity"], document["cosines"]
    ticks = [
        f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}"
        for low, high in zip(popularity["edges"], popularity["edges"][1:], strict=False)
    ]
    return html_page.render(
        "samples.html.jinja",
        name=name,
        document=document,
        popularity=Markup(
            figures.steps(popularity["shares"], list(range(len(ticks) + 1)), "training positives", ticks)
        ),
        cosines=Markup(figures.steps(cosines["shares"], cosines["edges"], "cosine of user and item")),
    )
