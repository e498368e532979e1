"""Encoding in NumPy against TensorFlow's own operations and columns."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from twotower_tf.config import (
    Bucketized,
    Cross,
    DataConfig,
    ExperimentConfig,
    Hash,
    Hour,
    Numeric,
    Tags,
    Weekday,
    feature_name,
)
from twotower_tf.features import array_encoders, farm_hash, types
from twotower_tf.features.farm_hash import compute_fingerprints
from twotower_tf.features.inputs import make_object_array

PRIME = 2**31 - 1
BOUNDARIES = [-2.5, 0.1, 3.0, 1e30]


def texts():
    """Bytes of every length up to 400, most of them no UTF-8, some much longer; and texts of several scripts."""
    rng = np.random.default_rng(11)
    found = [rng.bytes(length) for length in range(400) for _ in range(4)]
    found += [rng.bytes(int(length)) for length in rng.integers(400, 70_000, 20)]
    found += [bytes([value]) * length for value in (0, 255) for length in range(140)]
    found += [("Zürich 東京 𝄞|" * times)[:length].encode() for times, length in ((1, 5), (3, 20), (9, 90), (99, 900))]
    return found


@pytest.mark.parametrize("at_once", [100, 1 << 15])
def test_fingerprints_are_tensorflows(monkeypatch, at_once):
    monkeypatch.setattr(farm_hash, "_AT_ONCE", at_once)
    values = texts()
    expected = tf.strings.to_hash_bucket_fast(tf.constant(make_object_array(values)), PRIME).numpy()
    for kind in (pa.binary(), pa.large_binary()):
        assert np.array_equal(compute_fingerprints(pa.array(values, kind)) % np.uint64(PRIME), expected)
    part = pa.array([b"something before", *values]).slice(1, 900)  # offsets that do not begin at 0
    assert np.array_equal(compute_fingerprints(part) % np.uint64(PRIME), expected[:900])


@pytest.mark.parametrize("values", [[], ["", None], [None]])
def test_fingerprints_of_nothing(values):
    (expected,) = tf.strings.to_hash_bucket_fast([""], PRIME).numpy()
    found = compute_fingerprints(pa.array(values, pa.string())) % np.uint64(PRIME)
    assert found.tolist() == [expected] * len(values)


def raw_columns():
    rng = np.random.default_rng(12)
    words = ["", "a", "Ünï", "a long text of more than thirty-two bytes", "0", "x" * 100, None]
    numbers = [np.nan, np.inf, -np.inf, 0, -0.0, -2.5, 0.1, 3, 1e30, 3e38, -7.25, 12345.678, *rng.normal(0, 50, 1000)]
    rows = len(numbers)
    seconds = np.concatenate([[0, 1, -1, 86_399, 86_400, 1_700_000_000], rng.integers(-(2**40), 2**40, rows - 6)])
    lists = np.array([b"", b"tag", b"other tag", "Ä".encode()], object)[rng.integers(0, 4, (rows, 3))]
    return {
        "city": pa.array([words[row] for row in rng.integers(0, len(words), rows)], pa.string()),
        "device": pa.array([words[row] for row in rng.integers(0, len(words), rows)], pa.string()),
        "tags": lists,
        "age": np.array(numbers, np.float32),
        "ts": seconds.astype(np.int64),
    }


FEATURES = [
    Hash("city", buckets=97),
    Hash("city", buckets=2),
    Hash("city", buckets=500, hashes=2, name="two"),
    Tags("tags", buckets=53),
    Cross(("city", "device"), buckets=89),
    Cross(("device", "city", "device"), buckets=2**31 - 1, name="three"),
    Bucketized("age", buckets=5),
    Bucketized("age", buckets=5, name="constant"),
    Hour("ts"),
    Weekday("ts"),
    Numeric("age", transform="none", name="plain"),
    Numeric("age", name="standard"),
    Numeric("age", transform="log1p", name="logs"),
]


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: f"{feature.type}-{feature.name}")
def test_features_are_encoded_as_tensorflow_does(feature):
    sides = {"item_features": (Hash("ad", buckets=9),), "user_features": (Hash("user", buckets=9),)}
    config = ExperimentConfig(name="t", data=DataConfig(timestamp="ts"), **sides)
    boundaries = [] if feature.name == "constant" else BOUNDARIES
    statistics = {feature_name(feature): {"boundaries": boundaries, "mean": 3.7, "std": 12.3}}
    columns = raw_columns()
    raw = {each.name: columns[each.name] for each in feature.inputs()}
    found = array_encoders.build_array_encoder(feature, statistics, config)(raw)
    expected = types.build_array_encoder(feature, statistics, config)(raw)
    assert type(feature) in array_encoders._BUILDERS
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if feature.name == "logs":  # the last bit of a logarithm differs between libraries
        np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 1


def test_preparation_loads_neither_tensorflow_nor_pandas(tmp_path):
    """A small log is prepared before TensorFlow would be loaded."""
    (tmp_path / "log.csv").write_text("user,ad,ts\n" + "".join(f"u{n % 5},a{n % 3},{n + 1}\n" for n in range(40)))
    (tmp_path / "config.py").write_text(
        "from twotower_tf.config import *\n"
        "def get_config():\n"
        f"    root = {str(tmp_path)!r}\n"
        "    data = DataConfig(root=root, events='log.csv', user_id='user', item_id='ad', timestamp='ts')\n"
        "    return ExperimentConfig(name='t', data=data, item_features=(Hash('ad', buckets=9),),\n"
        "                            user_features=(Hash('user', buckets=9), History(of='ad')))\n"
    )
    code = (
        "import sys\n"
        "from twotower_tf.cli.main import main\n"
        f"status = main(['prepare', '--config={tmp_path}/config.py', '--run_dir={tmp_path}/run'])\n"
        "sys.exit(status or not {'tensorflow', 'pandas'}.isdisjoint(sys.modules))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "run/prepared/columns.json").exists()
