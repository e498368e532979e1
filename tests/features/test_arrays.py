"""Encoded batches compared with their raw rows."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, History, Numeric, RandomSplit, Tags, TimeSplit
from twotower_tf.errors import ArtifactError
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared

BUCKETS = 10_000  # of few values: no two share one here


def items_at_events(encoded: EncodedData, split: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Encoded items of a split's rows, as of the events' times."""
    return encoded.item_batch(encoded.keys(split)["item_row"][rows], encoded.times(split, rows))


def log(seed, events, users, items):
    rng = np.random.default_rng(seed)
    return {
        "user": [f"u{row}" for row in rng.integers(0, users, events)],
        "ad": [f"i{row}" for row in rng.integers(0, items, events)],
        "ts": rng.integers(1_700_000_000, 1_700_000_060, events),  # many equal times
        "price": rng.uniform(1, 9, events).round(2),
        "tags": [rng.choice(["a|b", "b", "", "c|a|b", None]) for _ in range(events)],
    }


def prepared_run(root, columns, **data):
    pq.write_table(pa.table(columns), root / "events.parquet")
    config = ExperimentConfig(
        name="t",
        data=DataConfig(root=str(root), events="events.parquet", user_id="user", item_id="ad", **data),
        item_features=(Hash("ad", buckets=BUCKETS), Numeric("price", transform="none")),
        user_features=(Hash("user", buckets=BUCKETS), Tags("tags", buckets=BUCKETS), History(of="ad", length=4)),
    )
    run_dir = root / "run"
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    prepare_log(config, run_dir, threads=1)
    prepared = Prepared.open(run_dir)
    encode(config, prepared)
    return config, prepared, EncodedData(config, prepared)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    columns = log(1, 600, 25, 40)
    return prepared_run(tmp_path_factory.mktemp("timed"), columns, timestamp="ts", split=TimeSplit())


@pytest.fixture(scope="module")
def untimed(tmp_path_factory):
    columns = log(2, 500, 25, 40)
    return prepared_run(tmp_path_factory.mktemp("untimed"), columns, timestamp="", split=RandomSplit())


def bucket(text):
    return int(tf.strings.to_hash_bucket_fast(text, BUCKETS))


def raw_rows(prepared, split):
    return prepared.read_rows(split).to_pylist()


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_histories_are_the_last_positives_strictly_before_the_event(timed, split):
    _, prepared, encoded = timed
    ids = prepared.item_ids()
    allowed = ["train", "valid"] if split == "test" else ["train"]
    earlier = [row for name in allowed for row in raw_rows(prepared, name)]
    batch = encoded.user_batch(split, np.arange(prepared.num_rows(split)))
    for row, got in zip(raw_rows(prepared, split), batch["values1"], strict=True):
        before = [e for e in earlier if e["user_row"] == row["user_row"] and e["timestamp"] < row["timestamp"]]
        before.sort(key=lambda e: e["timestamp"])  # stable: rows of one time stay in the log's order
        expected = [bucket(ids[e["item_row"]]) for e in before[-4:]]
        assert [value for value in got if value != -1] == expected
        assert got[: len(expected)].tolist() == expected  # padding stands at the end


def test_without_time_a_training_history_is_of_the_users_other_items(untimed):
    _, prepared, encoded = untimed
    keys = encoded.keys("train")
    rows = np.arange(len(keys["user_row"]))
    everything = {}
    for user, item in zip(keys["user_row"], keys["item_row"], strict=True):
        everything.setdefault(user, set()).add(int(item))
    seen = {}
    for seed in range(40):
        histories = encoded.history_items("train", rows, 4, np.random.default_rng(seed))
        for row, history in enumerate(histories):
            values = [int(value) for value in history if value != -1]
            others = everything[keys["user_row"][row]] - {int(keys["item_row"][row])}
            assert set(values) <= others and len(values) <= 4
            assert history[: len(values)].tolist() == values
            seen.setdefault(row, set()).update(values)
    # Over many epochs a row meets all of the user's other items, not one fixed part.
    met = [len(seen[row]) / max(1, len(everything[keys["user_row"][row]]) - 1) for row in rows]
    assert np.mean(met) > 0.95


