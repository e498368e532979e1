"""Files of answers: what is in them, and that their bytes depend on nothing else."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.config import DataConfig
from twotower_tf.errors import DataError
from twotower_tf.score import answer_stats, answer_tables, exclusions
from twotower_tf.score.answer_stats import AnswerStats, sum_notes
from twotower_tf.score.answer_tables import Layout
from twotower_tf.score.exclusions import Exclusions, read_lists

SCORES = np.array([0.5, 0.25, 0.125, 0.0], np.float32)
IDS = np.array([f"i{number}" for number in range(40)], object)


def answers(layout, start, stop):
    """Users with 0 to 3 answers."""
    counts = np.arange(start, stop) % 4
    ends = np.concatenate(([0], np.cumsum(counts)))
    listed = [(user + place) % 40 for user in range(start, stop) for place in range(user % 4)]
    rows = np.array(listed, np.int32)
    scores = (rows / 40).astype(np.float32)
    return layout.answers(pa.array([f"u{user}" for user in range(start, stop)]), ends, rows, scores)


def test_parquet_is_the_same_however_it_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(answer_tables, "_ROWS_PER_GROUP", 1024)
    layout = Layout(7, "parquet", 3, IDS)
    for name, step in (("a", 5000), ("b", 700), ("c", 1024), ("d", 1)):
        stop = 5000 if step > 1 else 1500
        writer = layout.writer(tmp_path / name)
        for start in range(0, stop, step):
            writer.write(answers(layout, start, min(stop, start + step)))
        writer.close()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    found = pq.read_table(tmp_path / "a")
    assert found.schema.names == ["user_id", "item_ids", "scores", "model_version"]
    assert found.schema.field("item_ids").type.value_type == pa.string()
    rows = found.to_pylist()
    assert rows[6] == {
        "user_id": "u6",
        "item_ids": ["i6", "i7"],
        "scores": [np.float32(0.15), np.float32(0.175)],
        "model_version": 7,
    }
    assert rows[4]["item_ids"] == [] and len(rows) == 5000
    assert pq.read_table(tmp_path / "d").equals(found.slice(0, 1500))
    groups = pq.read_metadata(tmp_path / "a")
    assert [groups.row_group(number).num_rows for number in range(5)] == [1024] * 4 + [904]


def test_names_of_items(tmp_path):
    """Two items of one name, and one without."""
    names = pa.chunked_array([pa.array(["Heat"] * 2), pa.array([None, "Ran"] + [f"n{n}" for n in range(4, 40)])])
    layout = Layout(7, "parquet", 3, IDS, names)
    writer = layout.writer(tmp_path / "a")
    writer.write(layout.answers(pa.array(["u", "v"]), np.array([0, 3, 4]), np.array([1, 2, 0, 3], np.int32), SCORES))
    writer.close()
    found = pq.read_table(tmp_path / "a")
    assert found.schema.names == ["user_id", "item_ids", "item_names", "scores", "model_version"]
    assert found["item_names"].to_pylist() == [["Heat", "", "Heat"], ["Ran"]]
    assert found["item_ids"].to_pylist() == [["i1", "i2", "i0"], ["i3"]]
    assert layout.plain(layout.answers(pa.array(["u"]), np.array([0, 1]), np.array([2], np.int32), SCORES[:1])).equals(
        pa.table([["u"], [["i2"]], [[""]], pa.array([[0.5]], pa.list_(pa.float32())), [7]], schema=layout.schema)
    )


def test_tsv(tmp_path):
    layout = Layout(7, "tsv", 3, IDS)
    writer = layout.writer(tmp_path / "a")
    writer.write(answers(layout, 4, 8))
    writer.write(answers(layout, 8, 8))
    writer.write(
        layout.answers(pa.array(["ü"]), np.array([0, 1]), np.array([39], np.int32), np.array([-1e-9], np.float32))
    )
    writer.close()
    assert (tmp_path / "a").read_text(encoding="utf-8") == (
        "u4\t\t\t7\nu5\ti5\t0.125\t7\nu6\ti6,i7\t0.15,0.175\t7\nu7\ti7,i8,i9\t0.175,0.2,0.225\t7\nü\ti39\t-1e-9\t7\n"
    )


def test_tsv_of_vectors_reads_back_to_the_bit(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    layout = Layout(7, "tsv", 8, None)
    writer = layout.writer(tmp_path / "a")
    writer.write(layout.vectors(pa.array([f"u{user}" for user in range(50)]), vectors))
    writer.close()
    lines = [line.split("\t") for line in (tmp_path / "a").read_text().splitlines()]
    np.testing.assert_array_equal(np.array([line[1].split(",") for line in lines], np.float32), vectors)


def test_an_id_with_a_comma_cannot_be_listed():
    with pytest.raises(DataError) as raised:
        Layout(7, "tsv", 3, np.array(["a", "b,c"], object))
    assert str(raised.value) == (
        "--format=tsv: invalid item id 'b,c' (expected no comma, which separates ids); use --format=parquet"
    )


def test_users_of_one_hash_are_told_apart(tmp_path):
    """Three users share the first hash, as none of a billion do; a stranger shares it too."""
    found = Exclusions.__new__(Exclusions)
    arrays = {
        "users": np.array([5, 5, 5, 9], np.uint64),
        "checks": np.array([1, 4, 8, 2], np.uint64),
        "offsets": np.array([0, 2, 3, 5, 6]),
        "rows": np.array([10, 11, 20, 30, 31, 90], np.int32),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    found = Exclusions(tmp_path)
    asked = [(5, 8), (5, 1), (5, 7), (9, 2), (9, 9), (1, 1), (99, 1), (5, 4)]

    class Hashes:
        def register(self, name, table):
            pass

        def sql(self, query):
            return self

        def to_arrow_table(self):
            columns = zip(*asked, strict=True)
            return pa.table({str(number): pa.array(column, pa.uint64()) for number, column in enumerate(columns)})

    found._connection = Hashes()
    excluded = found.of(pa.array(["?"] * len(asked)))
    listed = [
        excluded.rows[start:stop].tolist() for start, stop in zip(excluded.offsets, excluded.offsets[1:], strict=False)
    ]
    assert listed == [[30, 31], [10, 11], [], [90], [], [], [], [20]]


def test_pairs_and_users_in_another_form_than_the_log_s_are_found(tmp_path):
    """The log in CSV has `7.0`; pairs and users are typed, or have the log's own text."""
    pq.write_table(pa.table({"user": [7, 7, 8, 9], "item": [1.0, 2.0, 2.0, 3.0]}), tmp_path / "pairs.parquet")
    data, forms = DataConfig(user_id="user", item_id="item"), {"user": "3.0", "item": "3.0"}
    ids = ["0.0", "1.0", "2.0"]
    sources = exclusions.find(data, str(tmp_path / "pairs.parquet"))
    exclusions.build(tmp_path / "sorted", sources, data, forms, ids, "100MB", 1)
    excluded = Exclusions(tmp_path / "sorted", "3.0").of(pa.array(["7", "9", "8.0", None, "7.0", "6"]))
    assert excluded.offsets.tolist() == [0, 2, 2, 3, 3, 5, 5] and excluded.rows.tolist() == [1, 2, 2, 1, 2]


