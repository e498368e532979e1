import numpy as np
import pyarrow as pa

from twotower_tf.config.features import Input
from twotower_tf.evaluate.feature_values import encode_values


def pairs(values):
    return [(int(row), values.names[code]) for row, code in zip(values.rows, values.codes, strict=True)]


def test_texts_and_missing_ones():
    column = pa.chunked_array([["b", None], ["a", "", "b"]])
    values = encode_values(Input("country", "text"), "user", column)
    assert pairs(values) == [(0, "b"), (2, "a"), (4, "b")]
    assert (values.size, values.column, values.side, values.ordered) == (5, "country", "user", False)


def test_tags_in_their_order_each_once():
    column = pa.chunked_array([["x| y ", "", "y|x|y", None, "|"]])
    values = encode_values(Input("tags", "texts", separator="|"), "item", column)
    assert pairs(values) == [(0, "x"), (0, "y"), (2, "y"), (2, "x")]


def test_few_numbers_stay_apart_and_many_are_divided_into_quarters():
    few = encode_values(Input("age", "number"), "user", pa.chunked_array([[30.0, None, 2.5, 30.0, float("nan")]]))
    assert pairs(few) == [(0, "30"), (2, "2.5"), (3, "30")] and few.names == ["2.5", "30"] and few.ordered
    numbers = np.arange(100, 0, -1)
    many = encode_values(Input("age", "number"), "user", pa.chunked_array([numbers]))
    assert many.names == ["1 to 25", "26 to 50", "51 to 75", "76 to 100"]
    assert pairs(many)[0] == (0, "76 to 100") and pairs(many)[75] == (75, "1 to 25")
    skewed = encode_values(Input("age", "number"), "user", pa.chunked_array([[0] * 90 + list(range(1, 12))]))
    assert skewed.names == ["0 to 0", "1 to 11"]
