"""Judges the model between two epochs of training."""

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


def validator(
    config: ExperimentConfig, prepared: Prepared, encoded: EncodedData
) -> Callable[[TwoTower], dict[str, float]] | None:
    """Prepares the validation split's queries once.

    Returns:
        A function from a model to its metrics on them ("recall@20", ...), by the same protocol and ranking as
        `evaluate`; None where the validation split has no positive to ask for and `train.monitor` asks for none.

    Raises:
        DataError: where `train.monitor` has nothing to judge by.
    """
    queries = protocol.queries(prepared, config.evaluation, "valid")
    if not len(queries):
        if config.train.monitor:
            raise DataError(
                "the validation part has no positive that could be asked for, so that "
                f"train.monitor={config.train.monitor!r} can choose no epoch; give data.split a larger validation "
                "part, or keep the last epoch with --set train.monitor="
            )
        return None

    def validate(model: TwoTower) -> dict[str, float]:
        items = tower_vectors.item_vectors(model, encoded, at=encoded.ranking_time("valid"))
        users = tower_vectors.user_vectors(model, encoded, "valid", queries.example_rows)
        return rank(users, items, queries, config.evaluation.ks).mean()

    return validate
