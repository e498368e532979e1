"""The map of item vectors: axes compared with a singular value decomposition, colours by hand."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from tests.evaluate.test_slices import values_of
from twotower_tf.config import DataConfig, EvaluationConfig, ExperimentConfig, Hash, Numeric, Tags
from twotower_tf.evaluate import item_map

CONFIG = ExperimentConfig(
    name="map",
    data=DataConfig(),
    item_features=(Hash("item_id", 100), Hash("brand", 10), Tags("genres", 10, separator="|"), Numeric("price")),
    user_features=(Hash("user_id", 100),),
)


class Catalogue:
    """Six items: three brands, two genres and prices."""

    def __init__(self, **columns):
        self.table = pa.table(
            {
                "item_id": list("abcdef"),
                "brand": ["x", "y", "z", "x", None, "x"],
                "genres": ["g|h", "g", "h|g", "h", "h", ""],
                "price": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
                **columns,
            }
        )

    def items(self, columns):
        return self.table.select(columns)

    def train_count(self):
        return np.array([9, 1, 0, 1, 1, 1])


def test_axes_are_those_of_a_singular_value_decomposition():
    rng = np.random.default_rng(2)
    vectors = (rng.normal(size=(500, 6)) * [3, 1, 9, 1, 1, 1] + 5).astype(np.float32)
    axes, center, explained = item_map.find_axes(vectors)
    _, singular, components = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    for axis, expected in zip(axes.T, components, strict=False):
        assert abs(axis @ expected) == pytest.approx(1, abs=1e-5)
        assert axis[np.abs(axis).argmax()] > 0
    assert explained == pytest.approx((singular**2 / (singular**2).sum())[:2], rel=1e-4)
    assert center == pytest.approx(vectors.mean(axis=0), rel=1e-5)


def test_vectors_that_are_all_equal_lie_in_one_point():
    found = item_map.make_map(CONFIG, Catalogue(), np.tile(np.float32([0.6, 0.8]), (6, 1)))
    assert {(x, y) for x, y, _ in found["points"]} == {(0.0, 0.0)} and found["explained"] == [0.0, 0.0]


def test_points_lie_along_the_axes_in_the_colour_of_their_first_value():
    """A cross of six points: the long arm along the second coordinate, the short one along the first."""
    items = np.float32([[0, 5], [0, -5], [0, 3], [0, -3], [1, 0], [-1, 0]])
    found = item_map.make_map(CONFIG, Catalogue(), items)
    assert found["points"] == [
        [5.0, 0.0, 1], [-5.0, 0.0, 1], [3.0, 0.0, 0], [-3.0, 0.0, 0], [0.0, 1.0, 0], [0.0, -1.0, 3]
    ]  # fmt: skip
    assert (found["column"], found["names"], found["items"]) == ("genres", ["h", "g", "(other)", "(none)"], 6)
    assert found["explained"] == pytest.approx([68 / 70, 2 / 70])


def test_a_column_of_the_slices_is_preferred():
    config = dataclasses.replace(CONFIG, evaluation=EvaluationConfig(slices=("price", "brand")))
    column, names, codes = item_map.choose_colors(config, Catalogue())
    assert (column, names, codes.tolist()) == ("brand", ["x", "y", "z", "(other)", "(none)"], [0, 1, 2, 0, 4, 0])


def test_without_a_column_of_few_values_colours_are_of_popularity():
    catalogue = Catalogue(brand=["one"] * 6, genres=["g"] * 6)
    column, names, codes = item_map.choose_colors(CONFIG, catalogue)
    assert (column, names, codes.tolist()) == ("", ["hot", "tail", "cold"], [0, 1, 2, 1, 1, 1])


def test_values_beyond_eight_share_a_colour():
    letters = [letter for place, letter in enumerate("abcdefghij") for _ in range(12 - place)]
    names, codes = item_map.name_colors(values_of("item", *letters))
    assert names == [*"abcdefgh", "(other)", "(none)"]
    assert codes[:12].tolist() == [0] * 12 and codes[-3:].tolist() == [8] * 3


def test_a_large_catalogue_is_sampled():
    rng = np.random.default_rng(3)
    config = dataclasses.replace(CONFIG, item_features=(Hash("item_id", 100),))
    items = rng.normal(size=(5000, 3)).astype(np.float32)
    catalogue = Catalogue()
    catalogue.train_count = lambda: np.arange(5000)
    found = item_map.make_map(config, catalogue, items)
    assert len(found["points"]) == 2000 and found["items"] == 5000
    hot = [code for _, _, code in found["points"]].count(0)
    assert hot == pytest.approx(200, abs=50)
