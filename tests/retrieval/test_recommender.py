"""Answers of a `Recommender`: vectors, exclusions, filters, similar items."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from twotower_tf import artifacts, resources
from twotower_tf.bundle.bundle import Bundle, seal
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.features.inputs import rows_to_arrays
from twotower_tf.features.tower_encoder import TowerEncoder
from twotower_tf.index.click_probability import ClickProbability
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.model import two_tower
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.retrieval.recommender import Recommender
from twotower_tf.train import checkpoints

FEATURES = "age, country, device_type, history, interests, timestamp, user_id"


@pytest.fixture(scope="module")
def tsv(export_dir):
    """Ids and vectors, read by hand."""
    lines = [line.split("\t") for line in (export_dir / "7" / "item_embeddings.tsv").read_text().splitlines()]
    return [line[0] for line in lines], np.array([line[1].split(",") for line in lines], np.float32)


@pytest.fixture(scope="module")
def people(export_dir):
    """Returns real users: those of the manifest's canaries."""
    manifest = json.loads((export_dir / "7" / "manifest.json").read_text())
    return [canary["user"] for canary in manifest["canaries"]]


@pytest.fixture(scope="module")
def paths(trained, export_dir):
    """The ways by which a row becomes a vector: training input, both signatures, the JSON client."""
    run_dir, config = trained
    side = TowerEncoder(config, Prepared.open(run_dir).statistics, "user")
    tower = two_tower.tower(checkpoints.load_model(config, run_dir), "user")
    names = two_tower.batch_names(config, "user")
    exported = tf.saved_model.load(str(export_dir / "7"))
    recommender = Recommender(Bundle.open(export_dir))

    def arrays(row):
        return {name: tf.constant(value) for name, value in rows_to_arrays(side.inputs, [row]).items()}

    return {
        "training": lambda row: tower({names[key]: value for key, value in side.encode(arrays(row)).items()}).numpy(),
        "serving_default": lambda row: exported.signatures["serving_default"](**arrays(row))["user_vector"].numpy(),
        "from_examples": lambda row: exported.signatures["from_examples"](tf.constant([example(row)]))[
            "user_vector"
        ].numpy(),
        "client": lambda row: recommender.vectors([row]),
    }


def example(row):
    """A row as a log writer would put it: each value in the list of its own type."""
    message = tf.train.Example()
    for name, value in row.items():
        feature = message.features.feature[name]
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str):
                feature.bytes_list.value.append(each.encode())
            elif isinstance(each, float):
                feature.float_list.value.append(each)
            elif each is not None:
                feature.int64_list.value.append(each)
    return message.SerializeToString()


USUAL = {"user_id": "u000137", "country": "DE", "age": 31, "interests": ["cars", "music"], "history": ["i00003"]}
ODD = [
    {},
    {"user_id": "never seen before", "country": "\u00e9\u4e2d\U0001f989"},
    {"user_id": None, "country": "", "age": None, "interests": [], "history": None, "timestamp": None},
    {**USUAL, "country": 3},
    {**USUAL, "country": 3.0},
    {**USUAL, "user_id": 2.5},
    {**USUAL, "interests": [1, 2]},
    {**USUAL, "interests": "cars|music", "timestamp": 1736531435},
    {**USUAL, "history": ["i00001", "unknown item", "i00002", "i00003", "i00004", "i00005", "i00006"]},
]


@pytest.mark.parametrize("row", ODD, ids=str)
def test_every_path_gives_a_row_one_vector(paths, row):
    vectors = {name: path(row) for name, path in paths.items()}
    assert all(np.isfinite(vector).all() for vector in vectors.values())
    for name, vector in vectors.items():
        np.testing.assert_allclose(vector, vectors["training"], atol=1e-6, err_msg=name)


