"""What training reads begins with random content, and nothing else does: checked against the batches themselves."""

import dataclasses

import numpy as np
import pytest

from tests.train import changing_items as world
from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import (
    Bucketized,
    CosineLogitBCE,
    Hash,
    History,
    InBatch,
    InBatchSoftmax,
    Labelled,
    Mined,
    PairwiseLogistic,
    Popularity,
    Rejections,
    SameAttribute,
    SampledSoftmax,
    SamplingConfig,
    SkipAbove,
    TrainConfig,
    Uniform,
)
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.model import two_tower
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import readable_rows
from twotower_tf.train.batches import Batches
from twotower_tf.train.checkpoints import load_model
from twotower_tf.train.training_loop import train

USERS, ITEMS, CLICKS = 3_000, 2_000, 7  # buckets
# By hand: the items' ids and the users' histories share a table, and so do the clicks and their twin in another one.
OFFSETS = {
    "item_ids": [("shared_embedding_8", 0), ("item_embedding_8", 0)],
    "user_ids": [("user_embedding_8", 0)],
    "user_values0": [("shared_embedding_8", 0)],
}
KINDS = {
    "Uniform": ((Uniform(),), CosineLogitBCE()),
    "Popularity": ((Popularity(floor=0),), CosineLogitBCE()),
    "Labelled": ((Labelled(),), CosineLogitBCE()),
    "SameAttribute": ((SameAttribute(columns=("shelf",), per_positive=4),), CosineLogitBCE()),
    "Rejections": ((Rejections(per_positive=4),), PairwiseLogistic()),
    "SkipAbove": ((SkipAbove(per_positive=4),), PairwiseLogistic()),
    "Mined": ((Mined(ranks=(2, 40)),), CosineLogitBCE()),
    "InBatch": ((InBatch(),), InBatchSoftmax()),
    "shared": ((Uniform(100, shared=True),), SampledSoftmax()),
}
# Of these every row that can be read is read in a few epochs; of the others, a draw may take long to come.
ALL_READ = {"Labelled", "InBatch", "Rejections", "SkipAbove", "Popularity", "Uniform", "shared"}


@pytest.fixture(scope="module", params=["in time", "without time"])
def run(request, tmp_path_factory):
    """A log whose items change with time, and one without times, whose histories are drawn by chance."""
    root = tmp_path_factory.mktemp("readable")
    world.write(root / "data", users=150, items=400, days=20, clicks=1_200)
    config = world.experiment(root / "data", "")
    data = config.data
    if request.param == "without time":
        data = dataclasses.replace(data, timestamp="", items_time="", split=configuration.RandomSplit())
        import pyarrow.parquet as pq

        path = root / "data" / "items.parquet"
        pq.write_table(pq.read_table(path).slice(0, 400), path)
    config = dataclasses.replace(
        config,
        data=data,
        item_features=(Hash("item", buckets=ITEMS), Bucketized("clicks_so_far", buckets=CLICKS)),
        user_features=(Hash("user", buckets=USERS), History(of="item", length=2)),
        model=dataclasses.replace(config.model, embedding_dim=8),
    )
    artifacts.write_text(RunPaths(root / "run").config, configuration.to_json(config))
    prepare_log(config, root / "run", threads=1)
    encode(config, Prepared.open(root / "run"))
    return config, root / "run"


def configured(config, kind, **train):
    negatives, loss = KINDS[kind]
    train = TrainConfig(**({"batch_size": 64, "monitor": ""} | train))
    return dataclasses.replace(config, sampling=SamplingConfig(negatives), loss=loss, train=train)