def test_without_time_a_test_history_is_the_end_of_all_that_was_seen(untimed):
    _, prepared, encoded = untimed
    histories = encoded.history_items("test", np.arange(prepared.num_rows("test")), 4)
    sequence, users = prepared.sequence("seen"), prepared.sequence_users("seen")
    for user, history in zip(encoded.keys("test")["user_row"], histories, strict=True):
        expected = sequence[users[user] : users[user + 1]][-4:].tolist()
        assert [value for value in history.tolist() if value != -1] == expected


def test_rows_carry_the_values_of_their_users_event_and_the_catalogue_the_latest(timed):
    _, prepared, encoded = timed
    rows = raw_rows(prepared, "train")
    batch = encoded.user_batch("train", np.arange(len(rows)))
    for place, row in enumerate(rows):
        assert batch["ids"][place].tolist() == [bucket(row["user.user"])]
        tags = [bucket(tag) for tag in (row["user.tags"] or "").split("|") if tag]
        assert [value for value in batch["values0"][place] if value != -1] == tags
    catalogue = prepared.items().to_pylist()
    numbers = encoded.item_batch(np.arange(prepared.num_items))["numeric"][:, 0]
    assert numbers.tolist() == [np.float32(item["price"]) for item in catalogue]


def said_before(log, item, time):
    """The price in the last row of an item before a time, else in its first row; of equal times the last one."""
    rows = [row for row in log if row["ad"] == item]
    before = [row for row in rows if row["ts"] < time] or [row for row in rows if row["ts"] == rows[0]["ts"]]
    return np.float32(before[-1]["price"])


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_own_items_and_any_others_have_the_values_said_before_the_event(timed, split):
    _, prepared, encoded = timed
    columns = log(1, 600, 25, 40)
    everything = sorted(pa.table(columns).to_pylist(), key=lambda row: row["ts"])  # stable: the log's order at one time
    held_out = [row["timestamp"] for row in raw_rows(prepared, "test")]
    known = [row for row in everything if row["ts"] < min(held_out)]  # test rows reveal nothing
    met = {row["ad"] for row in known}
    assert met == {row["ad"] for row in everything}
    ids = prepared.item_ids()
    keys = encoded.keys(split)
    own = items_at_events(encoded, split, np.arange(len(keys["item_row"])))
    others = np.random.default_rng(0).integers(0, prepared.num_items, len(keys["item_row"]))
    drawn = encoded.item_batch(others, keys["timestamp"] * 1_000_000)
    assert len(own["numeric"]) == prepared.num_rows(split) > 50
    for place, (item, other, time) in enumerate(zip(keys["item_row"], others, keys["timestamp"], strict=True)):
        assert own["ids"][place].tolist() == [bucket(ids[item])]
        assert own["numeric"][place, 0] == said_before(known, ids[item], time)
        assert drawn["ids"][place].tolist() == [bucket(ids[other])]
        assert drawn["numeric"][place, 0] == said_before(known, ids[other], time)
    # what SQL joined to the rows, of which statistics are made, is what is looked up here
    assert own["numeric"][:, 0].tolist() == [np.float32(row["item.price"]) for row in raw_rows(prepared, split)]


def test_the_catalogue_is_ranked_as_of_a_held_out_splits_first_event(timed, untimed):
    _, prepared, encoded = timed
    times = {split: [row["timestamp"] for row in raw_rows(prepared, split)] for split in ("train", "valid", "test")}
    assert encoded.ranking_time("train") == max(times["train"]) * 1_000_000
    assert encoded.ranking_time("valid") == min(times["valid"]) * 1_000_000
    assert encoded.ranking_time("test") == min(times["test"]) * 1_000_000 > max(times["valid"]) * 1_000_000
    _, prepared, encoded = untimed  # nothing is before anything: the catalogue holds for all
    assert not encoded.varies and [encoded.ranking_time(split) for split in times] == [None] * 3
    assert not (prepared.paths.item_versions.exists() or prepared.paths.encoded_versions.exists())
    rows = encoded.keys("train")["item_row"]
    carried = items_at_events(encoded, "train", np.arange(len(rows)))
    assert carried["numeric"].tolist() == encoded.item_batch(rows)["numeric"].tolist()


