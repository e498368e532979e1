"""A log in which the order of the past determines the next item: found by a transformer, from training to answers."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.config import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    Hash,
    History,
    LazyAdam,
    LeaveLastOut,
    ModelConfig,
    SampledSoftmax,
    SamplingConfig,
    SelfAttention,
    TrainConfig,
    Uniform,
)
from twotower_tf.evaluate.evaluate_run import evaluate_run
from twotower_tf.export.export_bundle import export
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.model import two_tower
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.retrieval.recommender import Recommender
from twotower_tf.score import user_tower
from twotower_tf.score.user_tower import UserTower
from twotower_tf.train import tower_vectors, training_loop, warm_start_weights
from twotower_tf.train.checkpoints import load_model
from twotower_tf.train.tower_vectors import user_vectors

ITEMS, USERS, LENGTH = 30, 300, 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Half of the users go up through a circle of items, half of them down; 5 to 20 events each."""
    root = tmp_path_factory.mktemp("ordered")
    rng = np.random.default_rng(2)
    events = []
    for user in range(USERS):
        first, step = rng.integers(ITEMS), 1 - 2 * (user % 2)
        events += [(f"u{user}", f"i{(first + step * t) % ITEMS}", 1000 + t) for t in range(rng.integers(5, 21))]
    columns = dict(zip(("user_id", "item_id", "time"), map(list, zip(*events, strict=True)), strict=True))
    pq.write_table(pa.table(columns), root / "events.parquet")
    config = ExperimentConfig(
        name="ordered",
        data=DataConfig(root=str(root), events="events.parquet", timestamp="time", split=LeaveLastOut()),
        item_features=(Hash("item_id", buckets=5000),),
        user_features=(History(of="item_id", length=LENGTH, encoder=SelfAttention(blocks=1, dropout=0.0)),),
        model=ModelConfig(embedding_dim=16, vector_dim=16, item_hidden=(), user_hidden=()),
        sampling=SamplingConfig((Uniform(per_positive=29, shared=True),), masked="row"),
        loss=SampledSoftmax(temperature=0.1),
        train=TrainConfig(
            batch_size=16, epochs=10, initial_lr=0.01, table_optimizer=LazyAdam(initial_lr=0.01), monitor=""
        ),
        evaluation=EvaluationConfig(ks=(1, 3), exclude_seen=False, query="event"),
    )
    run_dir = root / "run"
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    prepare_log(config, run_dir, threads=1)
    encode(config, Prepared.open(run_dir))
    trained = training_loop.train(config, run_dir)
    version = export(config, run_dir, root / "export", version=1)
    return config, run_dir, root / "export", trained, version


def test_the_next_item_of_the_direction_is_found(run):
    config, run_dir, export_root, trained, _ = run
    # Two events of each user are held out; the others are examples, whatever the windows.
    assert trained["examples"] == len(pq.read_table(run_dir.parent / "events.parquet")) - 2 * USERS
    metrics = evaluate_run(config, run_dir, "test")["metrics"]
    assert metrics["recall@1"] > 0.9  # a tower over the mean of the past finds both directions alike, a half
    answers = Recommender(export_root).recommend(
        [{"history": ["i3", "i4", "i5", "i6"]}, {"history": ["i6", "i5", "i4", "i3"]}, {"history": []}], k=1
    )
    assert [answer["item_ids"] for answer in answers[:2]] == [["i7"], ["i2"]]


def test_the_bundle_has_the_vectors_that_training_has(run, monkeypatch):
    config, run_dir, export_root, _, _ = run
    prepared = Prepared.open(run_dir)
    encoded = EncodedData(config, prepared)
    rows = np.arange(USERS - 40, USERS)  # those with the longest histories are the last
    model = load_model(config, run_dir)
    offline = user_vectors(model, encoded, "test", rows)
    monkeypatch.setattr(tower_vectors, "_NUMBERS_PER_BATCH", 1)  # one history at a time
    np.testing.assert_allclose(user_vectors(model, encoded, "test", rows[:3]), offline[:3], atol=1e-6)
    names = prepared.item_ids()
    lists = [[names[item] for item in row if item >= 0] for row in encoded.history_items("test", rows, 50)]
    assert max(map(len, lists)) > LENGTH  # longer than what the tower keeps
    tower = UserTower(Bundle.open(export_root))
    for places in (user_tower.SEQUENCE_PLACES, 3 * LENGTH):  # all users in one call, and three in each
        monkeypatch.setattr(user_tower, "SEQUENCE_PLACES", places)
        scored = tower.vectors({"history": pa.array(lists)}, len(rows))
        np.testing.assert_allclose(scored, offline, atol=1e-5)


def test_a_training_begins_with_the_weights_of_a_bundle(run):
    config, run_dir, export_root, _, _ = run
    model = two_tower.build(config)
    warm_start_weights.start(config, model, export_root / "1")
    encoded = EncodedData(config, Prepared.open(run_dir))
    expected = user_vectors(load_model(config, run_dir), encoded, "valid", np.arange(9))
    np.testing.assert_allclose(user_vectors(model, encoded, "valid", np.arange(9)), expected, atol=1e-6)
