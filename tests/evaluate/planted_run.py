"""A run whose towers answer planted vectors, for tests of `evaluate_run` and of its report."""

import numpy as np

from twotower_tf.config import CosineLogitBCE, DataConfig, EvaluationConfig, ExperimentConfig, Hash
from twotower_tf.evaluate import evaluate_run, validation

CONFIG = ExperimentConfig(
    name="small",
    data=DataConfig(),
    item_features=(Hash("item_id", 100),),
    user_features=(Hash("user_id", 100),),
    loss=CosineLogitBCE(),
    evaluation=EvaluationConfig(ks=(1, 5, 20)),
)


def unit(rng, count, dim):
    vectors = rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class FakeEncoded:
    """Encoded data whose splits begin at known times."""

    times = {"valid": 80, "test": 90}

    def ranking_time(self, split):
        return self.times[split]


def plant_run(monkeypatch, world):
    """Plants one vector per item, and one per example row of each split.

    Returns them, and the times as of which item vectors are asked for.
    """
    rng = np.random.default_rng(2)
    items = unit(rng, world.num_items, 4)
    users = {split: unit(rng, max(1, len(world.splits[split])), 4) for split in ("valid", "test")}
    times = []

    def item_vectors(model, encoded, *, at):
        times.append(at)
        return items

    for place in (evaluate_run, validation):
        monkeypatch.setattr(place.tower_vectors, "item_vectors", item_vectors)
        monkeypatch.setattr(place.tower_vectors, "user_vectors", lambda model, encoded, split, rows: users[split][rows])
    monkeypatch.setattr(evaluate_run.Prepared, "open", lambda run_dir: world)
    monkeypatch.setattr(evaluate_run, "EncodedData", lambda config, prepared: FakeEncoded())
    monkeypatch.setattr(evaluate_run, "load_model", lambda config, run_dir: None)
    return items, users, times
