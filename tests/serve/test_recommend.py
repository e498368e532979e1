"""`:recommend` and `:similar`: the ranking of a dot product with the TSV, in NumPy."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.serve.running import ROW, USER, running, unpack

PATH = "/v1/models/tiny:recommend"


@pytest.fixture(scope="module")
def ranked(saved_model, items):
    """Item ids and cosines for the user, best first."""
    import tensorflow as tf

    features = {name: tf.constant(values) for name, values in USER.items()}
    features["timestamp"] = tf.constant(USER["timestamp"], tf.int64)
    vector = saved_model.signatures["serving_default"](**features)["user_vector"].numpy()[0].astype(np.float64)
    ids, vectors = items
    cosines = vectors @ vector
    order = np.argsort(-cosines, kind="stable")
    return [ids[each] for each in order], cosines[order]


def check(found, ids, cosines):
    assert found["item_ids"] == ids
    np.testing.assert_allclose(found["scores"], cosines, atol=1e-6)


def test_users_in_the_forms_of_the_log(tiny, ranked):
    status, answer = tiny.post(PATH, {"instances": [ROW, {}], "k": 5})
    assert status == 200 and list(answer) == ["predictions", "model_version"] and answer["model_version"] == 7
    assert list(answer["predictions"][0]) == ["item_ids", "scores"]
    check(answer["predictions"][0], ranked[0][:5], ranked[1][:5])
    assert len(answer["predictions"][1]["item_ids"]) == 5


def test_exclusions_filter_and_names(tiny, ranked, served_root):
    table = pq.read_table(served_root / "7" / "items.parquet").to_pydict()
    price = dict(zip(table["item_id"], table["price"], strict=True))
    title = dict(zip(table["item_id"], table["item_name"], strict=True))
    wanted = [item for item in ranked[0] if price[item] is not None and price[item] < 20 and item != ranked[0][0]]
    body = {"instances": [ROW], "k": 150, "exclude": [[ranked[0][0], "stranger"]], "filter": "price < 20"}
    _, answer = tiny.post(PATH, {**body, "names": True})
    assert answer["predictions"][0]["item_ids"] == wanted
    assert answer["predictions"][0]["item_names"] == [title[item] or "" for item in wanted]


def test_many_different_requests_at_once_are_answered_as_one_by_one(tiny):
    from concurrent.futures import ThreadPoolExecutor

    bodies = [
        {"instances": [{**ROW, "user_id": f"u{number % 7}", "history": ["i00003"] * (number % 4)}] * (1 + number % 3),
         "k": 3 + number % 2, **({"exclude": [["i00057"]] * (1 + number % 3)} if number % 5 == 0 else {})}
        for number in range(60)
    ]  # fmt: skip
    alone = [tiny.post(PATH, body) for body in bodies]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda body: tiny.post(PATH, body), bodies))
    for (_, one), (status, other) in zip(alone, together, strict=True):
        assert status == 200
        for first, second in zip(one["predictions"], other["predictions"], strict=True):
            assert first["item_ids"] == second["item_ids"]
            np.testing.assert_allclose(first["scores"], second["scores"], atol=1e-6)


def test_similar_items(tiny, items):
    ids, vectors = items
    cosines = vectors @ vectors[20]
    cosines[20] = -2
    best = np.argsort(-cosines, kind="stable")[:4]
    status, answer = tiny.post("/v1/models/tiny:similar", {"item": ids[20], "k": 4})
    assert status == 200 and answer["predictions"][0]["item"] == ids[20]
    check(answer["predictions"][0], [ids[each] for each in best], cosines[best])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"k": 3}, "Missing 'instances' key"),
        ({"instances": [{"colour": 1}]}, "row 0: unknown feature 'colour'"),
        ({"instances": [3]}, "row 0: invalid features 3 (expected an object of feature values)"),
        ({"instances": [{"user_id": {}}]}, "feature 'user_id': invalid value {}"),
        ({"instances": [{}], "k": 0}, "k: invalid value 0 (expected a whole number from 1 to 1000)"),
        ({"instances": [{}], "k": "3"}, "k: invalid value '3'"),
        ({"instances": [{}], "exclude": ["i1"]}, "exclude: invalid value 'i1' (expected a list of item ids per user)"),
        ({"instances": [{}], "exclude": {"a": []}}, "exclude: invalid value {'a': []}"),
        ({"instances": [{}], "exclude": []}, "exclude: invalid number of lists 0 (expected 1, one per user)"),
        ({"instances": [{}], "filter": "price <"}, "filter: invalid expression 'price <'"),
        ({"instances": [{}], "filter": 1}, "filter, names: invalid value"),
        ({"instances": [{}], "limit": 1}, "unknown key 'limit' (expected exclude,filter,instances,k,names)"),
        ({"instances": [{}] * 1025}, "invalid number of instances 1025 (expected at most 1024)"),
    ],
)
def test_errors(tiny, body, message):
    status, answer = tiny.post(PATH, body)
    assert status == 400
    assert message in answer["error"]


def test_an_item_that_is_blocked_is_not_answered_from_the_next_request_on(tmp_path):
    root = unpack("exact", tmp_path)
    with running(root, grpc_port=0) as service:
        body = {"instances": [ROW], "k": 3}
        _, before = service.post(PATH, body)
        first, *others = before["predictions"][0]["item_ids"]
        (root / "blocklist.txt").write_text(f"{first}\n")
        for path, request in ((PATH, body), ("/v1/models/tiny:predict", {"signature_name": "recommend", **body})):
            answer = json.loads(service.send("POST", path, {**request}).data)
            assert answer["predictions"][0]["item_ids"][:2] == others


def test_a_scann_index_with_filter_exclusions_and_k(tmp_path, saved_model):
    """Against a ranking of every item in NumPy: exact where few pass, at least the stated recall without a filter."""
    import tensorflow as tf

    root = unpack("scann", tmp_path)
    table = pq.read_table(root / "7" / "items.parquet").to_pydict()
    price = dict(zip(table["item_id"], table["price"], strict=True))
    lines = [line.split("\t") for line in (root / "7" / "item_embeddings.tsv").read_text().splitlines()]
    ids, vectors = [line[0] for line in lines], np.array([line[1].split(",") for line in lines], np.float64)
    rows = [{**ROW, "user_id": f"u{number}", "history": [ids[number]]} for number in range(40)]
    features = {name: tf.constant([row[name] for row in rows]) for name in ROW if name != "timestamp"}
    features["timestamp"] = tf.constant([row["timestamp"] for row in rows], tf.int64)
    users = tf.saved_model.load(str(root / "7")).signatures["serving_default"](**features)["user_vector"].numpy()
    cosines = users.astype(np.float64) @ vectors.T
    order = np.argsort(-cosines, axis=1, kind="stable")
    ranked = [[ids[place] for place in each] for each in order]
    score = [dict(zip(ids, each, strict=True)) for each in cosines]
    excluded = [each[:5] for each in ranked]
    bodies = [{"k": 10}, {"k": 10, "exclude": excluded}, {"k": 40, "exclude": excluded, "filter": "price < 20"}]
    with running(root, grpc_port=0) as service:
        assert service.service.manager.find("tiny").retriever.searcher.kind == "scann"
        answers = [service.post(PATH, {"instances": rows, **body})[1]["predictions"] for body in bodies]
    hits = []
    for user, (plain, without, filtered) in enumerate(zip(*answers, strict=True)):
        for found, best in ((plain, ranked[user][:10]), (without, ranked[user][5:15])):
            assert len(set(found["item_ids"])) == 10 and found["scores"] == sorted(found["scores"], reverse=True)
            np.testing.assert_allclose(found["scores"], [score[user][item] for item in found["item_ids"]], atol=1e-6)
            hits.append(np.mean(np.array(found["scores"]) >= score[user][best[-1]] - 1e-6))
        assert not set(without["item_ids"]) & set(excluded[user])
        passing = [item for item in ranked[user][5:] if price[item] is not None and price[item] < 20]
        check(filtered, passing[:40], [score[user][item] for item in passing[:40]])
    assert np.mean(hits) >= 0.95
