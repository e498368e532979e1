"""Buckets of the time after each item of a history: by hand, and from the log to training, signature and scoring."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import (
    GRU,
    DataConfig,
    ExperimentConfig,
    Hash,
    History,
    InBatchSoftmax,
    ModelConfig,
    TimeSplit,
    TrainConfig,
)
from twotower_tf.errors import DataError
from twotower_tf.export import signature_inputs, signatures, tf_examples
from twotower_tf.features import time_gaps
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.features.inputs import rows_to_arrays, side_inputs
from twotower_tf.features.tower_encoder import TowerEncoder
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train.batches import Batches

LENGTH = 4
# Seconds that passed, and the bucket, worked out by hand.
BY_HAND = {-5: 0, 0: 0, 1: 1, 2: 2, 3: 2, 4: 3, 59: 6, 60: 6, 63: 6, 64: 7, 1800: 11, 3600: 12, 86_400: 17}
BY_HAND |= {2**30 - 1: 30, 2**30: 31, 2**40: 31, 2**62: 31}
FEATURES = {"values0": History(of="ad", length=LENGTH, encoder=GRU(), time_gaps="ts", name="newest")}
FEATURES["values1"] = History(of="kind", length=LENGTH, encoder="attention", time_gaps="ts", name="kinds")


def experiment(root):
    return ExperimentConfig(
        name="t",
        data=DataConfig(
            root=str(root), events="events.parquet", user_id="user", item_id="ad", timestamp="ts", split=TimeSplit()
        ),
        item_features=(Hash("ad", buckets=1000), Hash("kind", buckets=1000)),
        user_features=tuple(FEATURES.values()),
        model=ModelConfig(embedding_dim=4, vector_dim=4),
        loss=InBatchSoftmax(),
        train=TrainConfig(batch_size=5, monitor=""),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Gaps from nothing to months; some times in fractions of a second, and some items without a kind."""
    root = tmp_path_factory.mktemp("gaps")
    rng = np.random.default_rng(5)
    gaps = rng.choice([0, 0, 400_000, 1_000_000, 90_000_000, 7_200_000_000, 3_000_000_000_000], 400)
    micros = 1_500_000_000_250_000 + np.cumsum(gaps)
    items = rng.integers(0, 40, 400)
    columns = {
        "user": [f"u{row}" for row in rng.integers(0, 15, 400)],
        "ad": [f"i{row}" for row in items],
        "kind": [f"k{row}" if row % 4 else None for row in items],
        "ts": pa.array(micros, pa.timestamp("us")),
    }
    pq.write_table(pa.table(columns), root / "events.parquet")
    config, run_dir = experiment(root), root / "run"
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    prepare_log(config, run_dir, threads=1)
    encode(config, Prepared.open(run_dir))
    return config, columns | {"ts": micros}, Prepared.open(run_dir), EncodedData(config, Prepared.open(run_dir))


def power_of_two(seconds):
    """The bucket, from Python's whole numbers."""
    return min(max(int(seconds), 0).bit_length(), 31)


