"""JSON-like rows become raw inputs; what does not fit is one clear line."""

import math

import numpy as np
import pytest

from twotower_tf.errors import DataError
from twotower_tf.features.inputs import Input, rows_to_arrays

INPUTS = (
    Input("city", "text"),
    Input("tags", "texts", "|", 3),
    Input("history", "texts", "", 2, keep_last=True),
    Input("age", "number"),
    Input("ts", "time"),
)


def test_whole_numbers_texts_and_whole_floats_are_one_value():
    rows = [{"city": 3}, {"city": 3.0}, {"city": "3"}, {"city": True}, {"city": None}, {"city": ""}, {}]
    got = rows_to_arrays(INPUTS, rows)["city"]
    assert got.tolist() == [b"3", b"3", b"3", b"true", b"", b"", b""]


def test_lists_are_padded_and_cut_at_the_right_end():
    rows = [{"tags": "a| b ||c|d", "history": ["i1", "i2", 3]}, {"tags": ["x"], "history": []}, {}]
    got = rows_to_arrays(INPUTS, rows)
    assert got["tags"].tolist() == [[b"a", b"b", b"c"], [b"x", b"", b""], [b"", b"", b""]]
    assert got["history"].tolist() == [[b"i2", b"3"], [b"", b""], [b"", b""]]


def test_one_unsplit_text_is_a_history_of_one():
    assert rows_to_arrays(INPUTS, [{"history": "i|1"}])["history"].tolist() == [[b"i|1"]]


def test_numbers_and_times():
    rows = [{"age": "2.5", "ts": "1970-01-01T01:00:00Z"}, {"age": 3, "ts": 60}, {}, {"ts": "1970-01-02"}]
    got = rows_to_arrays(INPUTS, rows)
    assert got["age"].dtype == np.float32 and got["age"][:2].tolist() == [2.5, 3.0] and math.isnan(got["age"][2])
    assert got["ts"].tolist() == [3600, 60, 0, 86400]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"citi": "x"}, "row 0: unknown feature 'citi'; did you mean 'city'? (features: age, city, history, tags, ts)"),
        ({"age": "old"}, "feature 'age': a number is expected; came 'old'"),
        ({"ts": "noon"}, "feature 'ts': epoch seconds or an ISO 8601 time is expected; came 'noon'"),
        ({"ts": 1e30}, "feature 'ts': epoch seconds or an ISO 8601 time is expected; came 1e+30"),
        ({"ts": 2**63}, "feature 'ts': epoch seconds or an ISO 8601 time is expected; came 9223372036854775808"),
        ({"city": ["a"]}, "feature 'city': one value is expected; came ['a']"),
        ({"city": "\ud800"}, "feature 'city': text of valid Unicode is expected; came '\\ud800'"),
        ({"city": b"\xff"}, "feature 'city': text of valid Unicode is expected; came b'\\xff'"),
        ({"tags": "a|\udfff"}, "feature 'tags': text of valid Unicode is expected; came 'a|\\udfff'"),
        ({"tags": ["a", ["b"]]}, "feature 'tags': one value is expected; came ['b']"),
        ({"tags": {"a": 1}}, "feature 'tags': a list of values is expected; came {'a': 1}"),
        ("city", "row 0: an object of feature values is expected; came 'city'"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(row, message):
    with pytest.raises(DataError) as error:
        rows_to_arrays(INPUTS, [row])
    assert str(error.value) == message


def test_no_rows_give_empty_arrays():
    got = rows_to_arrays(INPUTS, [])
    assert {name: len(array) for name, array in got.items()} == dict.fromkeys(
        ("city", "tags", "history", "age", "ts"), 0
    )
    assert got["tags"].ndim == 2
