"""Novelty, diversity and coverage, compared with loops over pairs."""

import itertools
import math

import numpy as np
import pytest

from twotower_tf.evaluate.recommended_lists import measure_lists, self_information


def test_self_information_by_hand():
    """Of 5 + 3 positives and items: 4 / 8, 3 / 8 and, never trained, 1 / 8."""
    assert self_information(np.array([3, 2, 0])).tolist() == pytest.approx([1.0, math.log2(8 / 3), 3.0])


def test_equals_loops_over_lists_and_pairs():
    rng = np.random.default_rng(1)
    items = rng.normal(size=(40, 5)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    bits = rng.random(40)
    lists = [rng.permutation(30)[: int(rng.choice([0, 1, 2, 7, 10]))].tolist() for _ in range(50)]
    top = np.array([each + [-1] * (10 - len(each)) for each in lists], np.int32)
    novelty = [sum(bits[item] for item in each) / len(each) for each in lists if each]
    diversity = []
    for each in lists:
        pairs = [1 - float(items[a].astype(float) @ items[b]) for a, b in itertools.combinations(each, 2)]
        diversity += [sum(pairs) / len(pairs)] if pairs else []
    assert {0, 1} < {*map(len, lists)}
    assert measure_lists(top, items, bits) == {
        "novelty@10": pytest.approx(sum(novelty) / len(novelty), abs=1e-9),
        "diversity@10": pytest.approx(sum(diversity) / len(diversity), abs=1e-6),
        "coverage@10": len({item for each in lists for item in each}) / 40,
    }


def test_lists_of_one_item_have_no_diversity_and_no_list_no_novelty():
    items, bits = np.eye(3, dtype=np.float32), np.array([1.0, 2.0, 4.0])
    single = np.int32([[2, *[-1] * 9]])
    assert measure_lists(single, items, bits) == {"novelty@10": 4.0, "diversity@10": None, "coverage@10": 1 / 3}
    nothing = np.full((2, 10), -1, np.int32)
    assert measure_lists(nothing, items, bits) == {"novelty@10": None, "diversity@10": None, "coverage@10": 0.0}
