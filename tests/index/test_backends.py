"""Lines logged before an index is built, the choice of its parameters, and the plot of its trade-off."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from tests.index.contract import unit
from twotower_tf.config import IndexConfig
from twotower_tf.index.backends import build_index, get_backend
from twotower_tf.index.item_vectors import duplicate_vectors
from twotower_tf.index.scann import recall_plot, scann_build, scann_search_space


def test_memory_and_equal_vectors_are_told_first():
    vectors = unit(np.random.default_rng(0), 50, 4)
    vectors[[20, 7, 31]] = vectors[3]
    lines = []
    build_index([f"i{row}" for row in range(50)], vectors, IndexConfig(), threads=1, report=lines.append)
    assert lines[0].startswith("index: exact, 50 items of 4 dimensions: about ")
    assert lines[1:] == ["index: 3 items have the vector of another item: 'i7' of 'i3', 'i20' of 'i3', 'i31' of 'i3'"]


def test_memory_by_hand():
    exact = get_backend("exact").memory(1_000_000, 64, threads=2)
    assert exact.build == 256_000_000 + 160_000_000  # vectors, ids
    scann = get_backend("scann").memory(1_000_000, 64, threads=2)
    assert scann.answer == 256_000_000 + 44_000_000 + 160_000_000 + 2 * 64 * 2**20
    assert scann.build - scann.answer == 256_000_000 + 3 * 250_000 * 64 * 4 + 1000 * 64 * 4
    assert str(scann) == "about 1.0 GB of memory to build it, 594.2 MB to answer from it"


def test_duplicate_vectors_are_found_whatever_the_sign_of_zero():
    vectors = np.float32([[1, 0], [0, 1], [1, -0.0], [0.6, 0.8], [0, 1], [1, 0]])
    rows, firsts = duplicate_vectors(vectors)
    assert (rows.tolist(), firsts.tolist()) == ([2, 4, 5], [0, 1, 0])
    rng = np.random.default_rng(1)
    large = rng.integers(-1, 2, (20_000, 6)).astype(np.float32)
    rows, firsts = duplicate_vectors(large)
    first: dict[bytes, int] = {}
    expected = {row: known for row, line in enumerate(large) if (known := first.setdefault(line.tobytes(), row)) != row}
    assert dict(zip(rows.tolist(), firsts.tolist(), strict=True)) == expected


COSTS = {  # leaves (of 400 items), threshold, dimensions: microseconds
    (40, 0.2, 1): 100.0,
    (20, 0.2, 1): 60.0,
    (80, 0.2, 1): 59.0,  # not clearly better than what is found already
    (20, 0.3, 1): 50.0,
    (20, 0.4, 1): 70.0,
    (20, 0.3, 2): 45.0,
}


def test_the_cheapest_shape_is_found_one_parameter_after_the_other(monkeypatch):
    monkeypatch.setattr(scann_search_space, "_SAMPLE", 400)
    asked = []

    def cost(self, shape):
        asked.append(key := (shape.leaves, shape.anisotropic_threshold, shape.dimensions_per_block))
        return COSTS[key]

    monkeypatch.setattr(scann_search_space._Trial, "cost", cost)
    vectors = unit(np.random.default_rng(0), 10_000, 4)
    shape, _ = scann_search_space.choose(vectors, vectors[:5], 10, 0.9, threads=1)
    assert shape == scann_build.Shape(leaves=100, anisotropic_threshold=0.3, dimensions_per_block=2)  # 1 × √10,000
    assert set(asked) == set(COSTS)


def test_shapes_are_tried_on_a_sample_and_reach_the_target(monkeypatch):
    pytest.importorskip("scann", reason="ScaNN is not installed here")
    monkeypatch.setattr(scann_search_space, "_SAMPLE", 300)
    vectors = unit(np.random.default_rng(0), 900, 8)
    built = build_index(
        [str(row) for row in range(900)], vectors, IndexConfig(kind="scann", k=5), vectors[:100], threads=2
    )
    tried = built.description()["recall"]["shapes"]
    assert len(tried) == 6 and all(trial["items"] == 300 and trial["recall"] >= 0.95 for trial in tried)
    assert built.parameters.leaves in {30, 60, 120}  # of 900 items, whose square root is 30
    assert built.recall["measured"] >= 0.95


def test_the_curve_is_drawn_with_its_target_and_choice():
    points = [
        {"leaves_to_search": leaves, "reorder": reorder, "recall": 0.5 + leaves / 100, "microseconds": 10.0 + leaves}
        for leaves in (1, 10, 40)
        for reorder in (100, 200)
    ]
    recall = {"k": 100, "target": 0.9, "curve": points}
    drawn = recall_plot.draw(recall, {"leaves_to_search": 40, "reorder": 200})
    assert drawn == recall_plot.draw(recall, {"leaves_to_search": 40, "reorder": 200})
    ElementTree.fromstring(drawn)
    for text in ("recall@100", "queries per second and core", "candidates re-scored", ">100<", ">200<"):
        assert text in drawn
