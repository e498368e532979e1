"""Users built from a prepared log, against the log's own rows read by hand."""

import dataclasses
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.test_incremental import experiment
from tests.prepare.test_preparation import write_csv
from twotower_tf import config as configuration
from twotower_tf.config import Hash, History, Hour, Numeric, TimeSplit
from twotower_tf.errors import ArtifactError
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.score import users_from_events
from twotower_tf.score.score_options import Options
from twotower_tf.score.score_plan import Planner
from twotower_tf.score.scorer import Scorer
from twotower_tf.score.type_columns import ColumnTyper


@pytest.fixture(scope="module")
def log(trained):
    """Every row of the log in the order of time, with the names of user and item."""
    run_dir, _ = trained
    prepared = Prepared.open(run_dir)
    users, items = prepared.user_ids(), prepared.item_ids()
    rows = []
    for split in ("train", "valid", "test"):
        for path in prepared.parts(split):
            rows += pq.read_table(path).to_pylist()
    for row in rows:
        row["user"], row["item"] = users[row["user_row"]], items[row["item_row"]]
    return sorted(rows, key=lambda row: row["timestamp"])


pytestmark = pytest.mark.usefixtures("one_tower")


@pytest.fixture
def scored(trained, export_dir, tmp_path_factory, one_tower):
    run_dir, config = trained
    output = tmp_path_factory.mktemp("from_events") / "out"
    options = Options(
        export_dir=export_dir, output=output, users_from_events=str(run_dir), exclude_seen=True, k=20, at=1736500000
    )
    planner = Planner(options)
    with planner.journal.lock():
        job, units = planner.make_plan()
        built = pq.read_table(job.sources[0].path)
        with job.open(job.sources[units[0].file], units[0], 4096) as rows:
            bad = []
            scorer = Scorer(job, planner.bundle)
            answers = pa.concat_tables(list(scorer.tables(rows, scorer.stats(), bad)))
        assert bad == []
        planner.journal.remove_work_files()
    return config, built, answers


def test_latest_features_and_whole_histories(log, scored):
    config, built, _ = scored
    latest, taken = {}, defaultdict(list)
    for row in log:
        latest[row["user"]] = row
        if row["label"]:
            taken[row["user"]].append((row["timestamp"], row["item"]))
    rows = {row["user_id"]: row for row in built.to_pylist()}
    assert set(rows) == set(latest) and len(rows) == built.num_rows
    for user, row in rows.items():
        for name in ("country", "age", "interests", "device_type"):
            of_time = [each for each in log if each["user"] == user and each["timestamp"] == latest[user]["timestamp"]]
            assert row[name] in [each[f"user.{name}"] for each in of_time]
        times = [time for time, _ in taken[user]][-5:]
        assert len(row["history"]) == min(5, len(taken[user]))
        assert all(
            (time, item) in taken[user] for time, item in zip(times, row["history"], strict=True)
        )  # items of one second may stand in either order
    assert any(len(row["history"]) == 5 for row in rows.values())


def test_seen_items_are_left_out(log, scored):
    _, _, answers = scored
    seen = defaultdict(set)
    for row in log:
        if row["label"]:
            seen[row["user"]].add(row["item"])
    rows = answers.to_pylist()
    assert sum(len(seen[row["user_id"]]) for row in rows) > 500
    for row in rows:
        assert not seen[row["user_id"]] & set(row["item_ids"]) and len(row["item_ids"]) == 20


def test_answers_are_those_of_the_same_users_in_a_table(trained, export_dir, scored, tmp_path):
    """What was built is an ordinary table: scored as one, without the seen items, it gives the same scores."""
    _, built, answers = scored
    pq.write_table(built.drop_columns(["seen_rows"]), tmp_path / "u.parquet")
    options = Options(
        export_dir=export_dir, output=tmp_path / "o", users=str(tmp_path / "u.parquet"), k=150, at=1736500000
    )
    planner = Planner(options)
    with planner.journal.lock():
        job, units = planner.make_plan()
        scorer = Scorer(job, planner.bundle)
        with job.open(job.sources[units[0].file], units[0], 4096) as rows:
            everything = pa.concat_tables(list(scorer.tables(rows, scorer.stats(), [])))
    for row, whole in zip(answers.to_pylist(), everything.to_pylist(), strict=True):
        scores = dict(zip(whole["item_ids"], whole["scores"], strict=True))
        assert [scores[item] for item in row["item_ids"]] == row["scores"]


