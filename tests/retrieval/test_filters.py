"""Filters against Python over the same rows; other than plain expressions over the catalogue are refused."""

import time
import types

import numpy as np
import pyarrow as pa
import pytest

from twotower_tf.errors import DataError
from twotower_tf.retrieval.filters import Filters

ROWS = [
    {"item_id": "a", "country": "DE", "in_stock": True, "price": 3.5, "tags": ["x", "y"], "flag": "true", "year": 1999},
    {"item_id": "b", "country": "PL", "in_stock": True, "price": None, "tags": [], "flag": "false", "year": 2001},
    {"item_id": "c", "country": "DE", "in_stock": False, "price": 10.0, "tags": ["y"], "flag": "", "year": None},
    {"item_id": "d", "country": "", "in_stock": True, "price": 0.0, "tags": None, "flag": "true", "year": 2026},
    {"item_id": "e", "country": None, "in_stock": None, "price": -1.0, "tags": ["z"], "flag": None, "year": 2020},
]


@pytest.fixture(scope="module")
def filters():
    return Filters(pa.Table.from_pylist(ROWS), seconds=60)


@pytest.mark.parametrize(
    ("predicate", "passes"),
    [
        ("country = 'DE' and in_stock", "a"),
        ("country = 'DE' AND NOT in_stock", "c"),
        ("price > 1 or price is null", "abc"),
        ("country is null", "de"),  # "" means no value
        ("country in ('PL', 'DE') and year between 1990 and 2010", "ab"),
        ("flag", "ad"),  # text that says true
        ("list_contains(tags, 'y')", "ac"),
        ("country like 'P%' or lower(country) = 'de'", "abc"),
        ("case when in_stock then price > 1 else year = 2020 end", "ae"),
        ("coalesce(price, 100) > 5", "bc"),
        ("cast(price as integer) = 10 or price + 1 = 1", "cd"),
        ("items.year >= 2020", "de"),
        ("\"country\" = 'DE' -- the only ones", "ac"),
        ("tags[1] = 'x' or len(tags) = 0", "ab"),
        ("abs(price) >= 1 and not starts_with(item_id, 'c')", "ae"),
        ("true", "abcde"),
        ("null", ""),
        ("COUNTRY = 'DE'", "ac"),
    ],
)
def test_what_passes(filters, predicate, passes):
    assert filters.mask(predicate).tolist() == [row["item_id"] in passes for row in ROWS]


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        (
            "contry = 'DE'",
            "filter: unknown column 'contry'; did you mean 'country'? known: country, flag, in_stock, item_id, ",
        ),
        ("zzz", "unknown column 'zzz'; known: country, flag, in_stock, item_id, price, tags, year"),
        ("rowid = 1", "filter: unknown column 'rowid'; known: country, flag"),
        ("other.country = 'DE'", "filter: unknown column 'other'; known: "),
        ("country = ", "filter: invalid expression 'country = ' (syntax error at or near"),
        ("country = 'DE'; drop table items", 'drop table items" (syntax error at or near ";"'),
        ("", "filter: invalid expression '' (expected one expression)"),
        (
            "true) from items where (true",
            "filter: invalid expression 'true) from items where (true' (expected one expression)",
        ),
        ("true) union select (true", "(expected one expression)"),
        ("true) order by (1", "(expected one expression)"),
        (
            "exists (select * from items)",
            "invalid expression 'exists (select * from items)' (a query inside a filter is not allowed)",
        ),
        ("(select true)", "invalid expression '(select true)' (a query inside a filter is not allowed)"),
        ("price in (select 1)", "(a query inside a filter is not allowed)"),
        ("row_number() over () = 1", "(a window function is not allowed: a filter sees one row)"),
        ("price = $1", "(a parameter is not allowed in a filter)"),
        ("price = ?", "(a parameter is not allowed in a filter)"),
        ("*", "(* is not a value)"),
        ("count(*) > 1", "filter: unknown function 'count_star'"),
        ("sum(price) > 1", "filter: unknown function 'sum'"),
        ("random() < 0.5", "filter: unknown function 'random'"),
        ("repeat('x', 1000000000) = country", "filter: unknown function 'repeat'"),
        ("range(1000000000) = tags", "filter: unknown function 'range'"),
        ("current_setting('memory_limit') = 'x'", "filter: unknown function 'current_setting'"),
        ("read_text('/etc/passwd') = 'x'", "filter: unknown function 'read_text'"),
        ("list_filter(tags, t -> t = 'x') = tags", "filter: "),
        ("true, false", "filter: invalid expression 'true, false' (expected one expression)"),
        ("country = 3", "filter: 'country = 3' cannot be evaluated: Conversion Error: Could not convert string 'DE'"),
        ("country", "filter: 'country' cannot be evaluated: Conversion Error"),
        ("country = '\ud800'", "filter: invalid expression \"country = '\\ud800'\" (it is not valid Unicode)"),
        ("x" * 10_001, "filter: invalid length 10,001 (expected at most 10,000 characters)"),
        ("not " * 2_000 + "true", "not not not not not n...' is nested too deeply (expected at most 50 levels)"),
        ("(" * 3_000 + "true" + ")" * 3_000, "((((((((...' is nested too deeply (expected at most 50 levels)"),
        ("[" * 300 + "1" + "]" * 300 + " is null", "is nested too deeply (expected at most 50 levels)"),
        ("1" + " + 1" * 2_000 + " = price", "is nested too deeply (expected at most 50 levels)"),
    ],
)
def test_what_is_refused(filters, predicate, message):
    with pytest.raises(DataError) as raised:
        filters.mask(predicate)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_row_of_a_large_catalogue_has_its_own_answer():
    """DuckDB reads the table in many pieces on several threads; masks are in row order all the same."""
    rng = np.random.default_rng(0)
    price, shop = rng.normal(size=300_000), rng.integers(0, 7, 300_000)
    filters = Filters(pa.table({"price": price, "shop": shop.astype(str)}), seconds=60)
    found = filters.mask("price > 0.5 and shop in ('1', '4')")
    np.testing.assert_array_equal(found, (price > 0.5) & np.isin(shop, [1, 4]))


