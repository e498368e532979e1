"""What a step is given: a shuffle of the rows, labels at their places, negatives that are none of the positives."""

import collections
import dataclasses

import numpy as np
import pytest

from twotower_tf.config import (
    CosineLogitBCE,
    InBatch,
    InBatchSoftmax,
    Labelled,
    Mined,
    Popularity,
    Queue,
    SameAttribute,
    SampledSoftmax,
    SamplingConfig,
    TrainConfig,
    Uniform,
)
from twotower_tf.errors import ConfigError
from twotower_tf.features.arrays import EncodedData
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train.batches import Batches


def batches(trained, negatives, loss, batch_size=128, sampling=None):
    run_dir, config = trained
    config = dataclasses.replace(
        config,
        sampling=SamplingConfig(negatives, **(sampling or {})),
        loss=loss,
        train=TrainConfig(batch_size=batch_size, monitor=""),
    )
    prepared = Prepared.open(run_dir)
    encoded = EncodedData(config, prepared)
    return Batches(config, prepared, encoded), encoded


def first_ids(x):
    """Bucket of the item's own id, the first configured item feature."""
    return x["item_ids"][:, 0]


def test_no_tuner_sleeps_behind_the_batches(trained):
    # The end of an iterator may wait until tf.data's tuner wakes, up to a minute.
    made, _ = batches(trained, (InBatch(),), InBatchSoftmax())
    assert made.dataset(0).options().autotune.enabled is False


def test_an_epoch_reads_each_positive_once_in_an_order_of_its_own(trained):
    made, encoded = batches(trained, (InBatch(),), InBatchSoftmax())
    positives = encoded.keys("train")["item_row"][encoded.keys("train")["label"] == 1]
    assert made.examples == len(positives) and made.steps == len(positives) // 128
    one, again, other = ([first_ids(x) for x, _, _ in made.epoch(epoch)] for epoch in (0, 0, 1))
    np.testing.assert_array_equal(np.concatenate(one), np.concatenate(again))
    assert (np.concatenate(one) != np.concatenate(other)).any()
    buckets = encoded.item_batch(positives)["ids"][:, 0]
    for bucket, count in zip(*np.unique(np.concatenate(one), return_counts=True), strict=True):
        assert count <= (buckets == bucket).sum()
    resumed = [first_ids(x) for x, _, _ in made.epoch(0, first_step=3)]
    np.testing.assert_array_equal(np.concatenate(one[3:]), np.concatenate(resumed))


def test_negatives_are_fresh_and_never_the_users_positives(trained):
    made, encoded = batches(trained, (Uniform(per_positive=3),), CosineLogitBCE())
    keys = encoded.keys("train")
    bucket_of = encoded.item_batch(np.arange(encoded.num_items))["ids"][:, 0]
    liked = {}
    for user, item in zip(keys["user_row"][keys["label"] == 1], keys["item_row"][keys["label"] == 1], strict=True):
        liked.setdefault(int(user), set()).add(int(item))
    order = np.random.default_rng([17, 0, 0]).permutation(np.flatnonzero(keys["label"] == 1))
    drawn = []
    for step, (x, y, weight) in enumerate(made.epoch(0)):
        rows = order[step * 128 : (step + 1) * 128]
        own_ids, ids = first_ids(x)[:128], first_ids(x)[128:].reshape(128, 3)
        np.testing.assert_array_equal(own_ids, bucket_of[keys["item_row"][rows]])
        for row, negatives in zip(rows, ids, strict=True):
            own = {int(bucket_of[item]) for item in liked[int(keys["user_row"][row])]}
            # By catalogue row; two items may share a bucket, so only buckets of positives alone are conclusive.
            alone = own - {
                int(bucket_of[i]) for i in range(encoded.num_items) if i not in liked[int(keys["user_row"][row])]
            }
            assert not set(negatives.tolist()) & alone
        assert y[:, 0].all() and not y[:, 1:].any() and (weight == 1).all()
        drawn.append(ids)
    later = next(iter(made.epoch(1)))[0]
    assert (first_ids(later)[128:].reshape(128, 3) != drawn[0]).any()


