import dataclasses
import functools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from tests.evaluate.planted_run import CONFIG, FakeEncoded, plant_run
from tests.evaluate.worlds import FakePrepared, metric_oracle, query_oracle, random_world
from tests.report.pages import Page, render
from twotower_tf.config import DataConfig, EvaluationConfig, Hash, Tags
from twotower_tf.errors import DataError
from twotower_tf.evaluate import evaluate_run as module
from twotower_tf.evaluate import validation

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def planted(monkeypatch):
    """A run whose towers answer planted vectors, see `plant_run`."""
    return functools.partial(plant_run, monkeypatch)


def expected_recall(world, items, users, split, k):
    values = []
    for row, _, relevant, seen in query_oracle(world, split, "user", True):
        values.append(metric_oracle((items @ users[split][row]).tolist(), relevant, seen, k)["recall"])
    return float(np.mean(values))


def trained_hours(world):
    """The hours of the training positives: event n is at hour n."""
    return [hour for hour, (_, _, label) in enumerate(world.splits["train"]) if label]


@pytest.mark.parametrize("query", ["user", "event"])
def test_slices_by_features_of_users_and_items(planted, tmp_path, query):
    world = random_world(np.random.default_rng(5), num_users=30, num_items=25)
    items, users, _ = planted(world)
    config = dataclasses.replace(
        CONFIG,
        item_features=(*CONFIG.item_features, Tags("tags", 10, separator="|")),
        user_features=(*CONFIG.user_features, Hash("gender", 10)),
        evaluation=EvaluationConfig(ks=(5, 20), slices=("gender", "tags"), query=query),
    )
    found = module.evaluate_run(config, tmp_path, "test")["slices"]
    assert list(found) == ["item_popularity", "user_activity", "user.gender", "item.tags"]
    groups = {"f": [], "m": [], "(none)": []}
    for row, user, relevant, seen in query_oracle(world, "test", query, True):
        value = metric_oracle((items @ users["test"][row]).tolist(), relevant, seen, 5)["recall"]
        groups["(none)" if user % 3 == 0 else "mf"[user % 2 == 0]].append((user, value))
    for name, values in groups.items():
        people, recalls = zip(*values, strict=True)
        assert found["user.gender"][name]["metrics"]["recall@5"] == pytest.approx(np.mean(recalls), abs=1e-6)
        assert found["user.gender"][name]["users"] == len(set(people))
    assert {name: figures["items"] for name, figures in found["item.tags"].items()} == {"t0": 17, "t1": 16, "t2": 8}


@pytest.mark.parametrize("split", ["valid", "test"])
def test_writes_what_the_oracle_finds(planted, tmp_path, split):
    world = random_world(np.random.default_rng(5), num_users=30, num_items=25)
    items, users, times = planted(world)
    document = module.evaluate_run(CONFIG, tmp_path, split)
    assert times == [{"valid": 80, "test": 90}[split]]  # the catalogue as of the split's first event
    assert json.loads((tmp_path / "metrics.json").read_text()) == document
    assert list(document) == [
        "schema_version", "split", "protocol", "users", "metrics", "intervals", "baselines", "lists", "slices",
        "collapse", "scores", "trained_on", "warnings", "examples",
    ]  # fmt: skip
    asked = query_oracle(world, split, "user", True)
    assert (document["schema_version"], document["split"], document["users"]) == (4, split, len(asked))
    trained = sum(label for _, _, label in world.splits["train"])
    assert document["trained_on"] == {"splits": ["train"], "positives": trained, "epochs": None}
    assert document["protocol"] == {
        "query": "user",
        "exclude_seen": True,
        "ks": [1, 5, 20],
        "candidates": 25,
        "queries": len(asked),
        "relevant": sum(len(relevant) for _, _, relevant, _ in asked),
        "queries_without_unseen_positive": document["protocol"]["queries_without_unseen_positive"],
        "recent_days": pytest.approx((trained_hours(world)[-1] - trained_hours(world)[0]) / 4 / 24, abs=1e-6),
    }
    for k in (1, 5, 20):
        expected = expected_recall(world, items, users, split, k)
        assert document["metrics"][f"recall@{k}"] == pytest.approx(expected, abs=1e-6)
    counts = world.train_count()
    popular = [metric_oracle(counts.tolist(), relevant, seen, 5)["ndcg"] for _, _, relevant, seen in asked]
    assert document["baselines"]["popularity"]["ndcg@5"] == pytest.approx(np.mean(popular), abs=1e-6)
    hours = trained_hours(world)
    recent = np.zeros(world.num_items)
    for hour in hours:
        if hour > hours[-1] - (hours[-1] - hours[0]) / 4:
            recent[world.splits["train"][hour][1]] += 1
    popular = [metric_oracle(recent.tolist(), relevant, seen, 5)["map"] for _, _, relevant, seen in asked]
    assert document["baselines"]["recent_popularity"]["map@5"] == pytest.approx(np.mean(popular), abs=1e-6)
    assert list(document["baselines"]) == ["popularity", "recent_popularity", "item_knn", "random"]
    assert list(document["lists"]) == ["model", *document["baselines"]]
    assert document["lists"]["model"]["coverage@10"] == document["collapse"]["coverage@10"]
    points = json.loads((tmp_path / "item_map.json").read_text())["points"]
    assert np.array([point[:2] for point in points]).mean(axis=0) == pytest.approx([0, 0], abs=1e-3)
    assert set(document["baselines"]["random"]) == set(document["metrics"]) == set(document["intervals"])
    assert document["warnings"][-1]["name"] == "few_users"
    assert "NaN" not in (tmp_path / "metrics.json").read_text()


