"""What all losses share: the queue, the masked share, the metric of ranks, the model built around them."""

from collections import deque

import numpy as np
import pytest
import tensorflow as tf

from tests.model.losses import oracle
from tests.model.losses.oracle import world
from twotower_tf.model.losses.pairwise import TripletHingeLoss
from twotower_tf.model.losses.softmax import SoftmaxLoss


def stepper(layer, training=True, graph=False):
    """A step's loss; in a graph, as training runs it, or at once."""

    def step(given):
        layer(given, training=training)
        return tf.add_n(layer.losses)

    run = tf.function(step, reduce_retracing=True) if graph else step
    return lambda w: float(run({name: tf.constant(value) for name, value in w.inputs().items()}))


@pytest.mark.parametrize(("queue", "batch", "graph"), [(5, 2, True), (3, 3, False), (2, 4, False), (7, 1, False)])
def test_the_queue_holds_the_last_items_oldest_first(queue, batch, graph):
    layer, past = SoftmaxLoss(0.2, False, True, in_batch=True, queue=queue), deque(maxlen=queue)
    run = stepper(layer, graph=graph)
    for step in range(5):
        w = world(step, batch, 1, 2, queue, True)
        # What the pipeline says: slots are empty until enough batches were seen, and fill from the end.
        w.column_log_q = np.random.default_rng(step).uniform(-5.0, -1.0, len(w.column_log_q))
        w.column_log_q[len(w.column_log_q) - queue :][: queue - len(past)] = np.inf
        w.hits = w.hits[np.isfinite(w.column_log_q[w.hits[:, 1]])]
        w.past = np.array([*np.full((queue - len(past), oracle.DIM), 9.0), *past])
        assert abs(run(w) - oracle.total(w, oracle.softmax, 0.2, 1)) < 1e-5
        past.extend(w.own)
        np.testing.assert_allclose(layer.past.numpy()[queue - len(past) :], np.array(past), atol=1e-7)
    kept = layer.past.numpy()
    stepper(layer, training=False)(w)
    np.testing.assert_array_equal(layer.past.numpy(), kept)


def test_no_gradient_flows_into_the_queue():
    w = world(3, 3, 0, 0, 4, False)
    layer = TripletHingeLoss(0.5, queue=4)
    given = {name: tf.constant(value) for name, value in w.inputs().items()}
    layer.build({name: value.shape for name, value in given.items()})
    layer.past.assign(w.past)
    with tf.GradientTape() as tape:
        tape.watch(layer.past)
        layer(given, training=True)
        loss = layer.losses[0]
    assert float(loss) > 0.0 and tape.gradient(loss, layer.past) is None


@pytest.mark.parametrize("in_batch", [True, False])
def test_the_masked_share_counts_pairs_but_the_diagonal_and_empty_slots(in_batch):
    w = world(4, 6, 2, 3, 5, in_batch, hit_share=0.5)
    w.column_log_q[-5:] = [np.inf, np.inf, -1.0, -2.0, -3.0]
    w.hits = w.hits[np.isfinite(w.column_log_q[w.hits[:, 1]])]
    layer = SoftmaxLoss(0.2, False, True, in_batch=in_batch, queue=5)
    stepper(layer)(w)
    pairs = [
        (row, column)
        for row in range(6)
        for column in range(len(w.column_log_q))
        if np.isfinite(w.column_log_q[column]) and not (in_batch and row == column)
    ]
    masked = {tuple(pair) for pair in w.hits.tolist()} & set(pairs)
    (metric,) = layer.metrics
    assert metric.name == "masked_share" and 0.2 < len(masked) / len(pairs) < 0.8
    assert abs(float(metric.result()) - len(masked) / len(pairs)) < 1e-6


def test_there_is_no_masked_share_without_columns():
    layer = SoftmaxLoss(0.2, False, True)
    stepper(layer)(world(4, 6, 2))
    assert layer.metrics == []
