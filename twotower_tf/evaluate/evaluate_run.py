"""Evaluates a trained run: ranks the catalogue for the held-out events and writes metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf import artifacts
from twotower_tf.artifacts import METRICS_SCHEMA, RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import DataError
from twotower_tf.evaluate import baselines, collapse, feature_values, protocol, ranking_metrics, shown_users, slices
from twotower_tf.evaluate.baseline_names import label_ranking
from twotower_tf.evaluate.click_quality import measure_clicks
from twotower_tf.evaluate.feature_values import FeatureValues
from twotower_tf.evaluate.item_knn import item_knn_scorer
from twotower_tf.evaluate.item_map import make_map
from twotower_tf.evaluate.model_warnings import Facts, find_warnings
from twotower_tf.evaluate.protocol import Queries
from twotower_tf.evaluate.ranking import Scorer, rank, rank_scores
from twotower_tf.evaluate.recommended_lists import measure_lists, self_information
from twotower_tf.evaluate.score_distributions import measure_scores
from twotower_tf.features.arrays import EncodedData
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.progress import Progress, silent
from twotower_tf.train import tower_vectors
from twotower_tf.train.checkpoints import load_model

_DIGITS = 6


def evaluate_run(
    config: ExperimentConfig, run_dir: Path, split: str, progress: Progress = silent, *, results: Path | None = None
) -> dict[str, Any]:
    """Evaluates the best model of a run on a held-out split; writes metrics.json and item_map.json.

    Args:
        config: the run's configuration.
        run_dir: run directory with prepared/ and checkpoints/.
        split: "valid" or "test".
        progress: receives the number of queries ranked.
        results: run directory to which they are written, with the train.json of the validation run; None: `run_dir`.

    Returns:
        The content of metrics.json: schema_version, split, protocol, trained_on, users, metrics, intervals (95 %,
        clustered by user), baselines, lists (novelty, diversity and coverage of each ranking), slices, collapse, scores
        (of held-out and of random items), clicks (of a loss with a probability on labelled rows), warnings, examples.

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
    progress("item-KNN", 0, 0)
    compared = {"item_knn": item_knn_scorer(prepared, queries, split, run_dir)}
    recent = baselines.count_recent(prepared, config.evaluation.recent_days)
    if recent:
        compared = {"recent_popularity": baselines.popularity_scorer(recent[0]), **compared}
    document = compute_metrics(
        config, split, queries, items, users, prepared.train_count(), _activity(prepared),
        {name: scorer for name, scorer in compared.items() if scorer is not None},
        _read_features(config, prepared, split, queries), progress,
    )  # fmt: skip
    if recent:
        document["protocol"]["recent_days"] = _rounded(recent[1])
    if clicks := measure_clicks(config, model, prepared, encoded, split, items):
        document["clicks"] = _rounded(clicks)
    paths = RunPaths(Path(results or run_dir))
    trained_on = {
        "splits": list(config.data.trained_splits),
        "positives": prepared.num_positives("train"),
        "epochs": _read(RunPaths(Path(run_dir)).train).get("best_epoch"),
    }
    document["trained_on"] = trained_on
    facts = Facts(config, document, _read(paths.train), _read(prepared.paths.columns))
    document["warnings"] = find_warnings(facts)
    document["examples"] = shown_users.collect_users(prepared, queries, split, items, users)
    artifacts.write_text(paths.item_map, artifacts.format_json(make_map(config, prepared, items)) + "\n")
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
    others: Mapping[str, Scorer],
    features: Sequence[FeatureValues] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Ranks model and baselines, and computes the content of metrics.json but warnings and examples.

    Args:
        config: the protocol, cut-offs and seed.
        split: the split of the queries.
        queries: the queries, at least one.
        items: [num_items, vector_dim] float32, unit length.
        users: [num_queries, vector_dim] float32, unit length.
        train_count: [num_items] int64, training positives of each item.
        activity: [num_users] int64, training positives of each user.
        others: scores of baselines by name, in addition to popularity and random lists.
        features: values of features by query or item, for slices.
        progress: receives the number of queries ranked.
    """
    ks, seed, size = config.evaluation.ks, config.seed, len(items)
    bits = self_information(train_count)
    model = rank(users, items, queries, ks, progress=progress)
    scorers = {
        "popularity": baselines.popularity_scorer(train_count), **others, "random": baselines.random_scorer(size, seed)
    }  # fmt: skip
    rankings = {
        name: rank_scores(scorer, size, queries, ks, progress=progress, stage=f"rank {label_ranking(name)}")
        for name, scorer in scorers.items()
    }
    document = {
        "schema_version": METRICS_SCHEMA,
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
        "intervals": ranking_metrics.intervals(model.per_query(), queries.user_rows),
        "baselines": {name: ranking.mean() for name, ranking in rankings.items()},
        "lists": {name: measure_lists(each.top, items, bits) for name, each in {"model": model, **rankings}.items()},
        "slices": slices.compute_slices(model, rankings["popularity"], queries, train_count, activity, features),
        "collapse": collapse.measure_collapse(items, users, model.shown, train_count, seed),
        "scores": measure_scores(items, users, queries, seed),
    }
    rounded: dict[str, Any] = _rounded(document)
    return rounded


def _read(path: Path) -> dict[str, Any]:
    return artifacts.read_json(path, "run directory") if path.is_file() else {}


def _read_features(config: ExperimentConfig, prepared: Prepared, split: str, queries: Queries) -> list[FeatureValues]:
    """Reads the values of `evaluation.slices`; a column of both sides is in two slices."""
    of_user, of_item = (
        {column.name: column for column in feature_values.list_columns(config, side)} for side in ("user", "item")
    )
    found = []
    for name in config.evaluation.slices:
        if name in of_user:
            rows = queries.example_rows
            found.append(feature_values.read_user_values(prepared, of_user[name], split, rows))
        if name in of_item:
            found.append(feature_values.read_item_values(prepared, of_item[name]))
    return found


def _activity(prepared: Prepared) -> npt.NDArray[np.int64]:
    return np.diff(prepared.sequence_users("train"))


def _rounded(value: Any) -> Any:
    """Rounds the floats of a document to six digits."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(value, _DIGITS) if isinstance(value, float) else value
