"""Training rows that are users with all their positives, against a loss with a row per event, in plain operations."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from tests.model.filled import fill_tables
from twotower_tf.config import (
    BilateralSoftmax,
    Catalogue,
    CosineContrastive,
    DataConfig,
    ExperimentConfig,
    GivenSplit,
    Hash,
    History,
    InBatch,
    InBatchSoftmax,
    ModelConfig,
    Numeric,
    Queue,
    SamplingConfig,
    Tags,
    TrainConfig,
    Uniform,
)
from twotower_tf.errors import ConfigError
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.model import two_tower
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import training_loop
from twotower_tf.train.batches import Batches

USERS, ITEMS, DIM, BUCKETS = 11, 40, 8, 50_000  # a bucket for each value
SHARED = SamplingConfig((Uniform(per_positive=9, shared=True),))
MEET = {
    "drawn": SHARED,
    "of the batch": SamplingConfig((InBatch(),)),
    "all of the catalogue": SamplingConfig((Catalogue(),)),
    "both and a queue": SamplingConfig((InBatch(), Uniform(per_positive=7, shared=True), Queue(size=5))),
}
LOSSES = {
    "bilateral": BilateralSoftmax(temperature_positive=0.3, temperature_negative=0.2),
    "bilateral, corrected": BilateralSoftmax(temperature_positive=0.3, temperature_negative=0.2, correct=True),
    "contrastive": CosineContrastive(margin=-0.1, negative_weight=3.0),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """User u takes 2 + u different items, of which the last is held out; without times."""
    root = tmp_path_factory.mktemp("users")
    rng = np.random.default_rng(3)
    taken = {f"u{user}": [f"i{item}" for item in rng.permutation(ITEMS)[: 2 + user]] for user in range(USERS)}
    with (root / "events.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "split"])
        pairs = [(user, item, items[-1]) for user, items in taken.items() for item in items]
        rows.writerows(
            [user, item, "valid" if item == last else "train"] for user, item, last in rng.permutation(pairs)
        )
    (root / "items.csv").write_text(
        "item,kinds\n" + "".join(f"i{item},k{item % 3}|k{item % 4}\n" for item in range(ITEMS))
    )
    config = experiment(root)
    prepare_log(config, root / "run", threads=1)
    encode(config, Prepared.open(root / "run"))
    return root, {user: items[:-1] for user, items in taken.items()}


def experiment(root, timestamp="", **changes):
    fields = {
        "loss": LOSSES["bilateral"],
        "sampling": SHARED,
        "model": ModelConfig(embedding_dim=DIM, vector_dim=DIM, item_hidden=(), user_hidden=(), combine="add"),
        "train": TrainConfig(rows="user", batch_size=4, monitor="", epochs=2),
        "item_features": (Hash("item", buckets=BUCKETS), Tags("kinds", buckets=BUCKETS)),
    }
    return ExperimentConfig(
        name="t",
        data=DataConfig(
            root=str(root),
            events="events.csv",
            items="items.csv",
            user_id="user",
            item_id="item",
            timestamp=timestamp,
            split=GivenSplit("split"),
        ),  # fmt: skip
        user_features=(Hash("user", buckets=BUCKETS), History(of="item", length=30)),
        **(fields | changes),
    )


def batches(root, **changes):
    config, prepared = experiment(root, **changes), Prepared.open(root / "run")
    encoded = EncodedData(config, prepared)
    return config, encoded, Batches(config, prepared, encoded)


def buckets(names):
    return tf.strings.to_hash_bucket_fast(names, BUCKETS).numpy().tolist()


def test_an_epoch_has_each_user_once_with_all_positives(world):
    root, taken = world
    of_item = {bucket: f"i{item}" for item, bucket in enumerate(buckets([f"i{item}" for item in range(ITEMS)]))}
    of_user = dict(zip(buckets(list(taken)), taken, strict=True))
    _, _, made = batches(root)
    assert made.steps == USERS // 4
    met, orders = [], []
    for epoch in range(2):
        users = []
        for x, labels, weights in made.epoch(epoch):
            names = [of_user[bucket] for bucket in x["user_ids"][:, 0]]
            items = [of_item[bucket] for bucket in x["item_ids"][x["places_of_items"], 0]]
            events = len(x["places_of_users"])
            own, columns = items[:events], items[events:]
            rows = [names[place] for place in x["places_of_users"]]
            for place, name in enumerate(names):
                mine = [item for row, item in zip(rows, own, strict=True) if row == name]
                past = [of_item[bucket] for bucket in x["user_values0"][place] if bucket >= 0]
                assert sorted(mine) == sorted(past) == sorted(taken[name])
                hit = {column for row, column in x["hits"] if row == place}
                assert hit == {column for column, item in enumerate(columns) if item in taken[name]}
            assert weights[:, 0].tolist() == [len(taken[name]) for name in names] and (labels == 1).all()
            users += names
            met += columns
        assert len(set(users)) == len(users) == made.steps * 4
        orders.append(users)
    assert orders[0] != orders[1] and len(set(met)) > ITEMS // 2


@pytest.mark.parametrize("meet", MEET)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_and_its_gradient_are_those_of_a_row_per_event(world, loss, meet):
    root, taken = world
    config, encoded, made = batches(root, loss=LOSSES[loss], sampling=MEET[meet])
    model = two_tower.build(config)
    fill_tables(model)
    x, _, _ = next(made.epoch(0))
    tables = {each.name: each.table for each in model.layers if hasattr(each, "draw_rows")}
    with tf.GradientTape() as tape:
        model(x, training=False)
        (found,) = model.losses
    given = tape.gradient(found, list(tables.values()))
    with tf.GradientTape() as tape:
        expected = by_event(config, tables, x)
    wanted = tape.gradient(expected, list(tables.values()))
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-5)
    for one, other in zip(given, wanted, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(one), tf.convert_to_tensor(other), atol=2e-6)
        assert np.abs(tf.convert_to_tensor(one)).max() > 1e-3


def by_event(config, tables, x):
    """The mean loss of the events: each with its user's vector, its own item, and what its user never took."""
    shared, users, kinds = (tables[f"{name}_embedding_{DIM}"] for name in ("shared", "user", "item"))
    history = x["user_values0"]
    there = (history >= 0)[..., np.newaxis].astype(np.float32)
    mean = tf.reduce_sum(tf.gather(shared, np.maximum(history, 0)) * there, axis=1) / there.sum(axis=1)
    user = tf.gather(unit(tf.gather(users, x["user_ids"][:, 0]) + mean), x["places_of_users"])
    tags = x["item_values0"]
    some = (tags >= 0)[..., np.newaxis].astype(np.float32)
    of_kind = tf.reduce_sum(tf.gather(kinds, np.maximum(tags, 0)) * some, axis=1) / some.sum(axis=1)
    items = tf.gather(unit(tf.gather(shared, x["item_ids"][:, 0]) + of_kind), x["places_of_items"])
    events = len(x["places_of_users"])
    own, columns = items[:events], items[events:]
    if InBatch() in config.sampling.negatives:
        columns = tf.concat([own, columns], axis=0)
    queue = sum(getattr(each, "size", 0) for each in config.sampling.negatives)  # still empty
    cosine = tf.matmul(user, columns, transpose_b=True)
    hit = np.zeros((len(x["user_ids"]), len(x["column_log_q"])), bool)
    hit[tuple(x["hits"].T)] = True
    negative = ~hit[x["places_of_users"]][:, : cosine.shape[1]]
    assert queue == hit.shape[1] - cosine.shape[1]
    positive = tf.reduce_sum(user * own, axis=1)
    loss = config.loss
    if isinstance(loss, CosineContrastive):
        above = tf.where(negative, tf.nn.relu(cosine - loss.margin), 0.0)
        rows = 1 - positive + loss.negative_weight * tf.reduce_sum(above, axis=1) / negative.sum(axis=1)
    else:
        logits = cosine / loss.temperature_negative
        if loss.correct:
            logits -= x["column_log_q"][: cosine.shape[1], 0]
        logits = tf.where(negative, logits, -np.inf)
        rows = tf.reduce_logsumexp(logits, axis=1) - positive / loss.temperature_positive
    return tf.reduce_mean(rows)


