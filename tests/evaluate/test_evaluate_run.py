import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from tests.evaluate.worlds import FakePrepared, metric_oracle, query_oracle, random_world
from twotower_tf import config as configuration
from twotower_tf.config import CosineLogitBCE, DataConfig, EvaluationConfig, ExperimentConfig, Hash, Tags
from twotower_tf.errors import DataError
from twotower_tf.evaluate import evaluate_run as module
from twotower_tf.evaluate import validation
from twotower_tf.report import report_page, run_facts

pytestmark = pytest.mark.tensorflow

CONFIG = ExperimentConfig(
    name="small",
    data=DataConfig(),
    item_features=(Hash("item_id", 100),),
    user_features=(Hash("user_id", 100),),
    loss=CosineLogitBCE(),
    evaluation=EvaluationConfig(ks=(1, 5, 20)),
)


RUN = run_facts.RunFacts(
    name="small",
    run_dir="/data/runs/small",
    date="2026-01-02 03:04 UTC",
    data="9 rows read, 8 used",
    configuration=configuration.to_json(CONFIG),
    monitor="recall@20",
    best_epoch=2,
    history=[{"epoch": epoch, "loss": 1 / epoch, "recall@20": 0.1 * epoch % 0.3} for epoch in (1, 2, 3)],
)


ITEM_MAP = {
    "items": 5,
    "explained": [0.5, 0.25],
    "column": "kind",
    "names": ["shoes & <hats>", "$socks$", "(other)", "(none)"],
    "points": [[0.5, -0.25, 0], [-0.5, 0.25, 1], [0.1, 0.2, 3]],
}


def render(document, run=RUN, index=None):
    return report_page.render_report(run, document, ITEM_MAP, index)


def unit(rng, count, dim):
    vectors = rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class FakeEncoded:
    """Encoded data whose splits begin at known times."""

    times = {"valid": 80, "test": 90}

    def ranking_time(self, split):
        return self.times[split]


@pytest.fixture
def planted(monkeypatch):
    """A run whose towers answer planted vectors: one per item, one per example row of each split.

    `plant` gives them, and the times as of which item vectors are asked for.
    """

    def plant(world):
        rng = np.random.default_rng(2)
        items = unit(rng, world.num_items, 4)
        users = {split: unit(rng, max(1, len(world.splits[split])), 4) for split in ("valid", "test")}
        times = []

        def item_vectors(model, encoded, *, at):
            times.append(at)
            return items

        for place in (module, validation):
            monkeypatch.setattr(place.tower_vectors, "item_vectors", item_vectors)
            monkeypatch.setattr(
                place.tower_vectors, "user_vectors", lambda model, encoded, split, rows: users[split][rows]
            )
        monkeypatch.setattr(module.Prepared, "open", lambda run_dir: world)
        monkeypatch.setattr(module, "EncodedData", lambda config, prepared: FakeEncoded())
        monkeypatch.setattr(module, "load_model", lambda config, run_dir: None)
        return items, users, times

    return plant


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