def test_lists_of_seen_items():
    excluded = read_lists(pa.array([[3, -1, 3, 1], None, [], [2]], pa.list_(pa.int32())))
    assert excluded.offsets.tolist() == [0, 2, 2, 2, 3] and excluded.rows.tolist() == [1, 3, 2]


def test_tallies_of_units_add_up():
    rng = np.random.default_rng(0)
    whole, notes = AnswerStats(1000), []
    for _ in range(5):
        part = AnswerStats(1000)
        rows, scores = rng.integers(0, 400, 300).astype(np.int32), rng.uniform(-1, 1, 300).astype(np.float32)
        for each in (whole, part):
            each.add(100, rows, scores)
        notes.append({**part.note(), "quarantined": [{}]})
    notes.append({**AnswerStats(1000).note(), "quarantined": []})
    found = sum_notes(notes, 1000)
    assert found.summary() == whole.summary() and found.users == 500 and found.quarantined == 5
    assert found.summary()["scores"]["0.5"] == pytest.approx(0, abs=0.1)


def test_tallies_by_hand(monkeypatch):
    """Three answers at a time; rounding may put a cosine beyond 1."""
    monkeypatch.setattr(answer_stats, "_AT_A_TIME", 3)
    scores = np.float32([1.0000001, 0.5, 0.5, 0.5, -0.25, -1.0000001, 0.0015])
    counted = AnswerStats(5)
    counted.add(2, np.int32([4, 1, 1, 4, 2, 4, 4]), scores)
    found = counted.summary()
    assert (found["answers"], found["distinct_items"]) == (7, 3)
    places = {0: 1, 750: 1, 1001: 1, 1500: 3, 1999: 1}  # of the 2,000 bins from -1 to 1
    assert {place: int(counted._bins[place]) for place in np.flatnonzero(counted._bins)} == places
    assert found["scores"]["mean"] == round(1.2515 / 7, 4)
    assert (found["scores"]["min"], found["scores"]["max"], found["scores"]["0.5"]) == (-1.0, 1.0, 0.5005)
