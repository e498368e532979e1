"""Click metrics compared with those of Keras, and top-k accuracy with hand-computed values."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from twotower_tf.model.training_metrics import ClickMetrics, InBatchTopK


@pytest.mark.parametrize("weighted", [True, False])
def test_one_count_gives_what_four_metrics_of_keras_give(weighted):
    rng = np.random.default_rng(3)
    tested = ClickMetrics()
    theirs = {
        "auc": keras.metrics.AUC(num_thresholds=201),
        "binary_accuracy": keras.metrics.BinaryAccuracy(),
        "precision": keras.metrics.Precision(),
        "recall": keras.metrics.Recall(),
    }
    for _ in range(3):
        labels = (rng.random((40, 3, 1)) < 0.4).astype(np.float32)
        probabilities = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0.0, 1.0).astype(np.float32)
        probabilities[:4, 0, 0] = [0.0, 0.5, np.nextafter(np.float32(0.5), np.float32(1.0)), 1.0]
        weights = rng.integers(0, 3, (40, 3)).astype(np.float32) if weighted else None
        tested.update_state(tf.constant(labels), tf.constant(probabilities), weights)
        for metric in theirs.values():
            metric.update_state(labels, probabilities, weights)
    got = tested.result()
    assert list(got) == list(theirs)
    for name, metric in theirs.items():
        assert 0.3 < float(metric.result()) < 0.9
        np.testing.assert_allclose(float(got[name]), float(metric.result()), rtol=1e-5, err_msg=name)


def test_figures_of_nothing_are_zero():
    assert {name: float(value) for name, value in ClickMetrics().result().items()} == {
        "auc": 0.0, "binary_accuracy": 0.0, "precision": 0.0, "recall": 0.0
    }  # fmt: skip


def test_counts_begin_anew():
    metric = ClickMetrics()
    metric.update_state(tf.ones([2, 1, 1]), tf.constant([[[0.9]], [[0.2]]]))
    assert float(metric.result()["recall"]) == 0.5
    metric.reset_state()
    metric.update_state(tf.ones([2, 1, 1]), tf.constant([[[0.9]], [[0.8]]]))
    assert float(metric.result()["recall"]) == 1.0


def test_top_k_counts_ranked_rows_that_fewer_than_k_others_beat():
    metric = InBatchTopK(2)
    metric.update_state(tf.zeros([6, 1]), tf.constant([[0.0], [1.0], [2.0], [5.0], [-1.0], [-1.0]]))
    assert float(metric.result()) == 0.5 and metric.name == "in_batch_top_2"
    weights = tf.constant([[6.0], [0.0], [9.0]])
    metric.update_state(tf.zeros([3, 1]), tf.constant([[0.0], [7.0], [-1.0]]), sample_weight=weights)
    assert abs(float(metric.result()) - (2 + 6) / (4 + 6)) < 1e-6


def test_an_epoch_may_have_more_rows_than_float32_counts():
    # 2^24 + 1 is the first whole number that float32 does not have: one more row is one more.
    many = 2.0**24
    clicks = ClickMetrics()
    for label, probability, weight in ((1, 0.9, many), (1, 0.9, 1), (1, 0.2, 1), (0, 0.9, many), (0, 0.9, 1)):
        shape = [1, 1, 1]
        clicks.update_state(tf.fill(shape, float(label)), tf.fill(shape, probability), tf.fill([1, 1], float(weight)))
    counts = clicks.counts.numpy()
    assert counts[179].tolist() == [16_777_217, 16_777_217] and counts[39].tolist() == [1, 0]
    assert float(clicks.result()["recall"]) == 16_777_217 / 16_777_218
    top = InBatchTopK(1)
    for rank, weight in ((0, many), (5, 1), (0, 1)):
        top.update_state(tf.zeros([1, 1]), tf.fill([1, 1], float(rank)), tf.fill([1, 1], float(weight)))
    assert float(top.result()) == 16_777_217 / 16_777_218
