"""Evaluates a trained run: ranks the catalogue for the held-out events and writes metrics.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf import artifacts
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import DataError
from twotower_tf.evaluate import baselines, collapse, protocol, slices
from twotower_tf.evaluate.protocol import Queries
from twotower_tf.evaluate.ranking import rank, rank_scores
from twotower_tf.features.arrays import EncodedData
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.progress import Progress, silent
from twotower_tf.train import tower_vectors
from twotower_tf.train.checkpoints import load_model

SCHEMA_VERSION = 1
_DIGITS = 6


def evaluate_run(config: ExperimentConfig, run_dir: Path, split: str, progress: Progress = silent) -> dict[str, Any]:
    """Evaluates the best model of a run on a held-out split.

    Args:
        config: the run's configuration.
        run_dir: run directory with prepared/ and checkpoints/; metrics.json is written to it.
        split: "valid" or "test".
        progress: receives the number of queries ranked.

    Returns:
        The content of metrics.json: schema_version, split, protocol, users, metrics, baselines, slices, collapse.

    Raises:
        ArtifactError: if the run is not prepared or not trained.
        DataError: if the split has no query, or the model diverged.
    """
    prepared = Prepared.open(run_dir)
    queries = protocol.build_queries(prepared, config.evaluation, split)
    if not len(queries):
        unseen = " that its user has not seen before" if queries.all_seen else ""
        raise DataError(
            f"{prepared.paths.examples(split)}: the {split} split has no positive event{unseen}; "
            "hold out more in data.split, or evaluate the other split"
        )
    encoded = EncodedData(config, prepared)
    model = load_model(config, run_dir)
    progress("vectors", 0, 0)
    items = tower_vectors.item_vectors(model, encoded, at=encoded.ranking_time(split))
    users = tower_vectors.user_vectors(model, encoded, split, queries.example_rows)
    document = compute_metrics(
        config, split, queries, items, users, prepared.train_count(), _activity(prepared), progress
    )
    paths = RunPaths(Path(run_dir))
    artifacts.write_json(paths.metrics, document)
    return document


def compute_metrics(
    config: ExperimentConfig,
    split: str,
    queries: Queries,
    items: npt.NDArray[np.float32],
    users: npt.NDArray[np.float32],
    train_count: npt.NDArray[np.int64],
    activity: npt.NDArray[np.int64],
    progress: Progress = silent,
) -> dict[str, Any]:
    """Ranks model and baselines, and computes the content of metrics.json.

    Args:
        config: the protocol, cut-offs and seed.
        split: the split of the queries.
        queries: the queries, at least one.
        items: [num_items, vector_dim] float32, unit length.
        users: [num_queries, vector_dim] float32, unit length.
        train_count: [num_items] int64, training positives of each item.
        activity: [num_users] int64, training positives of each user.
        progress: receives the number of queries ranked.
    """
    ks, seed, size = config.evaluation.ks, config.seed, len(items)
    model = rank(users, items, queries, ks, progress=progress)
    popular = rank_scores(
        baselines.popularity_scorer(train_count), size, queries, ks, progress=progress, stage="rank popularity"
    )
    chance = rank_scores(baselines.random_scorer(size, seed), size, queries, ks, progress=progress, stage="rank random")
    document = {
        "schema_version": SCHEMA_VERSION,
        "split": split,
        "protocol": {
            "query": config.evaluation.query,
            "exclude_seen": config.evaluation.exclude_seen,
            "ks": list(ks),
            "candidates": size,
            "queries": len(queries),
            "relevant": int(queries.relevant.counts.sum()),
            "queries_without_unseen_positive": queries.all_seen,
        },
        "users": len(np.unique(queries.user_rows)),
        "metrics": model.mean(),
        "baselines": {"popularity": popular.mean(), "random": chance.mean()},
        "slices": slices.compute_slices(model, popular, train_count, activity[queries.user_rows]),
        "collapse": collapse.measure_collapse(items, users, model.shown, train_count, seed),
    }
    rounded: dict[str, Any] = _rounded(document)
    return rounded


def _activity(prepared: Prepared) -> npt.NDArray[np.int64]:
    return np.diff(prepared.sequence_users("train"))


def _rounded(value: Any) -> Any:
    """Rounds the floats of a document to six digits."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, _DIGITS) if isinstance(value, float) else value