def test_arrays_of_another_configuration_are_refused(timed):
    config, prepared, _ = timed
    other = dataclasses.replace(config, item_features=(Hash("ad", buckets=BUCKETS),))
    with pytest.raises(ArtifactError, match="encoded for another configuration; run `twotower prepare` again"):
        EncodedData(other, prepared)


@pytest.mark.parametrize(
    "name", ["genre/sub", "ids", "numeric", "values1", "../../../outside", "..", "a*[b]", "name.npy"]
)
def test_a_feature_of_any_name_is_encoded_inside_the_run_directory(tmp_path, name):
    columns = {
        "user": ["u1", "u1", "u2", "u2"],
        "ad": ["i1", "i2", "i1", "i3"],
        name: ["a|b", "", "b", "c|a|b"],
        "kind": ["x", "y|x", "", "z"],
    }
    root = tmp_path / "data"
    root.mkdir()
    pq.write_table(pa.table(columns), root / "events.parquet")
    config = ExperimentConfig(
        name="t",
        data=DataConfig(
            root=str(root), events="events.parquet", user_id="user", item_id="ad", timestamp="",
            split=RandomSplit(valid_fraction=0.0, test_fraction=0.0),
        ),
        item_features=(Hash("ad", buckets=BUCKETS),),
        user_features=(Hash("user", buckets=BUCKETS), Tags(name, buckets=BUCKETS), Tags("kind", buckets=BUCKETS)),
    )  # fmt: skip
    run_dir = tmp_path / "run"
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    prepare_log(config, run_dir, threads=1)
    prepared = Prepared.open(run_dir)
    encode(config, prepared)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run"]
    encoded = run_dir / "prepared" / "encoded"
    files = sorted(str(path.relative_to(encoded)) for path in encoded.rglob("*.npy"))
    assert files == ["items/ids.npy", "train/user.ids.npy", "train/user.values0.npy", "train/user.values1.npy"]
    batch = EncodedData(config, prepared).user_batch("train", np.arange(4))
    assert set(batch) == {"ids", "values0", "values1"}
    for key, column in (("values0", name), ("values1", "kind")):
        expected = [
            [bucket(tag) for tag in row[f"user.{column}"].split("|") if tag] if row[f"user.{column}"] else []
            for row in raw_rows(prepared, "train")
        ]
        assert [[value for value in row if value != -1] for row in batch[key].tolist()] == expected
    assert batch["ids"].shape == (4, 1)


def test_arrays_of_an_earlier_format_are_refused(untimed):
    config, prepared, _ = untimed
    path = prepared.paths.encoded_items.parent / "manifest.json"
    kept = path.read_text()
    path.write_text(kept.replace('"schema_version": 3', '"schema_version": 2'))
    try:
        with pytest.raises(ArtifactError) as error:
            EncodedData(config, prepared)
    finally:
        path.write_text(kept)
    assert str(error.value) == (
        f"{path}: invalid schema_version 2 (expected 3, which this version of twotower_tf reads); "
        "run `twotower prepare` again"
    )


def test_items_are_taken_as_of_the_microsecond(tmp_path):
    """A price said at a microsecond is known from the next one on, within one second."""
    start = 1_700_000_000_000_000
    columns = {
        "user": ["u"] * 4 + ["w"] * 2,
        "ad": ["i"] * 4 + ["j"] * 2,
        "ts": [start, start + 400_000, start + 400_001, start + 999_999, start, start + 400_000],
        "price": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "tags": [None] * 6,
    }
    _, prepared, encoded = prepared_run(tmp_path, columns, timestamp="ts", split=RandomSplit(0.0, 0.0))
    found = items_at_events(encoded, "train", np.arange(6))["numeric"][:, 0]
    ids = prepared.item_ids()[encoded.keys("train")["item_row"]]
    prices = {item: found[ids == item].tolist() for item in "ij"}
    assert prices == {"i": [1.0, 1.0, 2.0, 3.0], "j": [5.0, 5.0]}
    assert encoded.keys("train")["timestamp"].tolist() == [1_700_000_000] * 6
