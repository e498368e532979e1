"""Batches of rows of about one time: what shares candidates whose values change with time is trained on these."""

import numpy as np

from twotower_tf.train.batches_of_near import batches_of_near

SIZE, ROWS = 50, 1_030


def test_the_rows_of_a_batch_lie_near_each_other_in_time():
    rng = np.random.default_rng(3)
    order = rng.permutation(ROWS)
    times = 10 * order  # row r happened at 10 r
    batches = batches_of_near(order, times, SIZE, rng).reshape(-1, SIZE)
    assert len(batches) == 20  # 1,030 rows fill twenty batches; thirty rows are left out
    assert len(np.unique(batches)) == 1_000
    spans = batches.max(axis=1) - batches.min(axis=1)
    assert spans.max() < 3 * SIZE  # a place in time is shifted by less than a batch
    assert np.median(spans) < 2 * SIZE


def test_batches_come_in_random_order_and_differ_between_epochs():
    order = np.arange(ROWS)
    first, second = (batches_of_near(order, order, SIZE, np.random.default_rng(seed)) for seed in (1, 2))
    means = first.reshape(-1, SIZE).mean(axis=1)
    assert abs(np.corrcoef(means, np.arange(20))[0, 1]) < 0.8 and (np.diff(means) < 0).any()
    assert {tuple(sorted(batch)) for batch in first.reshape(-1, SIZE)}.isdisjoint(
        tuple(sorted(batch)) for batch in second.reshape(-1, SIZE)
    )
    again = batches_of_near(order, order, SIZE, np.random.default_rng(1))
    assert (again == first).all()


def test_equal_times_are_shuffled_like_any_other():
    order = np.random.default_rng(5).permutation(100)
    batches = batches_of_near(order, np.zeros(100, np.int64), 10, np.random.default_rng(6))
    assert sorted(batches) == list(range(100))
