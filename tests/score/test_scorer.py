"""Every answer against plain TensorFlow and a brute-force ranking of the vectors that the TSV holds."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tests.score.in_process import scored
from tests.score.people import delimited, json_lines, parquet, people
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.errors import ArtifactError, ConfigError
from twotower_tf.features.inputs import rows_to_arrays, side_inputs
from twotower_tf.score.score_options import Options

AT = 1736500000

pytestmark = pytest.mark.usefixtures("one_tower")


@pytest.fixture(scope="module")
def tsv(export_dir):
    lines = [line.split("\t") for line in (export_dir / "7" / "item_embeddings.tsv").read_text().splitlines()]
    return np.array([line[0] for line in lines]), np.array([line[1].split(",") for line in lines], np.float32)


@pytest.fixture(scope="module")
def crowd():
    return people(5000)


@pytest.fixture(scope="module")
def vectors(trained, export_dir, crowd):
    """What a client of the exported model gets for these rows."""
    inputs = side_inputs(trained[1], "user")
    known = [each.name for each in inputs]
    rows = [{name: row[name] for name in known} for row in crowd]
    model = tf.saved_model.load(str(export_dir / "7"))
    arguments = {name: tf.constant(array) for name, array in rows_to_arrays(inputs, rows).items()}
    return model.signatures["serving_default"](**arguments)["user_vector"].numpy()


def expected(vectors, tsv, k, gone=lambda row: set(), allowed=lambda item: True):
    """Ids of the best items by brute force, ties by row."""
    ids, items = tsv
    scores = (vectors.astype(np.float64) @ items.T.astype(np.float64)).astype(np.float32)
    answers = []
    for number, row in enumerate(np.argsort(-scores, axis=1, kind="stable")):
        left = [item for item in row if ids[item] not in gone(number) and allowed(ids[item])][:k]
        answers.append(([str(ids[item]) for item in left], scores[number, left]))
    return answers


def check(table, answers):
    for ids, scores, (wanted, wanted_scores) in zip(
        table["item_ids"].to_pylist(), table["scores"].to_pylist(), answers, strict=True
    ):
        np.testing.assert_allclose(scores, wanted_scores, atol=2e-6)
        if ids != wanted:  # only where rounding decides
            apart = [place for place, (mine, theirs) in enumerate(zip(ids, wanted, strict=True)) if mine != theirs]
            gaps = np.abs(np.diff(wanted_scores))
            assert all(gaps[max(0, place - 1) : place + 1].min() < 4e-6 for place in apart), (ids, wanted)


@pytest.mark.parametrize("write", [parquet, delimited, json_lines], ids=["parquet", "csv", "jsonl"])
def test_answers_are_those_of_the_served_model(tmp_path, export_dir, crowd, vectors, tsv, write):
    suffix = {parquet: "parquet", delimited: "csv", json_lines: "jsonl"}[write]
    write(tmp_path / f"users.{suffix}", crowd)
    table, stats, entries = scored(
        Options(export_dir=export_dir, output=tmp_path / "out", users=str(tmp_path / f"users.{suffix}"), k=7)
    )
    assert entries == []
    assert table["user_id"].to_pylist() == [row["user_id"] for row in crowd]
    assert set(table["model_version"].to_pylist()) == {7}
    check(table, expected(vectors, tsv, 7))
    assert stats.users == 5000 and stats.summary()["answers"] == 35_000
    found = table["scores"].combine_chunks().flatten().to_numpy()
    assert stats.summary()["distinct_items"] == len(set(table["item_ids"].combine_chunks().flatten().to_pylist()))
    for name, value in stats.summary()["scores"].items():
        exact = {"min": found.min(), "mean": found.mean(), "max": found.max()}.get(name)
        wanted = np.quantile(found, float(name)) if exact is None else exact
        assert value == pytest.approx(wanted, abs=2e-3)


def test_formats_and_steps_change_no_bit(tmp_path, export_dir, crowd):
    """CSV in one reading, Parquet in row groups of odd sizes, fewer rows at a time: the same to the last bit."""
    parquet(tmp_path / "users.parquet", crowd, row_group_size=1500)
    delimited(tmp_path / "users.csv", crowd)
    common = {"export_dir": export_dir, "vectors_only": True}
    one, _, _ = scored(Options(output=tmp_path / "a", users=str(tmp_path / "users.parquet"), **common), 8192)
    other, _, _ = scored(Options(output=tmp_path / "b", users=str(tmp_path / "users.csv"), **common), 4096)
    assert one.combine_chunks().equals(other.combine_chunks())
    assert one.schema.field("vector").type == pa.list_(pa.float32())


def test_names(tmp_path, export_dir, crowd, tsv):
    parquet(tmp_path / "users.parquet", crowd[:50])
    titles = {row["item_id"]: row["item_name"] for row in Bundle.open(export_dir).items.to_pylist()}
    options = {"export_dir": export_dir, "output": tmp_path / "out", "users": str(tmp_path / "users.parquet"), "k": 3}
    table, _, _ = scored(Options(**options, names=True))
    assert table["item_names"].to_pylist() == [[titles[item] for item in ids] for ids in table["item_ids"].to_pylist()]
    for refused in ({"format": "tsv"}, {"vectors_only": True}):
        with pytest.raises(ConfigError, match="--names"):
            Options(**options, names=True, **refused).check()


def test_vectors_only(tmp_path, export_dir, crowd, vectors):
    parquet(tmp_path / "users.parquet", crowd)
    table, _, _ = scored(
        Options(
            export_dir=export_dir, output=tmp_path / "out", users=str(tmp_path / "users.parquet"), vectors_only=True
        )
    )
    np.testing.assert_allclose(np.stack(table["vector"].to_numpy()), vectors, atol=1e-6)


def test_exclusions_and_filters(tmp_path, export_dir, crowd, vectors, tsv):
    """Random pairs, some of strangers, some users with nearly everything gone; prices by hand."""
    crowd, vectors = crowd[:1500], vectors[:1500]
    parquet(tmp_path / "users.parquet", crowd)
    rng = np.random.default_rng(0)
    pairs = [(f"u{user:06d}", f"i{item:05d}") for user, item in rng.integers(0, [1700, 170], (6_000, 2))]
    pairs += [("u000003", item) for item in tsv[0][:148]] + [("u000003", tsv[0][0])]
    table = pa.table(
        {"item_id": [item for _, item in pairs], "user_id": [user for user, _ in pairs], "click": [1] * len(pairs)}
    )
    pq.write_table(table, tmp_path / "pairs.parquet")
    gone = {}
    for user, item in pairs:
        gone.setdefault(user, set()).add(item)
    catalogue = pq.read_table(export_dir / "7" / "items.parquet").to_pylist()
    price = sorted(row["price"] for row in catalogue if row["price"] is not None)[60]
    cheap = {row["item_id"] for row in catalogue if row["price"] is not None and row["price"] < price}
    options = {
        "export_dir": export_dir,
        "users": str(tmp_path / "users.parquet"),
        "exclude": str(tmp_path / "pairs.parquet"),
    }
    users = [row["user_id"] for row in crowd]
    for number, (predicate, allowed) in enumerate(
        [("", lambda item: True), (f"price < {price!r}", cheap.__contains__)]
    ):
        table, _, _ = scored(Options(output=tmp_path / f"out{number}", k=5, filter=predicate, **options))
        answers = expected(vectors, tsv, 5, lambda row: gone.get(users[row], set()), allowed)
        check(table, answers)
        assert len(table["item_ids"][3].as_py()) == len(answers[3][0]) <= 2


def test_blocked_items_are_not_answered(tmp_path, export_dir, crowd, tsv):
    parquet(tmp_path / "users.parquet", crowd[:100])
    root = tmp_path / "root"
    shutil.copytree(export_dir, root)
    blocked = {str(item) for item in tsv[0][::2]}
    (root / "blocklist.txt").write_text("\n".join(blocked))
    table, _, _ = scored(Options(export_dir=root, output=tmp_path / "out", users=str(tmp_path / "users.parquet"), k=9))
    assert not blocked & set(table["item_ids"].combine_chunks().flatten().to_pylist())
    assert {len(ids) for ids in table["item_ids"].to_pylist()} == {9}


def test_a_time_that_users_lack_is_the_moment_of_scoring(tmp_path, export_dir, crowd):
    without = tmp_path / "without.parquet"
    parquet(tmp_path / "users.parquet", [{**row, "timestamp": AT} for row in crowd[:500]])
    pq.write_table(pq.read_table(tmp_path / "users.parquet").drop_columns(["timestamp"]), without)
    common = {"export_dir": export_dir, "vectors_only": True}
    stated, _, _ = scored(Options(output=tmp_path / "a", users=str(tmp_path / "users.parquet"), **common))
    given, _, _ = scored(Options(output=tmp_path / "b", users=str(without), at=AT, **common))
    later, _, _ = scored(Options(output=tmp_path / "c", users=str(without), at=AT + 7 * 3600, **common))
    assert stated.equals(given) and not stated.equals(later)


def test_bundles_without_the_signature_are_refused(export_dir, monkeypatch):
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.score import user_tower

    monkeypatch.setattr(user_tower, "FROM_ENCODED", "from_nothing")
    with pytest.raises(ArtifactError, match="the user tower has no signature 'from_nothing': an earlier version"):
        user_tower.UserTower(Bundle.open(export_dir))


def test_bulk_encoding_that_disagrees_with_the_tower_is_refused(export_dir, monkeypatch):
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.score import user_tower

    bundle = Bundle.open(export_dir)
    statistics = {**bundle.statistics, "user": {**bundle.statistics["user"], "years": {"mean": 90.0, "std": 1.0}}}
    monkeypatch.setitem(bundle.__dict__, "statistics", statistics)
    with pytest.raises(ArtifactError, match="values encoded in bulk give vectors .* away from those of the user tower"):
        user_tower.UserTower(bundle)
