"""JSON-like rows become raw inputs; what does not fit is one clear line."""

import math

import numpy as np
import pandas as pd
import pytest

from twotower_tf.config.features import Input
from twotower_tf.errors import DataError
from twotower_tf.features.inputs import rows_to_arrays

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


def test_a_text_of_items_is_split_as_in_text_files():
    rows = [{"history": "i0|i1|i2"}, {"history": "i1"}, {"history": "|i1||i2"}, {"history": ["i|1"]}, {"history": ""}]
    got = rows_to_arrays(INPUTS, rows)["history"].tolist()
    assert got == [[b"i1", b"i2"], [b"i1", b""], [b"i1", b"i2"], [b"i|1", b""], [b"", b""]]


def test_values_come_in_any_ordered_iterable():
    rows = [{"history": pd.Series(["i1", "i2"])}, {"history": iter(["i1", "i2"])}, {"history": np.array(["i1", "i2"])}]
    assert rows_to_arrays(INPUTS, rows)["history"].tolist() == [[b"i1", b"i2"]] * 3


def test_elements_of_tags_are_split_as_in_training():
    """Training joins a list by the separator and splits it again."""
    assert rows_to_arrays(INPUTS, [{"tags": [" a ", "b|c"]}])["tags"].tolist() == [[b"a", b"b", b"c"]]


@pytest.mark.parametrize("gap", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), ""])
def test_a_gap_is_no_value_for_every_kind(gap):
    got = rows_to_arrays(INPUTS, [{each.name: gap for each in INPUTS}])
    assert (got["city"].tolist(), got["ts"].tolist()) == ([b""], [0])
    assert (got["tags"].tolist(), got["history"].tolist()) == ([[b""]], [[b""]])
    assert np.isnan(got["age"]).tolist() == [True]
    assert rows_to_arrays(INPUTS, [{"history": [gap, "i1"]}])["history"].tolist() == [[b"i1"]]


def test_infinity_is_no_number_as_in_training():
    ages = [float("inf"), "-inf", 10**400, 1e30]
    assert np.isnan(rows_to_arrays(INPUTS, [{"age": age} for age in ages])["age"]).tolist() == [True] * 3 + [False]


def test_numbers_and_times():
    rows = [{"age": "2.5", "ts": "1970-01-01T01:00:00Z"}, {"age": 3, "ts": 60}, {}, {"ts": "1970-01-02"}]
    got = rows_to_arrays(INPUTS, rows)
    assert got["age"].dtype == np.float32 and got["age"][:2].tolist() == [2.5, 3.0] and math.isnan(got["age"][2])
    assert got["ts"].tolist() == [3600, 60, 0, 86400]


def test_the_users_id_may_stand_next_to_features_that_are_read():
    rows = [{"who": "u1", "age": 3}, {}]
    np.testing.assert_array_equal(rows_to_arrays(INPUTS, rows, user_id="who")["age"], [3, np.nan])
    assert rows_to_arrays(INPUTS, [{"city": "x"}], user_id="city")["city"].tolist() == [b"x"]
    with pytest.raises(DataError, match="row 1: 'who' alone says nothing: the model reads age, city, history, tags, t"):
        rows_to_arrays(INPUTS, [{}, {"who": "u1"}], user_id="who")
    with pytest.raises(DataError, match="row 0: unknown feature 'wo'"):
        rows_to_arrays(INPUTS, [{"wo": "u1", "age": 3}], user_id="who")


TIME = (
    "feature 'ts': invalid time {} (expected epoch seconds from -62135596800 to 253402300799, or ISO 8601); write it "
    "in the form that the log has"
)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"citi": "x"}, "row 0: unknown feature 'citi'; did you mean 'city'? (features: age, city, history, tags, ts)"),
        ({"zzz": "x"}, "row 0: unknown feature 'zzz'; known: age, city, history, tags, ts"),
        ({"age": "old"}, "feature 'age': invalid value 'old' (expected a number)"),
        ({"ts": "noon"}, TIME.format("'noon'")),
        ({"ts": 1e30}, TIME.format("1e+30")),
        ({"ts": 2**63}, TIME.format("9223372036854775808")),
        ({"ts": True}, TIME.format("True")),
        ({"city": ["a"]}, "feature 'city': invalid value ['a'] (expected one value)"),
        ({"city": "\ud800"}, "feature 'city': invalid value '\\ud800' (expected text of valid Unicode)"),
        ({"city": b"\xff"}, "feature 'city': invalid value b'\\xff' (expected text of valid Unicode)"),
        ({"tags": "a|\udfff"}, "feature 'tags': invalid value 'a|\\udfff' (expected text of valid Unicode)"),
        ({"tags": ["a", ["b"]]}, "feature 'tags': invalid value ['b'] (expected one value)"),
        ({"tags": {"a": 1}}, "feature 'tags': invalid value {'a': 1} (expected a list of values)"),
        ("city", "row 0: invalid features 'city' (expected an object of feature values)"),
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