def unit(x):
    return x / tf.norm(x, axis=1, keepdims=True)


def test_a_training_is_measured_by_users_and_learns(world, tmp_path):
    root, _ = world
    config = experiment(root, train=TrainConfig(rows="user", batch_size=4, monitor="", epochs=30, initial_lr=0.1))
    document = training_loop.train(config, root / "run")
    losses = [each["loss"] for each in document["history"]]
    assert len(losses) == 30 and losses[-1] < losses[0] - 0.5
    assert document["examples"] == sum(range(1, USERS + 1))


REFUSED = {
    "times": (
        lambda root: experiment(root, timestamp="time"),
        "train.rows: invalid value 'user' with data.timestamp='time' (expected a log without times, as the "
        "history has all positives of the user); set train.rows to 'event', or data.timestamp to '' to ignore the "
        "times",
    ),
    "another loss": (
        lambda root: experiment(root, loss=InBatchSoftmax(), sampling=SamplingConfig()),
        "train.rows: invalid value 'user' with InBatchSoftmax (expected BilateralSoftmax, CosineContrastive); "
        "choose one, or set it to 'event'",
    ),
    "draws for each event": (
        lambda root: experiment(root, sampling=SamplingConfig((Uniform(),))),
        "train.rows: invalid value 'user' with sampling.negatives Uniform, drawn for each event (expected negatives "
        "that a batch shares: InBatch(), Queue(), Catalogue(), Uniform(shared=True), Popularity(shared=True)); use "
        "these, or set it to 'event'",
    ),
    "own items masked": (
        lambda root: experiment(root, sampling=SamplingConfig(SHARED.negatives, masked="row")),
        "sampling.masked: invalid value 'row' with train.rows='user' (expected 'user', as a row has all positives); "
        "set it to 'user', or train.rows to 'event'",
    ),
    "embeddings of two sizes": (
        lambda root: experiment(root, item_features=(Hash("item", buckets=9), Tags("kinds", 9, embedding_dim=4))),
        "item_features[1]: invalid embedding_dim 4 (expected 8, that of the other features, with model.combine='add'); "
        "give all one, or set model.combine to 'concatenate'",
    ),
    "a number as it is": (
        lambda root: experiment(root, item_features=(Hash("item", buckets=9), Numeric("price"))),
        "item_features[1]: invalid embedding_dim None (expected 8, that of the other features, with "
        "model.combine='add'); give all one, or set model.combine to 'concatenate'",
    ),
    "vectors of another size": (
        lambda root: experiment(root, model=ModelConfig(8, 16, combine="add")),
        "model.vector_dim: invalid value 16 (expected 8, the embedding_dim of item_features, with model.combine='add' "
        "and no hidden layers); set it to 8",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_by_user_or_added_is_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        make("data")
    assert str(caught.value) == message


def test_batches_of_users_have_their_own_defaults():
    config = experiment("data", train=TrainConfig(rows="user"))
    assert (config.train.batch_size, config.sampling.masked) == (256, "user")
