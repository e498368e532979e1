"""What `init` makes of exports of shops, players, search pages and analytics; what is right is planted."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.onboarding.test_roles import (
    ROWS,
    Column,
    clock,
    feature_text,
    fields,
    integers,
    numbers,
    one_of,
    propose,
    things,
    users,
)  # fmt: skip


def stamps(form: str, days: int = 300, start: str = "2025-03-01 00:10") -> Column:
    """Ordered times over some days, as text."""

    def make(rng: np.random.Generator) -> list[str]:
        first = datetime.fromisoformat(start)
        minutes = np.sort(rng.integers(0, days * 1440, ROWS))
        return [(first + timedelta(minutes=int(each))).strftime(form) for each in minutes]

    return make


def floats_with_gaps(count: int) -> Column:
    """Ids as pandas writes a column of integers with missing values."""

    def make(rng: np.random.Generator) -> list[str | None]:
        return [f"{12346 + n}.0" if n % 5 else None for n in rng.integers(0, count, ROWS)]

    return make


def flags(rng: np.random.Generator) -> list[str]:
    return rng.choice(["Y", "N"], ROWS, p=[0.7, 0.3]).tolist()


TAKEN, OTHERS = np.random.default_rng(0).integers(0, 60, (2, ROWS))

# Columns; expected user, item, time and its format; fields that are set; columns that are not features; some that are.
Log = tuple[dict[str, Any], tuple[str, str, str, str], list[tuple[str, str]], list[str], list[str]]
LOGS: dict[str, Log] = {
    "a shop's orders, the day first, ids as floats, returns": (
        {
            "InvoiceNo": lambda rng: [f"n{n // 4}" for n in range(ROWS)],
            "StockCode": things("s"),
            "Quantity": one_of(1, 2, 6, -1, p=[0.5, 0.3, 0.17, 0.03]),
            "InvoiceDate": stamps("%d.%m.%Y %H:%M"),
            "CustomerID": floats_with_gaps(90),
            "Country": one_of("DE", "FR", "IE"),
        },
        ("CustomerID", "StockCode", "InvoiceDate", "%d.%m.%Y %H:%M"),
        [("positive", '"Quantity > 0"')],
        ["Quantity", "InvoiceNo", "CustomerID"],
        ["Country"],
    ),
    "yes and no": (
        {
            "user": users(),
            "movie": things(),
            "event_dt": stamps("%m/%d/%Y %I:%M %p"),
            "liked": flags,
            "is_mobile": one_of("yes", "no"),
        },
        ("user", "movie", "event_dt", "%m/%d/%Y %I:%M %p"),
        [("positive", "\"liked = 'Y'\"")],
        ["liked"],
        ["is_mobile"],
    ),
    "times of BigQuery": (
        {
            "event_time": stamps("%Y-%m-%d %H:%M:%S UTC"),
            "product_id": things(),
            "user_id": users(),
            "price": numbers(1, 9),
            "category_id": lambda rng: 2_103_807_459_595_387_724 + rng.integers(0, 9, ROWS),
            "user_session": lambda rng: [f"s{n // 3}" for n in range(ROWS)],
        },
        ("user_id", "product_id", "event_time", "%Y-%m-%d %H:%M:%S UTC"),
        [],
        ["price", "user_session"],  # a price that the item does not decide says which item it was
        ["category_id"],  # which could be read as nanoseconds, of the year 2036
    ),
    "reviews: a check of the buyer is not the outcome": (
        {
            "rating": one_of(1.0, 3.0, 5.0),
            "asin": things("B"),
            "user_id": users("A"),
            "timestamp": lambda rng: 1_500_000_000_000 + np.arange(ROWS) * 86_400_123,
            "helpful_vote": integers(0, 4),
            "verified_purchase": one_of(True, False, p=[0.7, 0.3]),
        },
        ("user_id", "asin", "timestamp", ""),
        [],
        ["rating", "helpful_vote", "verified_purchase"],
        [],
    ),
    "parts of the date next to the time": (
        {
            "member": users(),
            "video": things(),
            "day": integers(1, 31),
            "month": integers(1, 12),
            "secs": integers(0, 900),
            "watched_at": stamps("%Y-%m-%dT%H:%M:%S+02:00"),
        },
        ("member", "video", "watched_at", ""),
        [],
        ["day", "month", "secs"],
        [],
    ),
    "days of the month alone order nothing": (
        {"member": users(), "video": things(), "day": integers(1, 31)},
        ("member", "video", "", ""),
        [],
        [],
        [],
    ),
    "a search page without users": (
        {
            "srch_id": lambda rng: [n // 10 for n in range(ROWS)],
            "date_time": lambda rng: [f"2013-04-{1 + n // 60:02d} 08:{n // 10 % 60:02d}:00" for n in range(ROWS)],
            "prop_id": integers(1000, 1060),
            "position": lambda rng: np.arange(ROWS) % 10 + 1,
            "booking_bool": one_of(0, 1, p=[0.95, 0.05]),
        },
        ("srch_id", "prop_id", "date_time", ""),
        [("label", '"booking_bool"')],
        ["position", "srch_id", "booking_bool"],
        [],
    ),
    "ratings around 0": (
        {"user_id": users(), "joke_id": integers(0, 60), "timestamp": clock, "rating": numbers(-10, 10)},
        ("user_id", "joke_id", "timestamp", ""),
        [],
        ["rating"],
        [],
    ),
    "hashed ids; a session has one date; most rows have no account": (
        {
            "user_id": lambda rng: [f"a{n}" if n % 4 == 0 else None for n in range(ROWS)],
            "session_id_hash": lambda rng: [f"s{n // 6}" for n in range(ROWS)],
            "product_sku_hash": things(),
            "eventdate": lambda rng: [f"2016-05-{1 + n // 60:02d}" for n in range(ROWS)],
            "timeframe": lambda rng: rng.permutation(ROWS) * 3 // 4 * 1000,
            "transactionid": lambda rng: [f"t{n}" if n % 40 == 0 else None for n in range(ROWS)],
        },
        ("session_id_hash", "product_sku_hash", "eventdate", ""),
        [],
        ["session_id_hash", "timeframe", "transactionid"],
        [],
    ),
    "a shop's export: the product is the line's, times have an offset": (
        {
            "Name": lambda rng: [f"#{n // 3}" for n in range(ROWS)],
            "Email": lambda rng: [f"p{n // 3 % 90}@x.org" for n in range(ROWS)],
            "Created at": lambda rng: [f"2024-03-{1 + n // 60:02d} 10:{n // 3 % 20:02d}:12 +0100" for n in range(ROWS)],
            "Lineitem name": things("Tea "),
            "Lineitem sku": things("SKU-"),
        },
        ("Email", "Lineitem sku", "Created at", "%Y-%m-%d %H:%M:%S %z"),
        [],
        ["Name"],
        [],
    ),
    "a vote is an action": (
        {"LISTENER": users(), "SONG": things(), "VOTE": one_of("thumbs_up", "thumbs_down"), "AT": clock},
        ("LISTENER", "SONG", "AT", ""),
        [("positive", "\"VOTE NOT IN ('thumbs_down')\"")],
        ["VOTE"],
        [],
    ),
    "lines of orders; what was bought before is not the outcome": (
        {
            "order_id": lambda rng: [n // 5 for n in range(ROWS)],
            "product_id": integers(1000, 1060),
            "reordered": one_of(0, 1),
        },
        ("order_id", "product_id", "", ""),
        [],
        ["reordered", "order_id"],
        [],
    ),
    "reviews: votes of readers come later, the reviewer's name is another id": (
        {
            "reviewerID": lambda rng: [f"A{n // 12}" for n in range(ROWS)],
            "reviewerName": lambda rng: [f"name {n // 12}" for n in range(ROWS)],
            "asin": things("B"),
            "cool": one_of(0, 1),
            "useful": integers(0, 4),
            "unixReviewTime": clock,
        },
        ("reviewerID", "asin", "unixReviewTime", ""),
        [],
        ["reviewerName", "cool", "useful"],
        [],
    ),
    "lists that were shown hold the answer, histories do not": (
        {
            "user_id": users(),
            "item_id": [f"i{n}" for n in TAKEN],
            "impressions": [f"i{other}|i{n}|i{(n + other) % 60}" for n, other in zip(TAKEN, OTHERS, strict=True)],
            "seen": [f"i{n}|i{(n + row // 60) % 60}" for row, n in enumerate(OTHERS)],
            "time": clock,
        },
        ("user_id", "item_id", "time", ""),
        [],
        ["impressions"],
        ["seen"],
    ),
    "Google's ids of browsers look like numbers": (
        {
            "event_timestamp": lambda rng: 1_760_000_000_000_000 + np.arange(ROWS) * 9_000_000,
            "user_pseudo_id": lambda rng: [f"{10**6 + n}.{1_600_000_000 + n}" for n in rng.integers(0, 90, ROWS)],
            "item_id": things(),
        },
        ("user_pseudo_id", "item_id", "event_timestamp", ""),
        [],
        [],
        [],
    ),
}


@pytest.mark.parametrize("case", LOGS)
def test_roles_of_exports(case: str, tmp_path: Path) -> None:
    columns, (user, item, time, form), chosen, unused, used = LOGS[case]
    proposal = propose(tmp_path, {"events": columns})
    roles = proposal.roles
    assert (roles.user.column, roles.item.column, roles.time.column) == (user, item, time)
    written = proposal.more.get("timestamp_format")
    assert (written.code if written else '""') == f'"{form}"'
    assert fields(proposal) == chosen
    text = feature_text(proposal)
    assert not [name for name in unused if f'"{name}"' in text]
    assert all(f'"{name}"' in text for name in used)


def test_uses_are_offered(tmp_path: Path) -> None:
    """Seconds watched are a weight, a check of the buyer may be a label, ratings around 0 are good above 0."""
    for case, use in (
        ("parts of the date next to the time", ("weight", '"ln(1 + secs)"')),
        ("reviews: a check of the buyer is not the outcome", ("label", '"verified_purchase"')),
        ("ratings around 0", ("positive", '"rating > 0"')),
    ):
        assert use in fields(propose(tmp_path, {"events": LOGS[case][0]}), offered=True)


def test_the_shorter_period_decides_between_day_and_month(tmp_path: Path) -> None:
    """Ten days of March: read as days of ten months they would be spread over the year."""
    for form in ("%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M"):
        columns = {"user_id": users(), "item_id": things(), "date": stamps(form, days=10, start="2025-03-01 00:10")}
        proposal = propose(tmp_path, {"events": columns})
        assert proposal.more["timestamp_format"].code == f'"{form}"'
        assert "2025-03-01 00:1" in proposal.roles.time.why and "check which is right" in proposal.roles.time.why


def test_dates_of_items_are_not_the_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    what = rng.integers(0, 60, ROWS)
    columns = {
        "user_id": users(),
        "item_id": what + 1000,
        "released": [f"2020-01-{1 + n % 28:02d}" for n in what],
        "seen": stamps("%Y-%m-%d %H:%M:%S"),
    }
    assert propose(tmp_path, {"events": columns}).roles.time.column == "seen"


def test_another_id_of_the_item_is_not_a_feature(tmp_path: Path) -> None:
    """The variant decides the product: a user tower that reads it has read the answer."""
    rng = np.random.default_rng(1)
    variant = rng.integers(0, 120, ROWS)
    columns = {
        "user_id": users(),
        "item_id": [f"p{n // 2}" for n in variant],
        "variant": [f"v{n}" for n in variant],
        "device_type": one_of("a", "b"),
        "time": clock,
    }
    proposal = propose(tmp_path, {"events": columns})
    assert "another id of the item" in proposal.left_out["variant"]
    assert '"variant"' not in feature_text(proposal) and '"device_type"' in feature_text(proposal)


def test_the_column_of_the_tables_own_name_is_the_item(tmp_path: Path) -> None:
    """Both ids are in the item table; its key is called like one of them."""
    rng = np.random.default_rng(1)
    variant = rng.integers(0, 60, ROWS)
    proposal = propose(
        tmp_path,
        {
            "events": {
                "user_id": users(),
                "asin": [f"B{n}" for n in variant],
                "parent_asin": [f"B{n // 2 * 2}" for n in variant],
                "time": clock,
            },
            "items": {"parent_asin": [f"B{n}" for n in range(60)], "store": [f"s{n % 9}" for n in range(60)]},
        },
    )
    assert proposal.roles.item.column == "parent_asin" and '"asin"' not in feature_text(proposal)


def test_ids_with_leading_zeros_join_tables_of_other_names(tmp_path: Path) -> None:
    """They are not whole numbers that meet by chance; the names say nothing."""
    rng = np.random.default_rng(2)
    who = rng.integers(0, 90, ROWS)
    proposal = propose(
        tmp_path,
        {
            "events": {"konto": [f"0{1000 + n}" for n in who], "content": things(), "time": clock},
            "users": {
                "row": np.arange(90),
                "KontoNr": [f"0{1000 + n}" for n in range(90)],
                "plz": ["01067", "04109"] * 45,
            },
        },
    )
    assert (proposal.roles.user.column, proposal.roles.user_key) == ("konto", "KontoNr")
    assert 'Hash("plz"' in feature_text(proposal)


def test_a_rating_of_the_event_and_one_of_the_item(tmp_path: Path) -> None:
    """Both tables have stars, as Yelp's: those of the review are its outcome."""
    log = {"user_id": users(), "business_id": things(), "time": clock, "stars": one_of(1.0, 3.0, 4.0, 5.0)}
    items = {"business_id": [f"i{n}" for n in range(60)], "stars": [2.5, 3.5, 4.5] * 20}
    proposal = propose(tmp_path, {"events": log, "items": items})
    assert ("positive", '"stars >= 4"') in fields(proposal, offered=True) and '"stars"' not in feature_text(proposal)


