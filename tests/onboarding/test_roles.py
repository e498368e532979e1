"""What `init` makes of columns of logs as shops, players and publishers write them; the roles are planted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.errors import DataError
from twotower_tf.onboarding.proposal import Proposal, propose_config
from twotower_tf.tables.duckdb_engine import open_engine

ROWS = 1200
Column = Callable[[np.random.Generator], Any]


def users(prefix: str = "u", count: int = 90) -> Column:
    return lambda rng: [f"{prefix}{n}" for n in rng.integers(0, count, ROWS)]


def things(prefix: str = "i", count: int = 60) -> Column:
    return lambda rng: [f"{prefix}{n}" for n in rng.integers(0, count, ROWS)]


def one_of(*values: Any, p: list[float] | None = None) -> Column:
    return lambda rng: rng.choice(np.array(values), ROWS, p=p).tolist()


def numbers(low: float, high: float) -> Column:
    return lambda rng: np.round(rng.uniform(low, high, ROWS), 3)


def integers(low: int, high: int) -> Column:
    return lambda rng: rng.integers(low, high, ROWS)


def clock(rng: np.random.Generator) -> Any:
    return 1_760_000_000 + np.sort(rng.integers(0, 2_000_000, ROWS))


def propose(folder: Path, tables: Mapping[str, Mapping[str, Any]], **given: str) -> Proposal:
    rng = np.random.default_rng(7)
    for name, columns in tables.items():
        values = {column: make(rng) if callable(make) else make for column, make in columns.items()}
        pq.write_table(pa.table(values), folder / f"{name}.parquet")
    with open_engine(folder / "work", "1GB", 1, directories=[folder]) as connection:
        return propose_config(connection, {name: str(folder / f"{name}.parquet") for name in tables}, given)


def fields(proposal: Proposal, offered: bool = False) -> list[tuple[str, str]]:
    choices = proposal.outcomes.offered if offered else proposal.outcomes.chosen
    return [(choice.field, choice.code) for choice in choices]


def feature_text(proposal: Proposal) -> str:
    return " ".join(line.code for side in proposal.lines.values() for line in side)


# Columns; expected user, item and time; fields that are set, and some that are offered; columns that are not features.
Log = tuple[dict[str, Any], tuple[str, str, str], list[tuple[str, str]], list[tuple[str, str]], list[str]]
LOGS: dict[str, Log] = {
    "views, carts and transactions": (
        {
            "timestamp": clock,
            "visitorid": users(),
            "event": one_of("view", "addtocart", "transaction", p=[0.8, 0.15, 0.05]),
            "itemid": things(),
        },
        ("visitorid", "itemid", "timestamp"),
        [],
        [
            ("positive", "\"event IN ('transaction')\""),
            ("weight", "\"CASE WHEN event IN ('transaction') THEN 5 WHEN event IN ('addtocart') "
             "THEN 3 ELSE 1 END\""),
        ],
        ["event"],
    ),
    "impressions among the actions": (
        {
            "ts": clock,
            "uid": users(),
            "track": things("t"),
            "action_type": one_of("impression", "play", "skip", p=[0.5, 0.4, 0.1]),
        },
        ("uid", "track", "ts"),
        [("positive", "\"action_type NOT IN ('skip', 'impression')\"")],
        [],
        ["action_type"],
    ),
    "actions as numbers": (
        {"user_id": users(), "item_id": things(), "behavior_type": one_of(1, 2, 3, 4), "time": clock},
        ("user_id", "item_id", "time"),
        [],
        [],
        ["behavior_type"],
    ),
    "a label of another name, 0.0 and 1.0": (
        {"user_id": users(), "sku": things(), "time": clock, "flag": one_of(0.0, 1.0)},
        ("user_id", "sku", "time"),
        [("label", '"flag"')],
        [],
        ["flag"],
    ),
    "True and False as text": (
        {"user_id": users(), "asin": things(), "time": clock, "was_booked": one_of("True", "FALSE")},
        ("user_id", "asin", "time"),
        [("label", '"was_booked"')],
        [],
        ["was_booked"],
    ),
    "a label and a rejection": (
        {
            "user_id": users(),
            "video_id": things(),
            "time": clock,
            "is_click": one_of(0, 1),
            "long_view": one_of(0, 1),
            "hidden": one_of(0, 1, p=[0.9, 0.1]),
        },
        ("user_id", "video_id", "time"),
        [("label", '"is_click"')],
        [("label", '"long_view"'), ("exclude", '"hidden = 1"')],
        ["is_click", "long_view", "hidden"],
    ),
    "1 where bought, nothing elsewhere": (
        {"user_id": users(), "item_id": things(), "time": clock, "bought": one_of("1", "", p=[0.2, 0.8])},
        ("user_id", "item_id", "time"),
        [("positive", '"bought = 1"')],
        [],
        ["bought"],
    ),
    "an invoice": (
        {
            "InvoiceNo": lambda rng: [f"n{n // 4}" for n in range(ROWS)],
            "StockCode": things("s"),
            "Quantity": integers(1, 40),
            "InvoiceDate": lambda rng: [f"2026-0{1 + n % 3}-{1 + n % 28:02d} 10:{n % 60:02d}:00" for n in range(ROWS)],
            "CustomerID": users("c"),
        },
        ("CustomerID", "StockCode", "InvoiceDate"),
        [],
        [("weight", '"ln(1 + Quantity)"')],
        ["Quantity", "InvoiceNo"],
    ),
    "reviews with stars": (
        {
            "reviewerID": users("A"),
            "asin": things("B"),
            "overall": one_of(1.0, 2.0, 3.0, 4.0, 5.0),
            "unixReviewTime": clock,
        },
        ("reviewerID", "asin", "unixReviewTime"),
        [],
        [("positive", '"overall >= 4"')],
        ["overall"],
    ),
    "books without times": (
        {"User-ID": users("", 90), "ISBN": things("0"), "Book-Rating": integers(0, 11)},
        ("User-ID", "ISBN", ""),
        [],
        [("positive", '"\\"Book-Rating\\" >= 8"')],
        ["Book-Rating"],
    ),
    "counts of plays": (
        {"userID": integers(0, 90), "artistID": integers(500, 560), "weight": integers(1, 4000)},
        ("userID", "artistID", ""),
        [],
        [("weight", '"ln(1 + weight)"')],
        ["weight"],
    ),
    "seconds watched, and what was known before": (
        {
            "user": users(),
            "movie": things(),
            "date": clock,
            "watch_seconds": integers(0, 5000),
            "clicks_7d": integers(0, 50),
        },
        ("user", "movie", "date"),
        [],
        [("weight", '"ln(1 + watch_seconds)"')],
        ["watch_seconds"],
    ),
    "upper case": (
        {"USER_ID": users(), "ITEM_ID": things(), "TIMESTAMP": clock, "EVENT_TYPE": one_of("view", "purchase")},
        ("USER_ID", "ITEM_ID", "TIMESTAMP"),
        [],
        [("positive", "\"EVENT_TYPE IN ('purchase')\"")],
        ["EVENT_TYPE"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOGS)
def test_roles_of_known_logs(case: str, tmp_path: Path) -> None:
    columns, (user, item, time), chosen, offered, unused = LOGS[case]
    proposal = propose(tmp_path, {"events": columns})
    roles = proposal.roles
    assert (roles.user.column, roles.item.column, roles.time.column) == (user, item, time)
    assert fields(proposal) == chosen
    assert set(offered) <= set(fields(proposal, offered=True))
    text = feature_text(proposal)
    assert not [name for name in unused if f'"{name}"' in text]
    if "clicks_7d" in columns:
        assert 'Bucketized("clicks_7d"' in text


def test_circumstances_and_attributes_stay_features(tmp_path: Path) -> None:
    """0 and 1 that describe the moment, the user or the item are not outcomes."""
    rng = np.random.default_rng(1)
    who, what = rng.integers(0, 90, ROWS), rng.integers(0, 60, ROWS)
    proposal = propose(
        tmp_path,
        {
            "events": {
                "user_id": who,
                "item_id": what + 1000,
                "time": clock,
                "click": one_of(0, 1),
                "is_mobile": one_of(0, 1),
                "plus": (who % 3 == 0).astype(int),
                "fragile": (what % 2 == 0).astype(int),
            }
        },
    )
    assert fields(proposal) == [("label", '"click"')] and not fields(proposal, offered=True)
    assert [line.code.split('"')[1] for line in proposal.lines["item"]] == ["item_id", "fragile"]
    assert [line.code.split('"')[1] for line in proposal.lines["user"]][:2] == ["is_mobile", "plus"]


@pytest.mark.parametrize(
    ("values", "shares", "expected"),
    [
        (["train", "valid", "test"], [0.8, 0.1, 0.1], 'GivenSplit(column="split")'),
        (["train", "test"], [0.8, 0.2], 'GivenSplit(column="split")'),
        (["Train", "Val", "Test"], [0.8, 0.1, 0.1], "TimeSplit(valid_fraction=0.1, test_fraction=0.1)"),
    ],
)
def test_a_given_split_is_used(values: list[str], shares: list[float], expected: str, tmp_path: Path) -> None:
    columns = {"user_id": users(), "item_id": things(), "time": clock, "split": one_of(*values, p=shares)}
    proposal = propose(tmp_path, {"events": columns})
    assert proposal.split.code == expected
    assert "split" in proposal.left_out and '"split"' not in feature_text(proposal)
    assert ('monitor=""' in proposal.sections["train"].code) == (values == ["train", "test"])


def test_keys_of_other_names_are_found_by_their_values(tmp_path: Path) -> None:
    """The item table's key is `id`, the user table's `code`; other columns share whole numbers by chance."""
    rng = np.random.default_rng(4)
    proposal = propose(
        tmp_path,
        {
            "events": {"who": rng.integers(0, 90, ROWS), "a": things("k"), "stars": integers(1, 6), "time": clock},
            "items": {"id": [f"k{n}" for n in range(80)], "year": np.arange(1930, 2010), "price": np.arange(80) / 7},
            "users": {"code": np.arange(100), "age": rng.integers(18, 80, 100)},
        },
    )
    assert (proposal.roles.user.column, proposal.roles.item.column) == ("who", "a")
    assert {name: line.code for name, line in proposal.more.items()} == {"items_id": '"id"', "users_id": '"code"'}
    text = feature_text(proposal)
    assert '"price"' in text and '"age"' in text and '"id"' not in text and '"code"' not in text


def test_a_table_that_matches_nothing_is_left_out(tmp_path: Path) -> None:
    proposal = propose(
        tmp_path,
        {
            "events": {"user_id": users(), "item_id": things(), "time": clock},
            "items": {"ean": [f"e{n}" for n in range(80)], "price": np.arange(80) / 7},
        },
    )
    assert "items" not in proposal.paths and "price" not in feature_text(proposal)
    assert "no column of it has the values of 'item_id'" in " ".join(proposal.notes)


def test_a_basket_stands_for_a_user(tmp_path: Path) -> None:
    """Nobody is named: what goes together in an order is learnt, and the note says what to do."""
    order = [f"o{n // 5}" for n in range(ROWS)]
    proposal = propose(tmp_path, {"events": {"order_id": order, "product_id": things(), "aisle": things("a", 9)}})
    assert (proposal.roles.user.column, proposal.roles.item.column) == ("order_id", "product_id")
    assert "add a column of users and name it with --user_id" in " ".join(proposal.notes)
    assert 'Hash("order_id"' not in feature_text(proposal) and 'History(of="product_id"' in feature_text(proposal)


def test_a_log_without_users_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column can be the user's id.*--user_id; in a log without users, name the"):
        propose(tmp_path, {"events": {"item_id": things(), "time": clock, "channel": one_of("a", "b", "c", "d")}})


def test_places_in_a_list_are_not_times(tmp_path: Path) -> None:
    """A position that a user has twice is where the item was shown; hours of the day order nothing either."""
    columns = {
        "user_id": users(),
        "item_id": things(),
        "position": lambda rng: np.arange(ROWS) % 10,
        "hour": integers(0, 24),
        "request_id": lambda rng: [f"r{n // 10}" for n in range(ROWS)],
    }
    proposal = propose(tmp_path, {"events": columns})
    assert proposal.roles.time.column == ""
    assert {name: line.code for name, line in proposal.more.items()} == {
        "list_id": '"request_id"',
        "position": '"position"',
    }
    columns.pop("request_id")
    alone = propose(tmp_path, {"events": columns})
    assert "position" in alone.left_out and '"position"' not in feature_text(alone)


def test_an_order_per_user_is_the_time(tmp_path: Path) -> None:
    who = np.repeat(np.arange(100), 12)
    columns = {"user_id": who, "item_id": things(), "position": np.tile(np.arange(12), 100)}
    proposal = propose(tmp_path, {"events": columns})
    assert (proposal.roles.time.column, proposal.split.code) == ("position", "LeaveLastOut()")
