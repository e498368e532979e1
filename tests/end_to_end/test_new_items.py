"""Items of the catalogue that no training row has are found by their features, far above chance.

Chance is exact: of N items of which a user has seen s, a random order has each other one among its first k with chance
k / (N - s). The synthetic log has an oracle, too: the ranking by the true preferences that it was drawn from.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import command
from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig, GivenSplit
from twotower_tf.datasets.synthetic import write_synthetic_log
from twotower_tf.evaluate import protocol, ranking
from twotower_tf.evaluate.planted_truth import best_recall
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import tower_vectors, training_loop
from twotower_tf.train.checkpoints import load_model

ROOT = Path(__file__).resolve().parents[2]
K = 20


def hold_out(events: pa.Table, item: str, share: float) -> pa.Table:
    """Gives the rows of a random share of the items to the test part, and all others to training."""
    ids = pc.unique(events[item]).sort()
    new = ids.take(np.random.default_rng(5).permutation(len(ids))[: int(share * len(ids))])
    is_new = pc.is_in(events[item], new)
    return events.append_column("split", pc.if_else(is_new, "test", "train"))


@dataclasses.dataclass(frozen=True)
class Found:
    """recall@20 of new items in a ranking, and what chance gives in the mean."""

    recall: float
    chance: float


def measure(config: ExperimentConfig, run_dir: Path) -> tuple[Found, Found]:
    """Trains, and ranks for the test part, whose items are all new: the whole catalogue, and the new items alone.

    The second ranking is not helped by vectors that only separate new items from trained ones.
    """
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    prepare_log(config, run_dir, threads=1)
    prepared = Prepared.open(run_dir)
    encode(config, prepared)
    training_loop.train(config, run_dir)
    encoded, model = EncodedData(config, prepared), load_model(config, run_dir)
    items = tower_vectors.item_vectors(model, encoded)
    queries = protocol.build_queries(prepared, config.evaluation, "test")
    users = tower_vectors.user_vectors(model, encoded, "test", queries.example_rows)
    _, held_out = queries.relevant.block(0, len(queries))
    trained = np.flatnonzero(prepared.train_count()).astype(np.int32)
    assert len(queries) > 200 and not np.isin(held_out, trained).any()
    nothing = np.zeros(len(queries), np.int64)
    all_trained = protocol.ItemLists(nothing, nothing + len(trained), trained)
    found = []
    for excluded in (queries.seen, all_trained):
        ranked = ranking.rank(users, items, dataclasses.replace(queries, seen=excluded), (K,))
        sizes = [len(np.unique(excluded.block(query, query + 1)[1])) for query in range(len(queries))]
        chance = float(np.mean(K / (prepared.num_items - np.array(sizes))))
        found.append(Found(ranked.mean()[f"recall@{K}"], chance))
    print(*found)
    return found[0], found[1]


def prepare_config(name: str, root: Path, *overrides: str) -> ExperimentConfig:
    """The shipped configuration for `events.parquet` with a column of splits, without a validation part."""
    config = configuration.load(ROOT / "configs" / f"{name}.py", [f"data.root={root}", *overrides, "train.monitor="])
    data = dataclasses.replace(config.data, events="events.parquet", split=GivenSplit("split"))
    return dataclasses.replace(config, data=data)


@pytest.mark.quality
def test_new_items_of_the_synthetic_log(tmp_path: Path) -> None:
    write_synthetic_log(tmp_path, events=20_000, users=1_200, items=500, format="parquet")
    events = pa.concat_tables([pq.read_table(path) for path in sorted((tmp_path / "events").rglob("*.parquet"))])
    pq.write_table(hold_out(events, "item_id", 0.2), tmp_path / "events.parquet")
    config = prepare_config(
        "quickstart", tmp_path, "train.epochs=4", "train.batch_size=256", "item_features.0.dropout=0.5"
    )
    whole, among_new = measure(config, tmp_path / "run")
    best = best_recall(config, tmp_path / "run", tmp_path / "truth.npz", K)
    assert 4 * whole.chance < whole.recall < best  # chance has .034, the true preferences .587
    assert among_new.recall > 2 * among_new.chance


@pytest.mark.quality
def test_new_movies_of_movielens_100k(tmp_path: Path, published: Callable[[str], Path]) -> None:
    done = command("dataset", "movielens-100k", f"--source={published('movielens-100k')}", f"--output={tmp_path}")
    assert done.status == 0, done.err
    events = pq.read_table(tmp_path / "events.parquet")
    pq.write_table(hold_out(events, "movie_id", 0.1), tmp_path / "events.parquet")
    config = prepare_config("movielens_100k", tmp_path, "item_features.0.dropout=0.5", "train.epochs=8")
    whole, among_new = measure(config, tmp_path / "run")
    assert whole.recall > 4 * whole.chance  # .098 and .013; among new movies alone .419 and .119
    assert among_new.recall > 2 * among_new.chance