def test_the_name_of_an_order_is_not_the_items(tmp_path: Path) -> None:
    columns = {
        "Name": lambda rng: [f"#{n // 3}" for n in range(ROWS)],
        "Email": lambda rng: [f"p{n // 3 % 90}@x.org" for n in range(ROWS)],
        "Lineitem name": [f"Tea {n}" for n in TAKEN],
        "Lineitem sku": [f"SKU-{n}" for n in TAKEN],
    }
    assert propose(tmp_path, {"events": columns}).roles.title.column == "Lineitem name"


def test_names_of_items_in_any_language(tmp_path: Path) -> None:
    """Short texts of several words, one per item, are names; addresses and long texts are not, titles are."""
    number = range(60)
    items = {
        "item_id": [f"i{n}" for n in number],
        "link": [f"http://x.org/{n}" for n in number],
        "description": [f"{n} " + "many words " * 20 for n in number],
        "bezeichnung": [f"Der Film {n}" for n in number],
    }
    log = {"user_id": users(), "item_id": things(), "time": clock}
    assert propose(tmp_path, {"events": log, "items": items}).roles.title.column == "bezeichnung"
    items["Title"] = items["description"]
    assert propose(tmp_path, {"events": log, "items": items}).roles.title.column == "Title"


@pytest.mark.parametrize("sort", [True, False])
def test_rows_sorted_by_plays_are_not_in_order(sort: bool, tmp_path: Path) -> None:
    """As Last.fm's are; a number that is the same in all rows of a user sorts nothing."""
    rng = np.random.default_rng(3)
    plays = rng.integers(1, 5000, (60, 20))
    plays = -np.sort(-plays, axis=1) if sort else plays
    columns = {
        "user": np.repeat(np.arange(60), 20),
        "artist": np.concatenate([rng.permutation(40)[:20] for _ in range(60)]),
        "plays": plays.ravel(),
        "age": np.repeat(rng.integers(18, 80, 60), 20),
    }
    split = propose(tmp_path, {"events": columns}).split.code
    assert split.startswith("RandomSplit(") if sort else split == "LeaveLastOut()"
