"""The metrics compared with those of trec_eval (Python package pytrec_eval), the reference of information retrieval.

trec_eval orders tied items by their names. Ours are expectations over all orders of ties, each as likely: so every
order of a ranking with ties is a query of its own for trec_eval, each item with another score, and their mean counts.
"""

import itertools

import numpy as np
import pytest

from tests.evaluate.test_ranking import questions
from twotower_tf.evaluate.ranking import rank_scores

pytrec_eval = pytest.importorskip("pytrec_eval", reason="has wheels for x86-64 only")

KS = (1, 3, 10, 50)
MEASURES = {"recall": "recall", "ndcg": "ndcg_cut", "hit_rate": "success", "map": "map_cut"}


def reference(orders, relevant):
    """trec_eval's metrics of orders of items, each with its relevant items: [num_orders] by name."""
    wanted = {f"q{place}": {f"i{item}": 1 for item in items} for place, items in enumerate(relevant)}
    runs = [
        {
            f"q{place}": {f"i{item}": 1.0 - at / 1000 for at, item in enumerate(order[:k])}
            for place, order in enumerate(orders)
        }
        for k in (*KS, max(map(len, orders)))
    ]
    measures = {f"{measure}.{','.join(map(str, KS))}" for measure in MEASURES.values()}
    found = pytrec_eval.RelevanceEvaluator(wanted, measures).evaluate(runs[-1])
    values = {
        f"{name}@{k}": [found[f"q{place}"][f"{measure}_{k}"] for place in range(len(orders))]
        for name, measure in MEASURES.items()
        for k in KS
    }
    for k, run in zip(KS, runs, strict=False):  # trec_eval cuts no reciprocal ranks: the lists are cut
        found = pytrec_eval.RelevanceEvaluator(wanted, {"recip_rank"}).evaluate(run)
        values[f"mrr@{k}"] = [found[f"q{place}"]["recip_rank"] for place in range(len(orders))]
    return {name: np.array(column) for name, column in values.items()}


def test_rankings_without_ties():
    rng = np.random.default_rng(11)
    orders = [rng.permutation(120).tolist() for _ in range(60)]
    relevant = [set(rng.choice(120, int(rng.integers(1, 30)), replace=False).tolist()) for _ in range(60)]
    scores = np.float32([np.argsort(order) for order in orders])
    found = rank_scores(lambda start, stop: -scores[start:stop], 120, questions(relevant, [set()] * 60), KS).per_query()
    expected = reference(orders, relevant)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)


def test_rankings_with_ties():
    rng = np.random.default_rng(12)
    scores = rng.integers(0, 3, (40, 6)).astype(np.float32)
    relevant = [set(rng.choice(6, int(rng.integers(1, 4)), replace=False).tolist()) for _ in range(40)]
    found = rank_scores(
        lambda start, stop: scores[start:stop].copy(), 6, questions(relevant, [set()] * 40), KS
    ).per_query()
    allowed = [
        [order for order in itertools.permutations(range(6)) if (np.diff(own[list(order)]) <= 0).all()]
        for own in scores
    ]
    assert min(map(len, allowed)) > 1  # every ranking has ties
    orders = [order for each in allowed for order in each]
    expected = reference(orders, [relevant[query] for query, each in enumerate(allowed) for _ in each])
    query = np.repeat(np.arange(40), [*map(len, allowed)])
    for name, values in expected.items():
        means = np.bincount(query, values) / np.bincount(query)
        np.testing.assert_allclose(found[name], means, atol=1e-6, err_msg=name)
