"""An index of a changed catalogue: what it finds, and when its settings are tuned again."""

import json

import numpy as np
import pytest

from twotower_tf.config import IndexConfig
from twotower_tf.index.backends import build_index, load_index, open_stored, update_index
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.index_files import NEW
from twotower_tf.index.item_vectors import ItemVectors, read_ids
from twotower_tf.index.scann import scann_build, tuning
from twotower_tf.index.scann.scann_searcher import ScannSearcher

pytest.importorskip("scann")

DIM, SIZE = 16, 3000
SCANN = IndexConfig(kind="scann", k=10, target_recall=0.9)


def unit(rng, count):
    centres = np.random.default_rng(1).normal(size=(40, DIM))
    vectors = centres[rng.integers(0, 40, count)] + 0.5 * rng.normal(size=(count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    rng = np.random.default_rng(0)
    directory = tmp_path_factory.mktemp("built")
    vectors, users = unit(rng, SIZE), unit(rng, 200)
    build_index([f"i{row}" for row in range(SIZE)], vectors, SCANN, users).save(directory / "index")
    return directory / "index", users


def changed(old, seed=2, new=60, left=60):
    """Items that were deleted, changed and added, and the rows of the others; in an order of its own."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(old))[: len(old) - left]
    ids = [old.ids[row] for row in rows] + [f"new{number}" for number in range(new)]
    vectors = np.concatenate([old.vectors[rows], unit(rng, new)])
    origin = np.concatenate([rows, np.full(new, NEW)])
    again = rng.permutation(len(rows))[:new]
    vectors[again], origin[again] = unit(rng, len(again)), NEW
    return ItemVectors(ids, vectors), origin.astype(np.int64)


def items_of(stored):
    return ItemVectors(read_ids(stored.directory / "item_ids"), stored.vectors)


def changed_index(old, items, origin, directory, *given):
    searcher, rebuilt = update_index(old, items, origin, *given)
    assert searcher.items is items
    searcher.save(directory)
    return searcher, rebuilt


def test_a_changed_index_finds_what_exact_search_finds(built, tmp_path):
    directory, users = built
    old = open_stored(directory)
    items, origin = changed(items_of(old))
    changed_index(old, items, origin, tmp_path / "index", SCANN, users)
    found = load_index(tmp_path / "index")  # as a reader finds it, every checksum compared
    assert found.items.ids.tolist() == list(items.ids)
    truth = ExactSearcher(items).search(users, 10)
    answer = found.search(users, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(answer.item_ids, truth.item_ids, strict=True)])
    assert recall >= 0.88 and abs(recall - found.description()["recall"]["measured"]) < 0.02
    own = found.search(items.vectors[origin == NEW], 1)
    assert np.mean(own.item_ids[:, 0] == items.ids[origin == NEW]) > 0.9  # the target recall
    parameters = json.loads((tmp_path / "index" / "index.json").read_text())["parameters"]
    assert parameters["trained_on"] == SIZE and parameters["changed_since"] == 60 + 60 + 60 + 60 + 0


def test_changes_on_changes_add_up_until_the_settings_are_stale(built, tmp_path):
    directory, users = built
    rebuilt = []
    for step in range(6):
        old = open_stored(directory)
        items, origin = changed(items_of(old), seed=step, new=75, left=75)
        names = {name: f"s{step}-{name}" for name in items.ids if name.startswith("new")}
        items = ItemVectors([names.get(name, name) for name in items.ids], items.vectors)
        searcher, renewed = changed_index(old, items, origin, tmp_path / f"{step}", SCANN, users)
        directory = tmp_path / f"{step}"
        rebuilt.append(renewed)
        parameters = searcher.description()["parameters"]
        # Each step changes 300 of 3000: two such steps are a fifth, the fourth would pass three tenths.
        assert parameters["changed_since"] == (0 if renewed else 300 * (1 + step % 4)), step
    assert rebuilt == [False, False, False, True, False, False]


def test_nothing_new_and_one_new_item(built, tmp_path):
    directory, users = built
    old = open_stored(directory)
    origin = np.arange(SIZE)[::-1].copy()
    known = items_of(old)
    items = ItemVectors(known.ids[origin], known.vectors[origin])
    same, rebuilt = changed_index(old, items, origin, tmp_path / "same", SCANN, users)
    assert not rebuilt
    truth = np.argsort(-(users @ items.vectors.T), axis=1)[:, :10]
    found = same.search(users, 10).rows
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)]) >= 0.88
    one = ItemVectors([*known.ids, "one"], np.concatenate([known.vectors, users[:1]]))
    added, rebuilt = changed_index(old, one, np.append(np.arange(SIZE), -1), tmp_path / "one", SCANN, users)
    assert not rebuilt
    assert added.search(users[:1], 1).item_ids.tolist() == [["one"]]


def test_a_search_that_misses_the_target_is_widened_or_the_index_rebuilt(built, tmp_path, monkeypatch):
    directory, users = built
    old = open_stored(directory)
    items, origin = changed(items_of(old))
    before = old.document["parameters"]
    asked = []
    real = tuning.compute_recall
    monkeypatch.setattr(
        tuning,
        "compute_recall",
        lambda *args: asked.append(1) or real(*args) * (1.0 if len(asked) > 2 else 0.5),
    )  # of the index with the changed items, then of the one trained again
    wider, rebuilt = changed_index(old, items, origin, tmp_path / "wider", SCANN, users)
    assert not rebuilt
    after = load_index(tmp_path / "wider").description()["parameters"]
    assert after["reorder"] == int(np.ceil(1.25 * before["reorder"]))
    monkeypatch.setattr(ScannSearcher, "update", lambda *args: None)
    assert changed_index(old, items, origin, tmp_path / "rebuilt", SCANN, users)[1]
    assert load_index(tmp_path / "rebuilt").items.ids.tolist() == list(items.ids)


def test_changed_items_are_put_into_the_index_without_training_it(built, tmp_path, monkeypatch):
    """Items keep their rows, as in a refreshed catalogue: fewer, as many and more of them than before."""
    directory, users = built
    old = open_stored(directory)
    known, rng = items_of(old), np.random.default_rng(5)
    monkeypatch.setattr(scann_build, "build", None)
    for size in (SIZE - 40, SIZE, SIZE + 40):
        origin = np.arange(size)
        origin[rng.permutation(min(size, SIZE))[:300]] = NEW
        origin[SIZE:] = NEW
        if size < SIZE:
            origin[np.flatnonzero(origin == NEW)[:40]] = np.arange(size, SIZE)  # the last items, in free rows
        new = origin == NEW
        vectors, ids = known.vectors[origin], known.ids[origin]
        vectors[new], ids[new] = unit(rng, int(new.sum())), [f"{size}-{row}" for row in np.flatnonzero(new)]
        items = ItemVectors(ids, vectors)
        changed_index(old, items, origin, tmp_path / f"{size}", SCANN, users)
        found = load_index(tmp_path / f"{size}")
        assert found.items.ids.tolist() == ids.tolist() and np.array_equal(found.items.vectors, vectors)
        for queries in (users, vectors[new]):
            truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
            rows = found.search(queries, 10).rows
            assert rows.max() < size and all(len(set(row)) == 10 for row in rows)
            assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, truth, strict=True)]) >= 0.88
        assert np.mean(found.search(vectors[new], 1).rows[:, 0] == np.flatnonzero(new)) > 0.9


def test_kind_follows_the_size(built, tmp_path):
    """A catalogue that shrinks below the limit is searched exactly; an exact one that grows is built."""
    directory, users = built
    old = open_stored(directory)
    auto = IndexConfig(kind="auto", exact_below=1000, k=10, target_recall=0.9)
    known = items_of(old)
    few = ItemVectors(known.ids[:500], known.vectors[:500])
    small, rebuilt = changed_index(old, few, np.arange(500), tmp_path / "small", auto, users)
    assert small.kind == "exact" and load_index(tmp_path / "small").kind == "exact"
    origin = np.concatenate([np.arange(500), np.full(SIZE - 500, -1)])
    grown, rebuilt = changed_index(open_stored(tmp_path / "small"), known, origin, tmp_path / "grown", auto, users)
    assert grown.kind == "scann" and rebuilt