def test_labelled_rows_are_negatives_by_themselves(trained):
    made, encoded = batches(trained, (Labelled(), Uniform(per_positive=2)), CosineLogitBCE())
    keys = encoded.keys("train")
    assert made.examples == len(keys["label"]) and 0 < keys["label"].mean() < 1
    order = np.random.default_rng([17, 0, 0]).permutation(np.arange(len(keys["label"])))
    x, y, weight = next(iter(made.epoch(0)))
    label = keys["label"][order[:128]]
    assert y.shape == (128, 3, 1) and weight.shape == (128, 3) and len(x["item_ids"]) == 3 * 128
    np.testing.assert_array_equal(y[:, 0, 0], label)
    assert not y[:, 1:].any()
    np.testing.assert_array_equal(weight, np.stack([np.ones(128), label, label], axis=1))


def test_sampling_probabilities_are_the_items_shares_of_the_positives(trained):
    made, encoded = batches(trained, (InBatch(),), InBatchSoftmax())
    keys = encoded.keys("train")
    positives = keys["item_row"][keys["label"] == 1]
    x, y, weight = next(iter(made.epoch(0)))
    rows = np.random.default_rng([17, 0, 0]).permutation(np.flatnonzero(keys["label"] == 1))[:128]
    items, users = keys["item_row"][rows], keys["user_row"][rows]
    liked = set(zip(keys["user_row"][keys["label"] == 1], positives, strict=True))
    for name in ("positive_log_q", "column_log_q"):
        for item, log_q in zip(items, x[name][:, 0], strict=True):
            assert abs(np.exp(log_q) - (positives == item).sum() / len(positives)) < 1e-7
    hits = [(b, j) for b in range(128) for j in range(128) if (users[b], items[j]) in liked]
    assert len(hits) > 128
    assert sorted(x["hits"].tolist()) == [list(pair) for pair in hits]
    assert y.shape == weight.shape == x["sample_weight"].shape == (128, 1) and y.all() and weight.all()


def test_a_batch_larger_than_the_data_is_refused(trained):
    with pytest.raises(ConfigError) as error:
        batches(trained, (InBatch(),), InBatchSoftmax(), batch_size=1_000_000)
    message = str(error.value)
    assert message.startswith("train.batch_size: invalid value 1000000 (expected at most ")
    assert "the training rows); lower it, e.g. --set train.batch_size=" in message


def everything(trained, loss, kinds, batch_size=128):
    made, encoded = batches(trained, kinds, loss, batch_size)
    keys = encoded.keys("train")
    positive = keys["label"] == 1
    liked = set(zip(keys["user_row"][positive].tolist(), keys["item_row"][positive].tolist(), strict=True))
    order = np.random.default_rng([17, 0, 0]).permutation(np.flatnonzero(positive))
    return made, encoded, keys, liked, order


def test_a_batch_of_all_kinds_lies_as_agreed(trained):
    """Own items, the rows' negatives row by row, the shared ones; columns: own, shared, queue, oldest first."""
    kinds = (
        Queue(size=300),
        Popularity(per_positive=3),
        InBatch(),
        Uniform(per_positive=50, shared=True),
        SameAttribute(("category",), per_positive=2),
    )
    made, encoded, keys, liked, order = everything(trained, InBatchSoftmax(), kinds)
    counts = np.bincount(keys["item_row"][keys["label"] == 1], minlength=encoded.num_items)
    queue = collections.deque([-1] * 300, maxlen=300)  # as the graph keeps its vectors: the newest at the end
    bucket_of = encoded.item_batch(np.arange(encoded.num_items))["ids"]
    for (x, y, weight), (step, drawn) in zip(made.epoch(0), made.drawn(0), strict=True):
        rows = order[step * 128 : (step + 1) * 128]
        users, own = keys["user_row"][rows], keys["item_row"][rows]
        items = np.concatenate([own, drawn.negatives.ravel(), drawn.shared])
        assert drawn.negatives.shape == (128, 5) and drawn.shared.shape == (50,)
        np.testing.assert_array_equal(x["item_ids"], bucket_of[items])
        columns = np.concatenate([own, drawn.shared, queue]).astype(int)
        expected = [[b, c] for b in range(128) for c in range(478) if (int(users[b]), int(columns[c])) in liked]
        assert sorted(x["hits"].tolist()) == expected
        filled = min(300, step * 128)
        q = ((128 + filled) * counts[columns] / counts.sum() + 50 / encoded.num_items) / (128 + filled + 50)
        q[columns == -1] = np.inf
        np.testing.assert_allclose(np.exp(x["column_log_q"][:, 0]), q, rtol=1e-5)
        np.testing.assert_allclose(x["positive_log_q"], x["column_log_q"][:128])
        np.testing.assert_array_equal(x["negative_weight"], drawn.present)
        assert drawn.present[:, :3].all() and not drawn.present[:, 3:].all() and drawn.present[:, 3:].any()
        for user, negatives, present in zip(users, drawn.negatives, drawn.present, strict=True):
            assert not {(int(user), int(item)) for item in negatives[present]} & liked
        assert y.all() and weight.all()
        queue.extend(own)


