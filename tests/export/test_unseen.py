"""An id that training cannot read has the vector of no value."""

import numpy as np
import pytest
import tensorflow as tf

from twotower_tf.prepare.prepared import Prepared

BUCKETS = 500  # of item_id and user_id in the tiny run


def strangers(prefix, known):
    """Ids in buckets of their own, by TensorFlow's hash, and how many of the known ones are in them: none."""
    hashed = lambda texts: tf.strings.to_hash_bucket_fast(texts, BUCKETS).numpy()  # noqa: E731
    names = np.array([f"{prefix}{number}" for number in range(200)])
    return names[~np.isin(hashed(names), hashed(known))][:20]


def answers(export_dir, part, inputs):
    signature = tf.saved_model.load(str(export_dir / "7" / part)).signatures["serving_default"]
    return next(
        value.numpy()
        for name, value in signature(**{name: tf.constant(value) for name, value in inputs.items()}).items()
        if name.endswith("_vector")
    )


@pytest.mark.parametrize("side", ["user", "item"])
def test_an_unseen_id_has_the_vector_of_its_other_features(side, trained, export_dir):
    run_dir, _ = trained
    prepared = Prepared.open(run_dir)
    known = prepared.item_ids() if side == "item" else prepared.user_ids()
    names = strangers("new ", known.tolist())
    assert len(names) == 20
    n = len(names)
    items = {
        "category": np.array([f"c{row % 4}" for row in range(n)]),
        "price": np.linspace(1, 90, n, dtype=np.float32),
    }
    users = {
        "country": np.array([["PL", "DE"][row % 2] for row in range(n)]),
        "device_type": np.full(n, "phone"),
        "age": np.linspace(18, 70, n, dtype=np.float32),
        "interests": np.full((n, 1), ""),
        "history": np.full((n, 1), ""),
        "timestamp": np.full(n, 1_700_000_000, np.int64),
    }
    part, others = ("item_tower", items) if side == "item" else ("", users)
    unseen = answers(export_dir, part, {f"{side}_id": names, **others})
    without = answers(export_dir, part, {f"{side}_id": np.full(n, ""), **others})
    np.testing.assert_allclose(unseen, without, atol=1e-6)
    assert np.abs(without[:-1] - without[1:]).max() > 1e-3  # the other features count
    counts = prepared.train_count() if side == "item" else np.diff(prepared.sequence_users("train"))
    met = known[np.argsort(-counts)[:n]].astype(str)
    seen = answers(export_dir, part, {f"{side}_id": met, **others})
    assert np.median(np.abs(seen - without).max(axis=1)) > 0.01
