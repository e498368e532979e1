"""Bucket ids of every feature type stay what they are: models that were trained and exported depend on them.

feature_columns.json was written once from TensorFlow's own columns (`keras.layers.DenseFeatures` of indicator columns
over hash, crossed, bucketized and identity columns; hours and weekdays from Python's `datetime`), without this package.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from twotower_tf.config import (
    Bucketized,
    Cross,
    DataConfig,
    ExperimentConfig,
    Hash,
    History,
    Hour,
    Numeric,
    Tags,
    Weekday,
)
from twotower_tf.features.inputs import rows_to_arrays
from twotower_tf.features.tower_encoder import TowerEncoder

GOLDEN = json.loads(Path(__file__).with_name("feature_columns.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def encoded():
    config = ExperimentConfig(
        name="golden",
        data=DataConfig(timestamp="ts"),
        item_features=(Hash("item_id", buckets=1000),),
        user_features=(
            Hash("city", buckets=97),
            Tags("tags", buckets=53, separator=";"),
            Cross(("city", "device"), buckets=89),
            Numeric("age", name="years"),
            Bucketized("age", buckets=4, name="age_bucket"),
            Numeric("age", name="raw", transform="none"),
            Hour("ts"),
            Numeric("age", name="logs", transform="log1p"),
            Weekday("ts"),
            History(of="item_id"),
        ),
    )
    statistics = {
        "years": {"mean": 30.0, "std": 10.0},
        "logs": {"mean": 1.0, "std": 0.5},
        "age_bucket": {"boundaries": GOLDEN["boundaries"]},
    }
    encoder = TowerEncoder(config, {"user": statistics, "item": {}}, "user")
    names = list(GOLDEN["raw"])
    rows = [dict(zip(names, values, strict=True)) for values in zip(*GOLDEN["raw"].values(), strict=True)]
    raw = rows_to_arrays(encoder.inputs, rows)
    return {key: value.numpy() for key, value in encoder.encode({k: tf.constant(v) for k, v in raw.items()}).items()}


@pytest.mark.parametrize("column, name", [*enumerate(["city", "city_x_device", "age_bucket", "hour", "weekday"])])
def test_single_ids(encoded, column, name):
    assert encoded["ids"][:, column].tolist() == GOLDEN["expected"][name]


@pytest.mark.parametrize("key, name", [("values0", "tags"), ("values1", "history")])
def test_ids_of_several_values(encoded, key, name):
    assert encoded[key].tolist() == GOLDEN["expected"][name]


def test_numbers(encoded):
    # Ages: missing, 0, 17.5, 30, 30.25, 44, -3, 1e30, 29.999, 60, 0.1, 100; by hand (x - 30) / 10 and
    # (sign(x) ln(1 + |x|) - 1) / 0.5, where ln 18.5 = 2.917771, ln 31 = 3.433987, ln 4 = 1.386294, ln 101 = 4.615121.
    years, raw, logs = encoded["numeric"].T
    assert years.tolist() == pytest.approx(
        [0, -3, -1.25, 0, 0.025, 1.4, -3.3, 1e29, -0.0001, 3, -2.99, 7], rel=1e-6, abs=1e-6
    )
    assert raw.tolist() == np.array([0, 0, 17.5, 30, 30.25, 44, -3, 1e30, 29.999, 60, 0.1, 100], np.float32).tolist()
    assert logs[[0, 1, 2, 3, 6, 11]].tolist() == pytest.approx(
        [0, -2, 3.835541, 4.867974, -4.772589, 7.230241], abs=1e-5
    )