def read_by_batches(made, tables, epochs):
    """The rows that the batches look up, straight from what they feed the model."""
    read = {name: np.zeros(len(rows), bool) for name, rows in tables.items()}
    for epoch in range(epochs):
        for x, _, _ in made.epoch(epoch):
            for name, places in OFFSETS.items():
                for column, (table, offset) in enumerate(places):
                    ids = x[name] if name == "user_values0" else x[name][:, column]
                    read[table][offset + ids[ids >= 0]] = True
    return read


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_readable_is_what_batches_read(run, kind):
    config, run_dir = run
    config = configured(config, kind)
    prepared = Prepared.open(run_dir)
    encoded = EncodedData(config, prepared)
    made = Batches(config, prepared, encoded)
    found = readable_rows.readable_rows(config, encoded, made.samplers)
    assert {name: len(rows) for name, rows in found.items()} == {
        "shared_embedding_8": ITEMS, "item_embedding_8": len(found["item_embedding_8"]), "user_embedding_8": USERS
    }  # fmt: skip
    read = read_by_batches(made, found, 12)
    for name, rows in read.items():
        assert not (rows & ~found[name]).any(), name
        missing = found[name] & ~rows
        assert missing.sum() <= (0.02 * found[name].sum() if kind in ALL_READ else 0.5 * found[name].sum()), name
    assert found["user_embedding_8"].sum() < 160 and found["shared_embedding_8"].sum() <= 400


def test_histories_of_some_rows_reach_what_their_batches_hold(run):
    """Of few rows, histories hold other items than the rows' own, as in a run that continues another one."""
    config, run_dir = run
    encoded = EncodedData(config, Prepared.open(run_dir))
    rng = np.random.default_rng(5)
    rows = rng.choice(len(encoded.keys("train")["item_row"]), 30, replace=False)
    ((key, reach),) = encoded.history_reach(rows).items()
    held = {bucket for _ in range(300) for bucket in encoded.user_batch("train", rows, rng)[key].flat} - {-1}
    items = encoded.keys("train")["item_row"][rows]
    own = set(encoded.item_batch(items, encoded.times("train", rows))["ids"][:, 0])
    assert len(held - own) > 20
    assert held <= set(reach) and set(reach) - held <= (set() if config.data.timestamp else own)


def test_training_leaves_all_other_rows_zero(run, tmp_path):
    config, run_dir = run
    config = configured(config, "InBatch", epochs=1)
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    train(config, run_dir)
    prepared = Prepared.open(run_dir)
    made = Batches(config, prepared, EncodedData(config, prepared))
    model = load_model(config, run_dir)
    tables = {name: model.get_layer(name).table.numpy() for name in ("shared_embedding_8", "user_embedding_8")}
    for name, read in read_by_batches(made, {**tables, "item_embedding_8": np.zeros(50)}, 12).items():
        if name in tables:
            held = tables[name].any(axis=1)
            assert not (read & ~held).any() and (held & ~read).sum() <= 0.02 * held.sum()
            assert held.sum() < len(held) / 5


def test_the_initial_scale_divides_what_a_training_begins_with(run):
    """Uniform between ±.2 · 8^-.5 has the deviation .2 · 8^-.5 / 3^.5 = .0408."""
    config, run_dir = run
    config = configured(config, "Uniform")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, initial_scale=0.2))
    prepared = Prepared.open(run_dir)
    encoded = EncodedData(config, prepared)
    model = two_tower.build(config)
    readable_rows.draw_rows(config, model, encoded, Batches(config, prepared, encoded).samplers)
    table = model.get_layer("shared_embedding_8").table.numpy()
    drawn = table[table.any(axis=1)]
    assert len(drawn) > 100 and abs(drawn.std() - 0.0408) < 0.002 and np.abs(drawn).max() <= 0.0708


def test_no_tower_begins_with_vectors_of_no_length(run):
    """A vector divided by its length has a gradient in proportion to one over it: at zero, steps have no measure."""
    config, run_dir = run
    config = configured(config, "Uniform")
    prepared = Prepared.open(run_dir)
    encoded = EncodedData(config, prepared)
    made = Batches(config, prepared, encoded)
    model = two_tower.build(config)
    readable_rows.draw_rows(config, model, encoded, made.samplers)
    x, _, _ = next(iter(made.epoch(0)))
    for side in ("user", "item"):
        inside = type(model)(inputs=model.input, outputs=model.get_layer(f"{side}_projection").output)
        lengths = np.linalg.norm(inside({name: x[name] for name in model.input}).numpy(), axis=1)
        assert np.median(lengths) > 0.05 and lengths.min() > 1e-3