def test_values_that_are_one_value_have_one_vector(recommender):
    same = [
        [{**USUAL, "country": value} for value in (3, 3.0, "3")],
        [{**USUAL, "country": value} for value in (None, "")] + [{k: v for k, v in USUAL.items() if k != "country"}],
        [{**USUAL, "age": value} for value in (31, 31.0, "31")],
        [{**USUAL, "age": None}, {**USUAL, "age": float("nan")}, {**USUAL, "age": ""}],
        [{**USUAL, "interests": value} for value in ("cars|music", ["cars", "music"], "cars| music|")],
        [{**USUAL, "timestamp": value} for value in (1736531435, 1736531435.0, "2025-01-10T17:50:35Z")],
    ]
    firsts = []
    for rows in same:
        vectors = recommender.vectors(rows)
        for vector in vectors[1:]:
            np.testing.assert_array_equal(vector, vectors[0])
        firsts.append(vectors[0])
    assert len(np.unique(np.round(firsts[:4], 5), axis=0)) >= 3  # the values do matter


def test_best_items_are_those_of_the_largest_dot_products(recommender, tsv, people):
    ids, vectors = tsv
    answers = recommender.recommend(people, 12)
    scores = recommender.vectors(people).astype(np.float64) @ vectors.T.astype(np.float64)
    for person, answer, score in zip(people, answers, scores, strict=True):
        best = np.argsort(-score.astype(np.float32), kind="stable")[:12]
        assert answer["item_ids"] == [ids[row] for row in best]
        np.testing.assert_allclose(answer["scores"], score[best], atol=1e-7)
        assert answer["user"] == person
        assert answer["model_version"] == 7
    assert json.loads(json.dumps(answers)) == answers


def test_exclusions_against_brute_force(recommender, tsv, people):
    """Random lists, short and long, with strangers and repetitions; k up to the whole catalogue."""
    ids, vectors = tsv
    rng = np.random.default_rng(0)
    scores = (recommender.vectors(people).astype(np.float64) @ vectors.T.astype(np.float64)).astype(np.float32)
    for _ in range(60):
        k = int(rng.integers(1, 151))
        sizes = rng.choice([0, 1, 5, 149, 150, 100], len(people))
        exclude = [[*rng.choice(ids, size), "stranger", *rng.choice(ids, 2)] if size else [] for size in sizes]
        answers = recommender.recommend(people, k, exclude)
        for answer, score, gone in zip(answers, scores, exclude, strict=True):
            order = [ids[row] for row in np.argsort(-score, kind="stable") if ids[row] not in set(gone)]
            assert answer["item_ids"] == order[:k]
            assert len(answer["scores"]) == len(answer["item_ids"])


def test_nothing_left_is_an_empty_list(recommender, tsv):
    (answer,) = recommender.recommend([{}], 5, [tsv[0]])
    assert answer["item_ids"] == answer["scores"] == []


def test_filters_against_brute_force(recommender, tsv, people, export_dir):
    ids, vectors = tsv
    items = Bundle.open(export_dir).items.to_pandas().set_index("item_id").loc[ids]
    scores = (recommender.vectors(people).astype(np.float64) @ vectors.T.astype(np.float64)).astype(np.float32)
    category = items["category"].iloc[0]
    for predicate, passes in (
        (f"category = '{category}' and price > 5", ((items["category"] == category) & (items["price"] > 5)).to_numpy()),
        ("price is not null", items["price"].notna().to_numpy()),
        ("item_id = 'nobody'", np.zeros(150, bool)),
    ):
        exclude = [list(np.array(ids)[:40])] * len(people)
        for answer, score in zip(recommender.recommend(people, 20, exclude, predicate), scores, strict=True):
            best = [row for row in np.argsort(-score, kind="stable") if passes[row] and row >= 40][:20]
            assert answer["item_ids"] == [ids[row] for row in best]
    found = recommender.similar("i00042", 150, filter=f"category = '{category}'")["item_ids"]
    assert set(found) == set(items.index[items["category"] == category]) - {"i00042"}
    frame = recommender.recommend_frame(pd.DataFrame([{}]), 150, filter=f"category = '{category}'")
    assert set(frame["item_id"]) == set(items.index[items["category"] == category])


def test_a_filter_reads_its_own_columns_once(export_dir, people, monkeypatch):
    read, columns = [], Bundle.columns
    monkeypatch.setattr(Bundle, "columns", lambda bundle, names=None: read.append(names) or columns(bundle, names))
    recommender = Recommender(Bundle.open(export_dir))
    for predicate in ("price > 1", "price < 1 or category = 'sports'", "category = 'cars'", "true"):
        recommender.recommend(people[:1], 3, filter=predicate)
    assert read == [["price"], ["category"]]