class Page(HTMLParser):
    """Collects what a page shows and what it would load; fails on tags that do not close."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.loads, self.tags = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href") and not (value or "").startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def document(planted, tmp_path):
    planted(random_world(np.random.default_rng(5), num_users=30, num_items=25))
    return module.evaluate_run(CONFIG, tmp_path, "test")


def test_the_report_is_one_well_formed_page_that_loads_nothing(document, tmp_path):
    text = render(document)
    page = Page(text)
    assert [url for url in page.loads if not url.startswith("http://www.w3.org/1999/xlink")] == []
    assert "script" not in page.tags and page.tags.count("svg") == 7
    assert 'name="viewport"' in text
    assert not re.search(r"url\((?!#)", text)
    shown = " ".join(page.text)
    assert f"{document['metrics']['recall@20']:.4f}" in shown
    assert f"{document['baselines']['popularity']['ndcg@5']:.4f}" in shown
    assert f"{document['baselines']['item_knn']['ndcg@5']:.4f}" in shown
    for name in ("novelty@10", "diversity@10", "coverage@10"):
        assert f"{document['lists']['item_knn'][name]:.{2 if name == 'novelty@10' else 3}f}" in shown
    assert f"In {100 * document['scores']['above']:.1f} % of the pairs" in " ".join(shown.split())
    assert "coloured by kind" in " ".join(shown.split())
    assert {"shoes & <hats>", r"$socks$", "(none)", "first axis (50 % of the variance)"} <= {*page.text}
    assert 'id="index"' not in text
    low, high = document["intervals"]["mrr@20"]
    assert f"{low:.4f}–{high:.4f}" in shown
    assert document["warnings"][0]["text"] in shown
    for fact in (RUN.run_dir, RUN.date, RUN.data, "best epoch: 2", '"batch_size": 4096'):
        assert fact in shown


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (
            {"kind": "scann", "recall": {"k": 100, "measured": 0.9712}},
            "index (scann) has 0.9712 of the first 100 items of an exact",
        ),
        ({"kind": "exact", "recall": {"measured": 1.0}}, "index (exact) searches exactly."),
    ],
)
def test_the_report_of_an_exported_model_has_the_recall_of_its_index(document, index, said):
    assert said in " ".join(" ".join(Page(render(document, index=index)).text).split())


def test_the_report_has_a_table_for_each_feature(document):
    figures = {"users": 7, "queries": 9, "relevant": 11, "metrics": {"recall@20": 0.4321, "ndcg@20": 0.1}}
    document["slices"]["user.job"] = {"<cook>": {**figures, "popularity": {"recall@20": 0.2}}}
    document["slices"]["item.kind"] = {
        "hat": {**figures, "popularity": None},
        "(other)": {**figures, "popularity": None},
    }
    shown = " ".join(" ".join(Page(render(document)).text).split())
    assert "By job of the user Values of users as of their query;" in shown
    assert "<cook> 7 9 11 0.4321 0.2000 0.1000" in shown
    assert "By kind of the item" in shown and "(other): all but the 10 values of most users. Only held-out" in shown


def test_the_report_shows_users_by_name(document):
    """Without their names where they have none; the last user of the page has no history."""
    user = {
        "user": "u<1>",
        "history": [{"id": "i3", "name": "Item 3"}, {"id": "i5", "name": ""}],
        "held_out": [{"id": "i9", "name": "Nine & co"}],
        "recommended": [
            {"id": "i9", "name": "Nine & co", "score": 0.75, "held_out": True},
            {"id": "i2", "name": "Item 2", "score": 0.5, "held_out": False},
        ],
    }
    document["examples"] = [user, {**user, "user": "u2", "history": []}]
    shown = " ".join(" ".join(Page(render(document)).text).split())
    assert "u<1> history Item 3 i5 recommended Nine & co (held out) 0.750 Item 2 0.500 held out Nine & co" in shown
    assert "u2 history none recommended" in shown


def test_a_report_without_training_figures_or_item_knn(document):
    del document["baselines"]["item_knn"]
    document["intervals"] = {}
    text = render(document, dataclasses.replace(RUN, history=[], best_epoch=0))
    page = Page(text)
    assert page.tags.count("svg") == 6 and "It is left out: too many pairs of items" in " ".join(page.text)
    assert "item-KNN" not in "".join(re.findall("<th>.*?</th>", text))


def test_facts_of_a_run():
    manifest = {
        "rows": {"read": 1200, "used": 1100, "quarantined": 3},
        "splits": {"train": {"positives": 1000}, "valid": {"positives": 60}, "test": {"positives": 40}},
        "users": 2000,
        "items": 30,
        "time_range": [1_700_000_000, 1_700_172_800],
    }
    line = (
        "1,200 rows read, 1,100 used; 3 quarantined; positives: train 1,000, valid 60, test 40; 2,000 users; 30 items; "
        "2023-11-14 to 2023-11-16"
    )
    assert run_facts.describe_data(manifest) == line
    manifest["time_range"] = [0, 2276]  # places in an order
    assert run_facts.describe_data(manifest).endswith("; 30 items; positions 0 to 2,276")


def test_the_training_curve_has_the_validation_metric(document, tmp_path, monkeypatch):
    """Training writes it with a prefix."""
    rows = {"read": 1, "used": 1, "quarantined": 0}
    manifest = {"rows": rows, "splits": {}, "users": 1, "items": 1, "time_range": None}
    monkeypatch.setattr(run_facts.Prepared, "open", lambda _: SimpleNamespace(manifest=manifest))
    epochs = [{"epoch": epoch, "loss": 1 / epoch, "val_recall@20": 0.1 * epoch} for epoch in (1, 2)]
    (tmp_path / "train.json").write_text(json.dumps({"best_epoch": 2, "history": epochs, "schema_version": 1}))
    facts = run_facts.collect_facts(tmp_path, CONFIG)
    assert CONFIG.train.monitor == "recall@20"
    assert "validation recall@20" in " ".join(Page(report_page.render_report(facts, document)).text)


def test_names_are_escaped(document):
    run = dataclasses.replace(RUN, name="<script>alert('x')</script> & \"co\"")
    text = render(document, run)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;co&#34;" in text


def test_the_report_copes_with_empty_slices_and_useless_baselines(document):
    for part in document["slices"]["item_popularity"].values():
        part |= {"metrics": None, "popularity": None, "queries": 0}
    document["baselines"]["popularity"] = dict.fromkeys(document["metrics"], 0.0)
    document["collapse"] |= {"item_cosine": None, "user_cosine": None}
    document["warnings"] = [{"name": "same", "text": "<b>all</b> the same"}]
    shown = " ".join(Page(render(document)).text)
    assert "popularity: 0" in shown and "<b>all</b> the same" in shown


def test_the_same_figures_give_the_same_report(document):
    assert render(document) == render(document)


def test_figures_are_strict_numbers(document):
    def leaves(value):
        if isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                yield from leaves(part)
        else:
            yield value

    assert all(isinstance(leaf, str | int | float | None) for leaf in leaves(document))
    assert all(math.isfinite(leaf) for leaf in leaves(document) if isinstance(leaf, float))