def test_a_log_of_other_features_is_refused(trained, export_dir, tmp_path):
    run_dir, config = trained
    document = configuration.to_json(config).replace('"country"', '"land"')
    other = tmp_path / "run"
    other.mkdir()
    (other / "prepared").symlink_to(run_dir / "prepared")
    (other / "config.json").write_text(document)
    with pytest.raises(
        ArtifactError, match="--users_from_events: .*run: user_features differ from those of the bundle"
    ):
        Planner(Options(export_dir=export_dir, output=tmp_path / "o", users_from_events=str(other)))
    with pytest.raises(ArtifactError, match="no finished preparation"):
        Planner(Options(export_dir=export_dir, output=tmp_path / "o", users_from_events=str(tmp_path)))


def test_a_users_table_as_the_log_has_it_is_judged_alike(scored):
    """Nothing that was built ends in the quarantine: ids and numbers are the log's own."""
    config, built, _ = scored
    from twotower_tf.score import user_columns

    present = [each for each in user_columns.list_feature_columns(config) if each.role != "time"]
    users, bad = ColumnTyper("user_id", present, {}).type_rows(built, 0)
    assert bad == [] and users.good.all()
    assert np.isfinite(users.columns["age"].drop_null().to_numpy()).all()
    assert users_from_events.SEEN in built.column_names


def test_users_who_are_in_none_of_the_new_files_keep_their_features(tmp_path):
    """Three days by hand, each prepared on top of the one before it."""
    config = dataclasses.replace(
        experiment(tmp_path, users="users.csv", label="", split=TimeSplit(0.3, 0.3)),
        item_features=(Hash("item", buckets=10),),
        user_features=(
            Hash("user", buckets=10), Hash("device", buckets=10), Numeric("age"), Hour("time"),
            History(of="item", length=3),
        ),
    )  # fmt: skip
    days = {
        1: ([("a", "w", "phone"), ("b", "x", "desk"), ("a", "y", "tablet"), ("c", "y", "tv")], {"a": 31, "b": 41}),
        2: ([("b", "z", "watch"), ("d", "x", "desk")], {"b": 42}),
        3: ([("d", "w", ""), ("d", "y", "phone"), ("d", "z", "tv")], {"a": 33, "d": ""}),
    }
    for day, (events, ages) in days.items():
        rows = [
            {"user": user, "item": item, "time": 86_400 * day + at, "device": device}
            for at, (user, item, device) in enumerate(events)
        ]
        write_csv(tmp_path / f"events/{day}.csv", rows)
        write_csv(tmp_path / "users.csv", [{"user": user, "age": age} for user, age in ages.items()])
        prepare_log(config, tmp_path / f"run{day}", since=tmp_path / f"run{day - 1}" if day > 1 else None)
    prepared = Prepared.open(tmp_path / "run3")
    index_rows = np.arange(prepared.num_items, dtype=np.int32)
    users_from_events.build(tmp_path / "built", prepared, config, index_rows, "1GB", 1)
    found = pq.read_table(tmp_path / "built").to_pylist()
    names = prepared.item_ids()
    assert [(row["user"], row["device"], row["age"], row["history"]) for row in found] == [
        ("a", "tablet", 33, ["w", "y"]),
        ("b", "watch", 42, ["x", "z"]),
        ("c", "tv", None, ["y"]),
        ("d", "tv", None, ["w", "y", "z"]),
    ]
    seen = [{names[item] for item in row[users_from_events.SEEN]} for row in found]
    assert seen == [{"w", "y"}, {"x", "z"}, {"y"}, {"x", "w", "y", "z"}]