def test_click_probabilities_of_labelled_rows(planted, tmp_path, monkeypatch):
    """Every row of the split counts, with its own user and item."""
    world = random_world(np.random.default_rng(5), num_users=30, num_items=25)
    items, users, _ = planted(world)
    parameters = {"cosine_scale": 0.999, "weight": 0.5, "bias": -1.0}
    loss = SimpleNamespace(probability_parameters=lambda: parameters)
    model = SimpleNamespace(get_layer={"loss": loss}.__getitem__)
    monkeypatch.setattr(module, "load_model", lambda config, run_dir: model)
    config = dataclasses.replace(CONFIG, data=DataConfig(label="click"))
    found = module.evaluate_run(config, tmp_path, "test")["clicks"]
    logits = [
        0.5 * 2 * math.atanh(0.999 * float(users["test"][row] @ items[item])) - 1.0
        for row, (_, item, _) in enumerate(world.splits["test"])
    ]
    labels = np.array([label for *_, label in world.splits["test"]]) == 1
    expected = np.array([1 / (1 + math.exp(-logit)) for logit in logits])
    assert (found["rows"], found["of_rows"]) == (40, 40)
    assert found["mean_probability"] == pytest.approx(expected.mean(), abs=1e-6)
    assert found["log_loss"] == pytest.approx(-np.log(np.where(labels, expected, 1 - expected)).mean(), abs=1e-6)
    shown = " ".join(Page(render(module.evaluate_run(config, tmp_path, "test"))).text)
    assert f"AUC\n      {found['auc']:.4f}" in shown and f"{found['calibration'][3]['observed']:.4f}" in shown
    parameters.clear()
    monkeypatch.setattr(loss, "probability_parameters", lambda: None)
    assert "clicks" not in module.evaluate_run(config, tmp_path, "test")


def test_the_validator_measures_as_evaluate_does(planted, tmp_path):
    world = random_world(np.random.default_rng(6), num_users=30, num_items=25)
    _, _, times = planted(world)
    validate = validation.make_validator(CONFIG, world, FakeEncoded())
    means = validate(None)
    assert times == [80]
    assert means == pytest.approx(module.evaluate_run(CONFIG, tmp_path, "valid")["metrics"], abs=1e-6)
    assert set(means) == {f"{name}@{k}" for name in ("recall", "ndcg", "hit_rate", "mrr", "map") for k in (1, 5, 20)}


def test_without_validation_positives_there_is_no_validator():
    nothing = FakePrepared(2, 3, train=[(0, 1, 1)])
    with pytest.raises(DataError, match=r"^train.monitor: invalid value .* without an unseen positive; .*--set train"):
        validation.make_validator(CONFIG, nothing, None)
    unjudged = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, monitor=""))
    assert validation.make_validator(unjudged, nothing, None) is None


def test_a_split_with_nothing_to_rank_is_refused(planted, tmp_path):
    planted(FakePrepared(2, 3, train=[(0, 1, 1)], test=[(0, 1, 0)]))
    with pytest.raises(DataError, match="examples/test: the test split has no positive event; hold out more"):
        module.evaluate_run(CONFIG, tmp_path, "test")
    planted(FakePrepared(2, 3, train=[(0, 1, 1)], test=[(0, 1, 1)]))
    with pytest.raises(DataError, match="the test split has no positive event that its user has not seen before; hold"):
        module.evaluate_run(CONFIG, tmp_path, "test")
    assert not (tmp_path / "metrics.json").exists()


def test_figures_are_strict_numbers(planted, tmp_path):
    planted(random_world(np.random.default_rng(5), num_users=30, num_items=25))
    document = module.evaluate_run(CONFIG, tmp_path, "test")

    def leaves(value):
        if isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                yield from leaves(part)
        else:
            yield value

    assert all(isinstance(leaf, str | int | float | None) for leaf in leaves(document))
    assert all(math.isfinite(leaf) for leaf in leaves(document) if isinstance(leaf, float))