def test_a_filter_with_an_unknown_column_is_told(recommender):
    with pytest.raises(DataError, match="filter: unknown column 'categry'; did you mean 'category'?"):
        recommender.recommend([{}], 3, filter="categry = 'x'")


def test_an_item_is_blocked_from_the_next_request_on(export_dir, people, tmp_path):
    """No version is published, nothing is loaded again: the operator writes a line, and the item is gone."""
    root = tmp_path / "root"
    shutil.copytree(export_dir, root)
    recommender = Recommender(Bundle.open(root))
    before = recommender.recommend(people, 150)
    blocked = [answer["item_ids"][0] for answer in before[:3]]
    (root / "blocklist.txt").write_text("\n".join(blocked))
    for old, new in zip(before, recommender.recommend(people, 150), strict=True):
        assert new["item_ids"] == [item for item in old["item_ids"] if item not in blocked]
    assert not set(recommender.similar(blocked[0], 149)["item_ids"]) & set(blocked)
    (root / "blocklist.txt").write_text("")
    assert recommender.recommend(people, 150) == before
    (tmp_path / "mine.txt").write_text(blocked[0])
    mine = Recommender(Bundle.open(root), blocklist=tmp_path / "mine.txt").recommend(people[:1], 150)
    assert mine[0]["item_ids"] == before[0]["item_ids"][1:]
    with pytest.raises(DataError, match=r"blocklist .*/typo.txt: no such file"):
        Recommender(Bundle.open(root), blocklist=tmp_path / "typo.txt")


def test_nobody_asks(recommender):
    assert recommender.recommend([], 5) == []
    assert recommender.vectors([]).shape == (0, 8)


def test_many_users_are_answered_in_batches_as_one_by_one(recommender, people, monkeypatch):
    whole = recommender.vectors(people)
    monkeypatch.setattr("twotower_tf.bundle.loaded_tower._ROWS_PER_BATCH", 3)
    np.testing.assert_allclose(recommender.vectors(people), whole, atol=1e-6)


def test_similar_items(recommender, tsv):
    ids, vectors = tsv
    answer = recommender.similar("i00042", 7)
    score = (vectors @ vectors[42]).astype(np.float32)
    score[42] = -2
    best = np.argsort(-score, kind="stable")[:7]
    assert answer["item_ids"] == [ids[row] for row in best]
    assert answer["item"] == "i00042" and answer["model_version"] == 7
    assert len(recommender.similar("i00042", 1000)["item_ids"]) == 149


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([{"cuontry": "DE"}], 3), "row 0: unknown feature 'cuontry'; did you mean 'country'?"),
        (([{}, {"zzz": 1}], 3), FEATURES),
        (([{"age": "old"}], 3), "feature 'age': invalid value 'old' (expected a number)"),
        (([{}], 0), "k: invalid value 0 (expected a whole number from 1 to 1000)"),
        (([{}], 2.5), "k: invalid value 2.5 (expected a whole number from 1 to 1000)"),
        (([{}], True), "k: invalid value True (expected a whole number from 1 to 1000)"),
        (([{}, {}], 3, [["i00001"]]), "exclude: invalid number of lists 1 (expected 2, one per user)"),
        (([{}], 3, ["i00001"]), "exclude: invalid value 'i00001' (expected a list of item ids per user)"),
    ],
)
def test_unusable_requests(recommender, arguments, message):
    with pytest.raises(DataError) as raised:
        recommender.recommend(*arguments)
    assert message in str(raised.value)


def test_ids_of_clients_are_written_as_the_log_has_them(export_dir, tsv, monkeypatch):
    """A log in CSV with ids such as 42.0: clients say 42, "42" or 42.0."""
    vectors = tsv[1]
    bundle = Bundle.open(export_dir)
    monkeypatch.setitem(bundle.manifest, "item_text_forms", {"item_id": "3.0"})
    searcher = ExactSearcher(ItemVectors([f"{row}.0" for row in range(len(vectors))], vectors))
    monkeypatch.setattr(Bundle, "searcher", lambda bundle, threads: searcher)
    recommender = Recommender(bundle)
    score = vectors @ vectors[42]
    best = [f"{row}.0" for row in np.argsort(-score, kind="stable") if row != 42][:7]
    for item in (42, "42", 42.0, "42.0"):
        answer = recommender.similar(item, 7)
        assert (answer["item"], answer["item_ids"]) == ("42.0", best)
    (whole,) = recommender.recommend([{"user_id": "u00001"}], 9)
    a, b, c, *rest = whole["item_ids"]
    (fewer,) = recommender.recommend([{"user_id": "u00001"}], 6, [[int(float(a)), b.removesuffix(".0"), c, "x"]])
    assert fewer["item_ids"] == rest


