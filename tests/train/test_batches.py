"""What a step is given: a shuffle of the rows, labels at their places, negatives that are none of the positives."""

import dataclasses

import numpy as np
import pytest

from twotower_tf.config import (
    CosineLogitBCE,
    InBatch,
    InBatchSoftmax,
    Labelled,
    SamplingConfig,
    TrainConfig,
    Uniform,
)
from twotower_tf.data.prepared import Prepared
from twotower_tf.errors import ConfigError
from twotower_tf.features.arrays import EncodedData
from twotower_tf.train.batches import Batches


def batches(trained, negatives, loss, batch_size=128):
    run_dir, config = trained
    config = dataclasses.replace(
        config, sampling=SamplingConfig(negatives), loss=loss, train=TrainConfig(batch_size=batch_size, monitor="")
    )
    prepared = Prepared.open(run_dir)
    encoded = EncodedData.open(config, prepared)
    return Batches(config, prepared, encoded), encoded


def first_ids(x):
    """Bucket of the item's own id, the first configured item feature."""
    return x["item_ids"][:, 0]


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
            # By catalogue row; two items may share a bucket, so only buckets of positives alone tell.
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
    np.testing.assert_array_equal(x["hits"], hits)
    assert y.shape == weight.shape == x["sample_weight"].shape == (128, 1) and y.all() and weight.all()


def test_a_batch_larger_than_the_data_is_refused(trained):
    with pytest.raises(ConfigError) as error:
        batches(trained, (InBatch(),), InBatchSoftmax(), batch_size=1_000_000)
    message = str(error.value)
    assert message.startswith("train.batch_size: 1,000,000 is more than the ")
    assert "training rows; lower it, e.g. --set train.batch_size=" in message
