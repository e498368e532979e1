"""Validates the model between epochs of training."""

from __future__ import annotations

from collections.abc import Callable

from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import DataError
from twotower_tf.evaluate import protocol
from twotower_tf.evaluate.ranking import rank
from twotower_tf.features.arrays import EncodedData
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import tower_vectors


def make_validator(
    config: ExperimentConfig, prepared: Prepared, encoded: EncodedData
) -> Callable[[TwoTower], dict[str, float]] | None:
    """Builds the queries of the validation split, and returns the function that evaluates a model on them.

    Returns:
        A function from a model to its metrics ("recall@20", ...), with the protocol and ranking of `evaluate_run`;
        None if the validation split has no query and `train.monitor` is empty.

    Raises:
        DataError: if `train.monitor` is set and the validation split has no query.
    """
    queries = protocol.build_queries(prepared, config.evaluation, "valid")
    if not len(queries):
        if config.train.monitor:
            raise DataError(
                f"train.monitor: invalid value {config.train.monitor!r} for a validation split without an unseen "
                "positive; enlarge the validation split in data.split, or keep the last epoch with --set train.monitor="
            )
        return None

    def validate(model: TwoTower) -> dict[str, float]:
        items = tower_vectors.item_vectors(model, encoded, at=encoded.ranking_time("valid"))
        users = tower_vectors.user_vectors(model, encoded, "valid", queries.example_rows)
        return rank(users, items, queries, config.evaluation.ks).mean()

    return validate