def test_unknown_item(recommender, export_dir):
    with pytest.raises(DataError) as raised:
        recommender.similar("i99999", 3)
    assert str(raised.value) == f"item 'i99999': not the id or the name of one of the 150 items of {export_dir}/7"


def test_a_quota_of_cpu_time_bounds_libraries(tmp_path, monkeypatch):
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(resources, "count_cpus", lambda root: 3)
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with pytest.raises(ArtifactError):
        Recommender(tmp_path / "nowhere")
    assert [os.environ.get(name) for name in names] == ["3", "3", "3"]


def test_tower_of_another_version_is_refused(export_dir, tmp_path):
    shutil.copytree(export_dir / "7", tmp_path / "8")
    document = json.loads((tmp_path / "8" / "manifest.json").read_text())
    artifacts.write_json(tmp_path / "8" / "manifest.json", seal({**document, "version": 8}))
    with pytest.raises(ArtifactError, match="the user tower answers as version 7 .expected 8, that of the manifest"):
        Recommender(Bundle.open(tmp_path)).recommend([{}], 1)


def test_one_user_is_answered_as_a_list_of_one(recommender):
    user = {"country": "DE"}
    (expected,) = recommender.recommend([user], 4)
    assert recommender.recommend(user, 4) == expected
    assert recommender.recommend(user, 3, exclude=expected["item_ids"][:1])["item_ids"] == expected["item_ids"][1:]


def test_names_on_request(recommender, export_dir):
    titles = {item["item_id"]: item["item_name"] for item in Bundle.open(export_dir).items.to_pylist()}
    for answer in (recommender.recommend({}, 4, names=True), recommender.similar("i00042", 4, names=True)):
        assert answer["item_names"] == [titles[item] for item in answer["item_ids"]]
    assert "item_names" not in recommender.recommend({}, 4) | recommender.similar("i00042", 4)


def test_probabilities_on_request(recommender, monkeypatch):
    with pytest.raises(ConfigError, match=r"^probability: invalid for this model \(loss is InBatchSoftmax; "):
        recommender.recommend({}, 3, probability=True)
    clicks = ClickProbability(cosine_scale=0.999, weight=2.0, bias=-1.0)
    monkeypatch.setattr("twotower_tf.retrieval.recommender.require_probability", lambda bundle: clicks)
    answer = recommender.recommend({}, 3, probability=True)
    expected = [1 / (1 + np.exp(1 - 4 * np.arctanh(0.999 * score))) for score in answer["scores"]]
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-12)


def test_a_forked_process_is_refused_at_once(run_python, export_dir):
    """Asked in the child, TensorFlow waits forever for threads that only the parent has."""
    code = f"""
import os
from twotower_tf import ConfigError, Recommender

recommender = Recommender({str(export_dir)!r})
recommender.recommend({{}}, k=1)
parent, (reader, writer) = os.getpid(), os.pipe()
if not os.fork():
    for ask in (
        lambda: recommender.recommend({{}}, k=1),
        lambda: recommender.similar("i00001", k=1),
        lambda: recommender.vectors([{{}}]),
        lambda: Recommender({str(export_dir)!r}),
    ):
        try:
            ask()
        except ConfigError as error:
            os.write(writer, (str(error).replace(str(os.getpid()), "B").replace(str(parent), "A") + "\\n").encode())
    os._exit(0)
os.close(writer)
os.wait()
print(open(reader).read(), end="")
print(len(recommender.recommend({{}}, k=1)["item_ids"]))
"""
    line = (
        "Recommender: invalid in process B, which was forked after process A made a Recommender (TensorFlow's threads "
        "do not survive a fork); make the first one in each process after the fork, or start processes by spawn"
    )
    assert run_python(code).splitlines() == [line] * 4 + ["1"]