def expect(columns, rows, split, row):
    """The buckets of a row's histories, from the log's rows: those of the newest four positives strictly before it."""
    event = rows[row]
    past = [each for each in rows if each["user"] == event["user"] and each["micros"] < event["micros"]]
    past = [each for each in past if each["split"] in ("train", "valid" if split == "test" else "train")][-LENGTH:]
    seconds = [each["micros"] // 1_000_000 for each in past]
    now = event["micros"] // 1_000_000
    until_next = [after - time for time, after in zip(seconds, [*seconds, now][1:], strict=True)]
    kinds = [now - time for time, each in zip(seconds, past, strict=True) if each["kind"]]
    return [power_of_two(each) for each in until_next], [power_of_two(each) for each in kinds]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_training_and_signature_have_the_gaps_of_the_log(run, split):
    config, columns, prepared, encoded = run
    names = [name for name in ("train", "valid", "test") for _ in range(prepared.num_rows(name))]
    order = np.argsort(columns["ts"], kind="stable")
    log = [
        {"user": columns["user"][at], "kind": columns["kind"][at], "micros": int(columns["ts"][at]), "split": name}
        for at, name in zip(order, names, strict=True)
    ]
    first = names.index(split)
    rows = np.arange(prepared.num_rows(split))
    batch = encoded.user_batch(split, rows)
    expected = [expect(columns, log, split, first + row) for row in rows]
    assert max(map(len, (each for each, _ in expected))) == LENGTH
    for key, wanted in zip(("values0_gaps", "values1_gaps"), zip(*expected, strict=True), strict=True):
        assert [[bucket for bucket in row if bucket >= 0] for row in batch[key].tolist()] == list(wanted)
        assert ((batch[key] >= 0) == (batch[key.removesuffix("_gaps")] >= 0)).all()
    # What a client sends, with an item more than training keeps, has the same ids and buckets in the graph.
    arrays = signature_inputs.user_arrays(config, prepared, encoded, split, rows)
    assert (arrays["kinds"] == b"").any()
    inputs = side_inputs(config, "user")
    sent = rows_to_arrays(inputs, signature_inputs.to_rows(inputs, arrays))
    side = TowerEncoder(config, prepared.statistics, "user")
    served = side.encode(signatures._texts(inputs, {name: tf.constant(array) for name, array in sent.items()}))
    for key, array in batch.items():
        found = served[key].numpy()
        width = max(found.shape[1], array.shape[1])
        padded = [np.pad(each, ((0, 0), (0, width - each.shape[1])), constant_values=-1) for each in (found, array)]
        np.testing.assert_array_equal(*padded, key)


def test_a_window_has_the_gaps_that_each_of_its_rows_has(run):
    config, _, prepared, encoded = run
    batches = Batches(config, prepared, encoded)
    compared = 0
    for (_, drawn), (x, _, _) in zip(batches.drawn(0), batches.epoch(0), strict=True):
        alone = encoded.user_batch("train", drawn.rows.index)
        for row, (window, seen) in enumerate(x["user_values0_places"]):
            values, gaps = (x[f"user_values0{end}"][window, :seen] for end in ("", "_gaps"))
            kept = np.count_nonzero(alone["values0"][row] >= 0)
            common = min(seen, kept)  # a later window begins within the history
            np.testing.assert_array_equal(values[seen - common :], alone["values0"][row, kept - common : kept])
            np.testing.assert_array_equal(gaps[seen - common :], alone["values0_gaps"][row, kept - common : kept])
            compared += common
        np.testing.assert_array_equal(x["user_values1_gaps"], alone["values1_gaps"])
    assert compared > 300


def test_buckets_are_powers_of_two_in_numpy_and_in_the_graph(tmp_path):
    passed, buckets = np.array([*BY_HAND]), np.array([*BY_HAND.values()], np.int32)
    now = 2**62 + 1_500_000_000
    np.testing.assert_array_equal(time_gaps.find_buckets(np.full(len(passed), now) - passed, now), buckets)
    side = TowerEncoder(experiment(tmp_path), {"user": {}, "item": {}}, "user")
    raw = {name: tf.constant([[b"a"]] * len(passed)) for name in ("newest", "kinds")}
    raw |= {f"{name}_times": tf.constant(now - passed[:, np.newaxis]) for name in raw}
    for key, found in side.encode(raw | {"ts": tf.fill([len(passed)], tf.constant(now, tf.int64))}).items():
        if key.endswith("_gaps"):
            np.testing.assert_array_equal(found.numpy()[:, 0], buckets)


def encode_rows(rows, tmp_path):
    config = experiment(tmp_path)
    inputs = side_inputs(config, "user")
    arrays = {name: tf.constant(array) for name, array in rows_to_arrays(inputs, rows).items()}
    encoded = TowerEncoder(config, {"user": {}, "item": {}}, "user").encode(signatures._texts(inputs, arrays))
    return [encoded["values0_gaps"].numpy().tolist(), encoded["values1_gaps"].numpy().tolist()]


def test_missing_times_leave_gaps_out_and_keep_their_places(tmp_path):
    start = 1_600_000_000
    times = [start, start + 1, start + 5, start + 7]  # 1, 4, 2 s; 93 s before the event
    rows = [
        {"newest": ["a", "b", "c", "d"], "newest_times": times, "ts": start + 100},
        {"newest": ["a", "b", "c", "d"], "newest_times": times},  # no time of the event
        {"newest": "a|b|c|d", "newest_times": "|".join(map(str, times)), "ts": start + 100},
        {"newest": ["a", "b", "c", "d"], "newest_times": [start, None, start + 5, start + 7], "ts": start + 100},
        {"newest": ["a", "b", "", "d"], "newest_times": times, "ts": start + 100},  # an item without a value
        {"newest": ["a", "b", "c", "d"], "newest_times": [start, start + 1, start + 200, start + 7], "ts": start + 100},
        {"newest": ["a", "b"], "ts": start + 100},
        {"newest": ["z", "a", "b", "c", "d"], "newest_times": [start - 9, *times], "ts": start + 100},
        {},
    ]
    assert encode_rows(rows, tmp_path)[0] == [
        [1, 3, 2, 7, -1],
        [1, 3, 2, -1, -1],
        [1, 3, 2, 7, -1],
        [-1, -1, 2, 7, -1],
        [1, 3, 7, -1, -1],
        [1, 8, 0, 7, -1],
        [-1, -1, -1, -1, -1],
        [1, 3, 2, 7, -1],
        [-1, -1, -1, -1, -1],
    ]
    side = TowerEncoder(experiment(tmp_path), {"user": {}, "item": {}}, "user")
    for rows, width in ((2, 0), (0, 3)):  # nobody has a history, nobody asks
        raw = {name: tf.fill([rows, width], "") for name in ("newest", "kinds")}
        raw |= {f"{name}_times": tf.zeros([rows, 0], tf.int64) for name in raw}
        encoded = side.encode(raw | {"ts": tf.zeros([rows], tf.int64)})
        assert encoded["values0_gaps"].numpy().tolist() == [[-1]] * rows
    until_event = [{"kinds": ["a", "b"], "kinds_times": [start, start + 99], "ts": start + 100}]
    assert encode_rows(until_event, tmp_path)[1] == [[7, 1, -1]]


def test_a_history_with_another_number_of_times_is_an_error(tmp_path):
    inputs = side_inputs(experiment(tmp_path), "user")
    with pytest.raises(DataError) as caught:
        rows_to_arrays(inputs, [{}, {"newest": ["a", "b"], "newest_times": [1_600_000_000]}])
    assert str(caught.value) == (
        "row 1: feature 'newest_times': 1 times (expected 2, one for each value of 'newest', or none)"
    )
    with pytest.raises(DataError, match="feature 'newest_times': invalid time 'soon'"):
        rows_to_arrays(inputs, [{"newest": ["a"], "newest_times": ["soon"]}])


def test_examples_of_any_type_of_list_keep_items_next_to_their_times(tmp_path):
    config = experiment(tmp_path)

    def example(items, times):
        kinds = {bytes: "bytes_list", int: "int64_list", float: "float_list"}
        lists = {"newest": items, "newest_times": times, "ts": [1_600_000_100]}
        features = {
            name: tf.train.Feature(**{kinds[type(values[0])]: {"value": values}}) for name, values in lists.items()
        }
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    texts = [b"1600000000", b"1600000001", b"1600000099"]
    rows = [example([b"a", b"b", b"c"], [1_600_000_000, 1_600_000_001, 1_600_000_099]), example([7, 8, 9], texts)]
    raw = tf_examples.decode(side_inputs(config, "user"), tf.constant(rows))
    assert raw["newest"].numpy().tolist() == [[b"a", b"b", b"c"], [b"7", b"8", b"9"]]
    side = TowerEncoder(config, {"user": {}, "item": {}}, "user")
    assert side.encode(raw)["values0_gaps"].numpy().tolist() == [[1, 7, 1, -1]] * 2
