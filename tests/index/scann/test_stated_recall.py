"""The recall that an index states, against a full sort: for every k, and however many of the nearest are excluded."""

import dataclasses
import json

import numpy as np
import pytest

from twotower_tf.config import IndexConfig
from twotower_tf.index.backends import build_index, load_index
from twotower_tf.index.eligible import Eligible, Ineligible
from twotower_tf.index.scann import scann_searcher
from twotower_tf.index.scann.fetch_levels import Level, describe_level
from twotower_tf.index.scann.tuning import choose_cheapest, compute_recall
from twotower_tf.retrieval import filtered_search

pytest.importorskip("scann", reason="ScaNN is not installed here")

SIZE, DIM, TARGET = 6_000, 24, 0.95
SLACK = 0.02  # four standard errors of a mean over 150 queries, of the sample tuned with and of those asked


def clustered(seed, count):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((60, DIM))
    vectors = centres[rng.integers(0, 60, count)] + 0.8 * rng.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def searcher():
    """All levels are tuned, though scoring so few items would cost less."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scann_searcher, "_REORDERED", 0.1)
        patch.setattr(scann_searcher, "_QUANTIZED", 0.1)
        config = IndexConfig(kind="scann", k=100, target_recall=TARGET)
        made = build_index([f"i{row}" for row in range(SIZE)], clustered(1, SIZE), config, clustered(2, 300), threads=2)
        assert made.fetches(SIZE) == [100, 200, 500, 1_000, 2_000]
        yield made


@pytest.fixture(scope="module")
def asked(searcher):
    """Queries that the index was not tuned with, and all items for each, nearest first."""
    queries = clustered(3, 150)
    scores = queries.astype(np.float64) @ searcher.items.vectors.astype(np.float64).T
    return queries, np.argsort(-scores, axis=1, kind="stable")


def nearest_excluded(order, count):
    queries = np.repeat(np.arange(len(order)), count)
    return Ineligible(queries, order[:, :count].reshape(-1), len(order))


def recall(found, right):
    """Of `Answers`, against the rows of the right ones [num_queries, k]."""
    answers = np.split(found.rows, found.offsets[1:-1])
    assert all(len(set(rows.tolist())) == right.shape[1] for rows in answers)
    return np.mean([len(np.intersect1d(rows, best)) / len(best) for rows, best in zip(answers, right, strict=True)])


@pytest.mark.parametrize("excluded", [0, 100, 400, 900])
def test_recall_holds_where_the_nearest_items_are_excluded(searcher, asked, excluded):
    queries, order = asked
    found = filtered_search.search(searcher, queries, 100, nearest_excluded(order, excluded))
    measured = recall(found, order[:, excluded : excluded + 100])
    (level,) = [each for each in searcher.description()["recall"]["levels"] if each["excluded"] == excluded]
    assert measured >= level["recall_excluded"] - SLACK
    assert measured >= TARGET - SLACK and level["recall_excluded"] >= TARGET
    assert measured < 1.0  # the index answers, not a full scan


@pytest.mark.parametrize("k", [100, 200, 500, 1_000])
def test_recall_holds_for_every_k(searcher, asked, k):
    queries, order = asked
    (level,) = [each for each in searcher.description()["recall"]["levels"] if each["k"] == k]
    plain = searcher.search(queries, k)
    measured = np.mean([len(np.intersect1d(*pair)) / k for pair in zip(plain.rows, order[:, :k], strict=True)])
    assert measured == pytest.approx(level["recall"], abs=SLACK)
    assert measured >= TARGET - SLACK
    found = filtered_search.search(searcher, queries, k)
    np.testing.assert_array_equal(found.rows.reshape(-1, k), plain.rows)


@pytest.mark.parametrize("excluded", [5, 45, 90, 390, 800])
def test_recall_holds_for_few_answers_after_many_exclusions(searcher, asked, excluded):
    queries, order = asked
    found = filtered_search.search(searcher, queries, 10, nearest_excluded(order, excluded))
    assert recall(found, order[:, excluded : excluded + 10]) >= TARGET - SLACK


@pytest.mark.parametrize(("share", "excluded"), [(0.5, 0), (0.5, 300), (0.9, 40), (0.2, 20)])
def test_recall_holds_with_a_filter(searcher, asked, share, excluded):
    queries, order = asked
    mask = np.random.default_rng(4).random(SIZE) < share
    found = filtered_search.search(searcher, queries, 50, nearest_excluded(order, excluded), Eligible(mask))
    right = np.array([[row for row in rows[excluded:] if mask[row]][:50] for rows in order])
    assert recall(found, right) >= TARGET - SLACK


def test_beyond_the_largest_level_every_item_is_scored(searcher, asked):
    queries, order = asked
    assert (
        recall(filtered_search.search(searcher, queries, 100, nearest_excluded(order, 1_950)), order[:, 1_950:2_050])
        == 1.0
    )
    np.testing.assert_array_equal(np.sort(searcher.search(queries, 2_001).rows), np.sort(order[:, :2_001]))


def test_one_query_with_many_exclusions_is_answered_as_in_a_batch(searcher, asked):
    queries, order = asked
    gone = [order[row, : 130 * row] for row in range(12)]
    excluded = Ineligible(np.repeat(np.arange(12), [len(each) for each in gone]), np.concatenate(gone), 12)
    whole = filtered_search.search(searcher, queries[:12], 30, excluded)
    for row in range(12):
        alone = filtered_search.search(searcher, queries[[row]], 30, excluded.take(np.array([row])))
        assert alone.rows.tolist() == whole.rows[whole.offsets[row] : whole.offsets[row + 1]].tolist()


def test_levels_are_kept_in_the_files(searcher, asked, tmp_path):
    queries, order = asked
    searcher.save(tmp_path / "index")
    document = json.loads((tmp_path / "index/index.json").read_text())
    assert document["schema_version"] == 3
    assert [level["fetch"] for level in document["parameters"]["wider"]] == [200, 500, 1_000, 2_000]
    loaded = load_index(tmp_path / "index")
    assert loaded.description() == searcher.description()
    gone = nearest_excluded(order, 400)
    np.testing.assert_array_equal(
        filtered_search.search(loaded, queries, 100, gone).rows,
        filtered_search.search(searcher, queries, 100, gone).rows,
    )


def test_an_index_of_schema_version_2_has_its_one_setting_and_is_exact_above_it(searcher, asked, tmp_path):
    queries, order = asked
    searcher.save(tmp_path / "index")
    path = tmp_path / "index/index.json"
    document = json.loads(path.read_text())
    del document["parameters"]["wider"], document["recall"]["levels"]
    path.write_text(json.dumps({**document, "schema_version": 2}))
    old = load_index(tmp_path / "index")
    np.testing.assert_array_equal(old.search(queries, 100).rows, searcher.search(queries, 100).rows)
    np.testing.assert_array_equal(np.sort(old.search(queries, 101).rows), np.sort(order[:, :101]))
    assert recall(filtered_search.search(old, queries, 100, nearest_excluded(order, 400)), order[:, 400:500]) == 1.0


def test_a_changed_index_leaves_out_the_levels_that_have_lost_their_recall(searcher, asked):
    queries, _ = asked
    spoilt = tuple(
        dataclasses.replace(level, leaves_to_search=45, reorder=1_000) if level.fetch == 1_000 else level
        for level in searcher.parameters.wider
    )
    changed = scann_searcher.ScannSearcher(
        searcher.items,
        searcher._native,
        dataclasses.replace(searcher.parameters, wider=spoilt),
        dict(searcher.recall),
    )
    changed.keep_levels(*changed.search_levels(queries), TARGET - SLACK)
    assert changed.fetches(SIZE) == [100, 200, 500]
    assert [level["k"] for level in changed.recall["levels"]] == [100, 200, 500]


def test_an_index_that_outgrows_its_catalogue_drops_levels(searcher):
    wider = searcher.parameters.widened(1.25, 700)
    assert [level.fetch for level in wider.levels] == [100, 200, 500]
    assert all(level.reorder <= 700 for level in wider.levels)
    assert wider.reorder == min(700, int(np.ceil(1.25 * searcher.parameters.reorder)))


def test_recall_after_exclusions_by_hand():
    """Four nearest of scores .9 .8 .7 .6, of which the first two are excluded."""
    truth = np.float32([[0.9, 0.8, 0.7, 0.6]] * 4)
    found = np.float32(
        [
            [0.9, 0.8, 0.7, 0.6],  # both
            [0.7, 0.6, 0.5, 0.4],  # both, though no excluded one was found
            [0.9, 0.8, 0.7, 0.5],  # one
            [0.9, 0.8, 0.5, -np.inf],  # none
        ]
    )
    assert compute_recall(found, truth, excluded=2).tolist() == [1.0, 1.0, 0.5, 0.0]
    assert compute_recall(found, truth).tolist() == [1.0, 0.5, 0.75, 0.5]
    assert describe_level(found, truth, k=2) == {
        "k": 4, "recall": 0.6875, "excluded": 2, "recall_excluded": 0.625, "queries": 4
    }  # fmt: skip


def test_a_level_is_tuned_for_its_last_ranks():
    """With fewer than 40 leaves only the first 90 of 100 are found: recall@100 is .9, that of the last ten 0."""
    truth = np.tile(np.linspace(0.9, 0.1, 100, dtype=np.float32), (5, 1))

    def search(leaves, reorder):
        scores = truth.copy()
        if leaves < 40:
            scores[:, 90:] = -1
        return scores

    assert choose_cheapest(search, truth, 1_000, 100, 0.89).leaves_to_search == 1
    found = choose_cheapest(search, truth, 1_000, 100, 0.89, excluded=90)
    reached = [point["leaves_to_search"] for point in found.curve if point["recall"] == 1.0]
    assert found.recall == 1.0 and found.leaves_to_search in reached and 40 <= min(reached) <= 42
    assert (
        min(point["leaves_to_search"] for point in choose_cheapest(search, truth, 1_000, 100, 0.89, 90, 30).curve) == 30
    )
    assert choose_cheapest(lambda leaves, reorder: truth - 1, truth, 1_000, 100, 0.9) is None


def test_levels_that_cost_more_than_scoring_all_items_are_not_made(monkeypatch):
    monkeypatch.setattr(scann_searcher, "_REORDERED", 32.0)
    config = IndexConfig(kind="scann", k=10, target_recall=0.9)
    made = build_index([str(row) for row in range(1_000)], clustered(5, 1_000), config, clustered(6, 50), threads=1)
    assert made.parameters.wider == ()
    assert made.parameters.levels == (Level(10, made.parameters.leaves_to_search, made.parameters.reorder),)
    queries = clustered(7, 20)
    right = np.argsort(-(queries @ made.items.vectors.T), axis=1)[:, :50]
    np.testing.assert_array_equal(np.sort(made.search(queries, 50).rows), np.sort(right))
