"""Windows of sequences: how many there are, where they are cut, and which stand in one batch."""

import numpy as np

from twotower_tf.train.sequences import Windows


def keys(start, end, user):
    return {"user_row": np.array(user), "history_start": np.array(start), "history_end": np.array(end)}


def test_windows_are_few_reach_back_and_are_cut_at_other_places():
    # Of user 0 three new events, whose histories have 40 positives and more of earlier runs; user 1 has 14 events.
    columns = keys([0, 0, 0, *[50] * 14], [40, 41, 43, *range(50, 64)], [0] * 3 + [1] * 14)
    windows = Windows(columns, np.arange(17), length=6)
    assert windows.count == 1 + 3
    cuts = set()
    for seed in range(12):
        epoch = windows.epoch(np.arange(17), np.random.default_rng(seed), size=1)
        assert sorted(epoch.rows) == list(range(17)) and len(epoch.first) == 4
        covered = []
        for number, (first, stop) in enumerate(zip(epoch.first, epoch.stop, strict=True)):
            rows = slice(epoch.bounds[number], epoch.bounds[number + 1])
            np.testing.assert_array_equal(
                epoch.seen[rows], np.maximum(columns["history_end"][epoch.rows[rows]] - first, 0)
            )
            assert stop - first <= 6 and stop - first == epoch.seen[rows].max()
            if 0 in epoch.rows[rows]:
                assert (first, stop) == (37, 43)  # the last event sees six, the first the three before it
            else:
                covered += range(first, stop)
                cuts.add(first)
        assert sorted(covered) == list(range(50, 63))
    assert len(cuts) > 3
    thinned = windows.epoch(np.array([2, 16]), np.random.default_rng(0), size=1)
    assert sorted(thinned.rows) == [2, 16] and len(thinned.first) == 4  # the others are empty
    assert (thinned.stop - thinned.first).tolist().count(0) == 2


def test_batches_have_windows_of_about_one_length():
    counts = np.random.default_rng(1).integers(1, 40, 200)
    user = np.repeat(np.arange(200), counts)
    start = np.repeat(np.cumsum(counts) - counts, counts)
    columns = keys(start, start + np.concatenate([np.arange(count) for count in counts]), user)
    epoch = Windows(columns, np.arange(len(user)), 40).epoch(np.arange(len(user)), np.random.default_rng(0), size=20)
    lengths = (epoch.stop - epoch.first).reshape(10, 20)
    padded = (lengths.max(axis=1) * 20).sum()
    assert padded < 1.25 * (counts - 1).sum() < 0.8 * 200 * 39
    assert np.abs(np.diff(lengths.mean(axis=1))).max() > 5  # in random order
    by_time = Windows(columns, np.arange(len(user)), 40).epoch(
        np.arange(len(user)), np.random.default_rng(0), 20, times=np.repeat(np.arange(200), counts)
    )
    users = user[by_time.rows[by_time.bounds[:-1]]].reshape(10, 20)
    assert (users.max(axis=1) - users.min(axis=1)).max() < 60
