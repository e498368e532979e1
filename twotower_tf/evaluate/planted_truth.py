"""Ranks by the true preferences of a synthetic log: the best that any model can reach on it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from twotower_tf.config import ExperimentConfig
from twotower_tf.evaluate import protocol, ranking
from twotower_tf.prepare.prepared import Prepared


def best_recall(config: ExperimentConfig, run_dir: Path, truth: Path, k: int) -> float:
    """Returns recall@k on the test split of a ranking by `truth.npz`, the preferences that the log was drawn from.

    Raises:
        ArtifactError: where `run_dir` is not prepared.
        KeyError: where the log has an id that `truth` does not know.
    """
    prepared = Prepared.open(run_dir)
    queries = protocol.build_queries(prepared, config.evaluation, "test")
    with np.load(truth) as known:
        items = np.column_stack([known["item_vector"], known["item_bias"]])
        users = np.column_stack([known["user_vector"], np.ones(len(known["user_id"]), np.float32)])
        item_rows = _find_rows(known["item_id"], prepared.item_ids())
        user_rows = _find_rows(known["user_id"], prepared.user_ids()[queries.user_rows])
    return float(ranking.rank(users[user_rows], items[item_rows], queries, (k,)).mean()[f"recall@{k}"])


def _find_rows(ids: Iterable[Any], wanted: Iterable[Any]) -> list[int]:
    rows = {str(name): row for row, name in enumerate(ids)}
    return [rows[str(name)] for name in wanted]