def test_log_q_of_a_rows_own_negatives_by_hand(trained):
    made, encoded, keys, liked, order = everything(
        trained,
        SampledSoftmax(),
        (Uniform(per_positive=3), Popularity(per_positive=1, alpha=0.5, floor=2.0)),
    )
    counts = np.bincount(keys["item_row"][keys["label"] == 1], minlength=encoded.num_items)
    weights = np.maximum(counts, 2.0) ** 0.5
    x, *_ = next(made.epoch(0))
    _, drawn = next(made.drawn(0))
    assert "column_log_q" not in x and "hits" not in x
    for place, row in enumerate(order[:128]):
        user, own = int(keys["user_row"][row]), int(keys["item_row"][row])
        allowed = [item for item in range(encoded.num_items) if (user, item) not in liked]
        mass = weights[allowed].sum()
        for item, log_q in zip(drawn.negatives[place], x["negative_log_q"][place], strict=True):
            q = (3 / len(allowed) + weights[item] / mass) / 4
            assert abs(np.exp(log_q) / q - 1) < 1e-5
        q = (3 / (len(allowed) + 1) + weights[own] / (mass + weights[own])) / 4
        assert abs(np.exp(x["positive_log_q"][place, 0]) / q - 1) < 1e-5


def test_rows_weigh_by_recency(trained):
    run_dir, config = trained
    made, encoded = batches(trained, (InBatch(),), InBatchSoftmax(), sampling={"recency_half_life": 2.0})
    times = encoded.keys("train")["timestamp"]
    x, _, weight = next(made.epoch(0))
    _, drawn = next(made.drawn(0))
    age = (times.max() - times[drawn.rows.index]) / 86_400
    np.testing.assert_allclose(weight[:, 0], 0.5 ** (age / 2), rtol=1e-5)
    np.testing.assert_array_equal(x["sample_weight"], weight)
    assert weight.min() < 0.9


def test_what_the_catalogue_cannot_give_is_refused(trained):
    items = Prepared.open(trained[0]).num_items
    with pytest.raises(ConfigError) as error:
        batches(trained, (Uniform(per_positive=5000),), CosineLogitBCE())
    assert str(error.value) == (
        f"sampling.negatives: Uniform(per_positive=5000) draws more than the catalogue's {items} items; "
        f"lower it, e.g. --set sampling.negatives.0.per_positive={items // 4}"
    )
    with pytest.raises(ConfigError) as error:
        batches(trained, None, SampledSoftmax())
    assert str(error.value) == (
        f"sampling.negatives: Uniform(per_positive=800) draws more than the catalogue's {items} items; "
        f"lower it, e.g. --set sampling.negatives.0.per_positive={items // 4}"
    )
    with pytest.raises(ConfigError) as error:
        batches(trained, (Mined(ranks=(101, 500)),), CosineLogitBCE())
    assert str(error.value) == (
        f"sampling.negatives: Mined(ranks=(101, 500)) goes beyond the catalogue's {items} items; lower the ranks"
    )
    with pytest.raises(ConfigError) as error:
        batches(trained, (SameAttribute(("categry",)),), CosineLogitBCE())
    assert str(error.value) == (
        "sampling.negatives: SameAttribute: unknown column of the catalogue 'categry'; did you mean 'category'?"
    )
