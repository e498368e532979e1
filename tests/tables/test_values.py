"""The text of a value: both forms of the rule, by hand and against each other."""

from __future__ import annotations

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower_tf.tables.values import as_text, text_sql

HAND: list[tuple[object, str]] = [
    (None, ""),
    ("", ""),
    ("3.0", "3.0"),
    (" a ", " a "),
    (3, "3"),
    (3.0, "3"),
    (-0.0, "0"),
    (float("nan"), ""),
    (0.1, "0.1"),
    (np.float32(0.1), "0.1"),
    (np.float64(2.5), "2.5"),
    (1e22, "1e+22"),
    (1e15, "1000000000000000"),
    (True, "true"),
    (np.bool_(False), "false"),
    (np.int64(-7), "-7"),
    (b"\xc3\xa9t\xc3\xa9", "été"),
]


@pytest.mark.parametrize(("value", "text"), HAND)
def test_text_of_a_value(value: object, text: str) -> None:
    assert as_text(value) == text


def in_sql(values: pa.Array | npt.NDArray[np.generic], kind: str) -> list[str]:
    connection = duckdb.connect()
    connection.register("t", pa.table({"x": values}))
    return [row[0] or "" for row in connection.execute(f"SELECT {text_sql('x', kind)} FROM t").fetchall()]


def random_arrays() -> dict[str, npt.NDArray[np.generic]]:
    chance = np.random.default_rng(5)
    doubles = np.concatenate(
        [
            chance.normal(size=300) * 10.0 ** chance.integers(-300, 300, 300),
            chance.integers(-(10**18), 10**18, 100).astype(np.float64),
            chance.integers(0, 2**63, 3000, dtype=np.int64).view(np.float64),
            [0.0, -0.0, np.nan, np.inf, -np.inf, 1e15, 1e16, 9.2e18, 2.0**63, -(2.0**63), 1e22, 5e-324, 123456.789],
        ]
    )
    return {
        "DOUBLE": doubles,
        "FLOAT": chance.integers(0, 2**32, 5000, dtype=np.uint32).view(np.float32),
        "TINYINT": chance.integers(-100, 100, 50, dtype=np.int8),
        "BIGINT": chance.integers(-(2**63), 2**63 - 1, 50, dtype=np.int64),
        "UBIGINT": chance.integers(0, 2**64 - 1, 50, dtype=np.uint64),
        "BOOLEAN": np.array([True, False]),
    }


@pytest.mark.parametrize("kind", random_arrays())
def test_python_and_sql_agree(kind: str) -> None:
    array = random_arrays()[kind]
    assert in_sql(array, kind) == [as_text(value) for value in array]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_text_is_itself(texts: list[str]) -> None:
    assert in_sql(pa.array(texts, pa.string()), "VARCHAR") == texts == [as_text(text) for text in texts]


def test_lists_and_decimals() -> None:
    connection = duckdb.connect()
    expressions = [
        text_sql("['a', '', NULL, 'b']", "VARCHAR[]", "|"),
        text_sql("[1.0, 2.5]::DOUBLE[]", "DOUBLE[]", ","),
        text_sql("[]::VARCHAR[]", "VARCHAR[]", "|"),
        text_sql("3.00::DECIMAL(5,2)", "DECIMAL(5,2)"),
    ]
    assert connection.execute(f"SELECT {', '.join(expressions)}").fetchall() == [("a|b", "1,2.5", None, "3")]
