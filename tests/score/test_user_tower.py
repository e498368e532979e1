"""Calls of a tower that reads histories place by place: every row answered, and little padding."""

import numpy as np

from twotower_tf.features.layout import NO_VALUE
from twotower_tf.score import user_tower
from twotower_tf.score.user_tower import UserTower


def made(ids, sequences, monkeypatch):
    """A tower that answers (sum of place · id, id of the row), and the shapes that it is called with."""
    tower, calls = object.__new__(UserTower), []

    def call(history, row):
        calls.append(history.shape)
        values = np.where(history.numpy() == NO_VALUE, 0, history.numpy())
        answer = np.stack([values @ np.arange(1, history.shape[1] + 1), row.numpy()[:, 0]], axis=1)
        return {"user_vector": type("Answer", (), {"numpy": lambda self: answer})()}

    monkeypatch.setattr(tower, "_tower", call, raising=False)
    monkeypatch.setattr(tower, "_dim", 2, raising=False)
    monkeypatch.setattr(tower, "_sequences", sequences, raising=False)
    monkeypatch.setattr(tower, "_by_place", {*sequences}, raising=False)
    rows = np.arange(len(ids), dtype=np.int32)[:, np.newaxis]
    monkeypatch.setattr(tower, "_encode", lambda columns, count: {"history": ids, "row": rows}, raising=False)
    return tower, calls


def histories(lengths, width):
    rng = np.random.default_rng(4)
    ids = rng.integers(0, 50, (len(lengths), width)).astype(np.int32)
    ids[np.arange(width) >= np.array(lengths)[:, np.newaxis]] = NO_VALUE
    return ids


def test_histories_of_about_one_length_are_read_together(monkeypatch):
    lengths = np.random.default_rng(3).permutation([*range(0, 41)] * 5)
    ids = histories(lengths, 40)
    expected = [
        sum((place + 1) * value for place, value in enumerate(row) if value != NO_VALUE) for row in ids.tolist()
    ]
    for places, most in ((400, 1.15), (30, 1.02)):  # of two thirds of the rows a call holds one alone
        monkeypatch.setattr(user_tower, "SEQUENCE_PLACES", places)
        tower, calls = made(ids, ["history"], monkeypatch)
        vectors = tower.vectors({}, len(ids))
        assert vectors[:, 0].tolist() == expected and vectors[:, 1].tolist() == [*range(len(ids))]
        assert all(rows * longest <= places or rows == 1 for rows, longest in calls)
        assert sum(rows * longest for rows, longest in calls) <= most * np.maximum(lengths, 1).sum()


def test_other_histories_are_read_as_they_stand(monkeypatch):
    monkeypatch.setattr(user_tower, "STEP", 4)
    tower, calls = made(histories([3, 0, 2, 1, 3, 1], 3), [], monkeypatch)
    assert tower.vectors({}, 6)[:, 1].tolist() == [*range(6)] and calls == [(4, 3), (2, 3)]
