import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from tests.evaluate.planted_run import CONFIG, plant_run
from tests.evaluate.worlds import random_world
from tests.report.pages import ITEM_MAP, RUN, Page, render
from twotower_tf.evaluate import evaluate_run
from twotower_tf.report import report_page, run_facts

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def document(monkeypatch, tmp_path):
    plant_run(monkeypatch, random_world(np.random.default_rng(5), num_users=30, num_items=25))
    return evaluate_run.evaluate_run(CONFIG, tmp_path, "test")


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
    assert "validation recall@20" in " ".join(Page(report_page.render_report(facts, document, ITEM_MAP)).text)


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
