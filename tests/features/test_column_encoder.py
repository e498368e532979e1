"""Encoding by distinct values against `TowerEncoder.encode` on every row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
    TimeSplit,
    Weekday,
)
from twotower_tf.features.array_writer import ArrayWriter
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.column_encoder import find_combinations
from twotower_tf.features.encode_rows import encode
from twotower_tf.features.inputs import rows_to_arrays
from twotower_tf.features.tower_encoder import TowerEncoder
from twotower_tf.prepare import training_rows
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module", params=["in order", "shuffled"])
def run(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("distinct")
    rng = np.random.default_rng(3)
    events = 3000
    times = np.sort(rng.integers(1_700_000_000, 1_700_500_000, events))
    if request.param == "shuffled":
        rng.shuffle(times)
    pq.write_table(
        pa.table(
            {
                "user": [f"u{row}" for row in rng.integers(0, 90, events)],
                "ad": [f"i{row}" for row in rng.integers(0, 40, events)],
                "ts": times,
                "device": rng.choice(["phone", "tv", "", "Ünï", None], events),
                "age": rng.choice([1.5, 2, 3, 40, None], events),
                "place": rng.choice(["top", "side", None], events),
                # values grow late, so that a later part is wider than the first
                "tags": [f"{rng.integers(9)}|x" * int(1 + row // 900) if row % 7 else "" for row in range(events)],
            }
        ),
        root / "events.parquet",
    )
    items = [{"ad": f"i{row}", "brand": f"b{row % 5}" if row % 6 else None, "price": float(row)} for row in range(45)]
    pq.write_table(pa.Table.from_pylist(items), root / "items.parquet")
    config = ExperimentConfig(
        name="t",
        data=DataConfig(
            root=str(root), events="events.parquet", items="items.parquet", user_id="user", item_id="ad",
            timestamp="ts", split=TimeSplit(),
        ),
        item_features=(
            Hash("ad", buckets=997), Hash("brand", buckets=97), Hash("place", buckets=91),
            Cross(("brand", "place"), buckets=499), Cross(("ad", "brand"), buckets=499), Numeric("price"),
        ),
        user_features=(
            Hash("user", buckets=997), Cross(("user", "device", "place"), buckets=9973), Numeric("age"),
            Bucketized("age", buckets=3, name="age_bucket"), Tags("tags", buckets=99, max_length=3), Hour("ts"),
            Weekday("ts"), History(of="ad", length=4),
        ),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_rows, "count_part_rows", lambda columns: 256)
        prepare_log(config, root / "run")
    prepared = Prepared.open(root / "run")
    assert len(prepared.parts("train")) == 10
    encode(config, prepared)
    return config, prepared, EncodedData(config, prepared)


def directly(side, rows):
    raw = {name: tf.constant(array) for name, array in rows_to_arrays(side.inputs, rows).items()}
    return {name: array.numpy() for name, array in side.encode(raw).items()}


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_encoded_as_the_tower_encodes_them(run, split):
    config, prepared, encoded = run
    rows = prepared.read_rows(split).to_pylist()
    catalogue = prepared.items().to_pylist()
    places = np.arange(len(rows))
    user = [
        {name: row[f"user.{name}"] for name in ("user", "device", "place", "age", "tags")} | {"ts": row["timestamp"]}
        for row in rows
    ]
    expected = directly(TowerEncoder(config, prepared.statistics, "user"), user)
    got = encoded.user_batch(split, places)
    assert np.array_equal(got["ids"], expected["ids"])
    np.testing.assert_allclose(got["numeric"], expected["numeric"], rtol=1e-6)  # a graph divides by multiplying
    width = expected["values0"].shape[1]
    assert np.array_equal(got["values0"][:, :width], expected["values0"])
    assert (got["values0"][:, width:] == -1).all()
    item = [
        {name: catalogue[row["item_row"]][name] for name in ("ad", "brand", "price")} | {"place": row["item.place"]}
        for row in rows
    ]
    expected = directly(TowerEncoder(config, prepared.statistics, "item"), item)
    got = encoded.item_batch(encoded.keys(split)["item_row"][places], encoded.times(split, places))
    assert np.array_equal(got["ids"], expected["ids"])
    np.testing.assert_allclose(got["numeric"], expected["numeric"], rtol=1e-6)  # a graph divides by multiplying


def test_the_catalogue_is_encoded_as_the_tower_encodes_it(run):
    config, prepared, encoded = run
    rows = [{name: row[name] for name in ("ad", "brand", "price", "place")} for row in prepared.items().to_pylist()]
    expected = directly(TowerEncoder(config, prepared.statistics, "item"), rows)
    got = encoded.item_batch(np.arange(len(rows)))
    assert np.array_equal(got["ids"], expected["ids"])
    np.testing.assert_allclose(got["numeric"], expected["numeric"], rtol=1e-6)  # a graph divides by multiplying


def test_combinations_are_those_that_occur():
    first, second, third = (np.array(codes) for codes in ([5, 0, 5, 2], [1, 1, 1, 0], [7, 7, 7, 9]))
    codes, chosen = find_combinations([first, second, third], [2**31, 2**31, 2**31])
    assert len(chosen[0]) == 3
    assert [each[codes].tolist() for each in chosen] == [first.tolist(), second.tolist(), third.tolist()]


def test_a_wider_block_widens_what_was_written(tmp_path):
    writer = ArrayWriter(tmp_path / "a.npy", 5)
    writer.append(np.array([[1], [2]], np.int32))
    writer.append(np.array([[3, 4]], np.int32))
    writer.append(np.array([[5], [6]], np.int32))
    writer.close()
    assert np.load(tmp_path / "a.npy").tolist() == [[1, -1], [2, -1], [3, 4], [5, -1], [6, -1]]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