def both(left, right):
    return False if left is False or right is False else None if left is None or right is None else True


def either(left, right):
    return True if left is True or right is True else None if left is None or right is None else False


def random_filter(rng, depth):
    """A predicate, and a Python function of a row that says what it is: True, False or None."""
    if depth == 0 or rng.random() < 0.2:
        number, letter = int(rng.integers(0, 5)), str(rng.choice(["x", "y"]))
        return [
            (f"a = {number}", lambda row: None if row["a"] is None else row["a"] == number),
            (f"b > 0.{number}", lambda row: None if row["b"] is None else row["b"] > number / 10),
            (f"c = '{letter}'", lambda row: row["c"] == letter if row["c"] else None),
            ("a is null", lambda row: row["a"] is None),
            ("c in ('x', 'q')", lambda row: row["c"] in ("x", "q") if row["c"] else None),
        ][rng.integers(0, 5)]
    (one, first), (other, second) = random_filter(rng, depth - 1), random_filter(rng, depth - 1)
    return [
        (f"not ({one})", lambda row: None if first(row) is None else not first(row)),
        (f"({one}) and ({other})", lambda row: both(first(row), second(row))),
        (f"({one}) or ({other})", lambda row: either(first(row), second(row))),
    ][rng.integers(0, 3)]


def test_random_filters_against_three_valued_logic_in_python():
    rng = np.random.default_rng(0)
    rows = [
        {"a": int(a) if a < 5 else None, "b": float(b) if b < 1.5 else None, "c": c if c != "none" else None}
        for a, b, c in zip(
            rng.integers(0, 7, 60), rng.normal(size=60).round(1), rng.choice(["x", "y", "", "none"], 60), strict=True
        )
    ]
    filters = Filters(pa.Table.from_pylist(rows), seconds=60)
    for _ in range(150):
        predicate, passes = random_filter(rng, 4)
        assert filters.mask(predicate).tolist() == [passes(row) is True for row in rows], predicate


def test_a_filter_is_evaluated_once(filters):
    first = filters.mask("country = 'DE'")
    assert filters.mask("country = 'DE'") is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = True


def test_a_filter_whose_planning_takes_long_is_answered():
    """Each statement takes longer than a batch should, whatever it has to do, as on a busy machine."""
    price = np.random.default_rng(1).integers(0, 9, 20_000)
    filters = Filters(pa.table({"price": price}), seconds=3)
    real = filters._connection

    class Slow:
        def __init__(self):
            self.cursor = real.cursor()

        def execute(self, query):
            time.sleep(0.06)
            return self.cursor.execute(query)

        def __getattr__(self, name):
            return getattr(self.cursor, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.cursor.close()

    filters._connection = types.SimpleNamespace(cursor=Slow)
    np.testing.assert_array_equal(filters.mask("price > 3"), price > 3)


def test_nothing_but_the_catalogue_is_within_reach(filters, tmp_path):
    """Behind the checks of the expression, the database itself has no way out."""
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for query in (
        f"SELECT * FROM read_csv('{secret}')",
        f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
        f"ATTACH '{tmp_path / 'other.db'}'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT * FROM secret_frame",
    ):
        secret_frame = pa.table({"a": [1]})
        with pytest.raises(Exception, match=r"disabled|locked|does not exist|not allowed|Cannot"):
            filters._connection.execute(query)
        del secret_frame
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
