"""Tables that are not a row per event or per item: what `init` leaves out, refuses, and has unfolded first."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.onboarding.test_roles import ROWS, clock, feature_text, integers, one_of, propose, things, users
from twotower_tf.errors import DataError
from twotower_tf.onboarding.proposal import propose_config
from twotower_tf.tables.duckdb_engine import open_engine

DOCS = Path(__file__).parents[2] / "docs"


def test_structures_are_left_out(tmp_path: Path) -> None:
    """Structs, maps, and objects that are text: in the log and in the item table."""
    proposal = propose(
        tmp_path,
        {
            "events": {
                "user_id": users(),
                "item_id": things(),
                "time": clock,
                "device": lambda rng: [{"category": "a", "os": "b"} for _ in range(ROWS)],
                "place": one_of('{"country": "DE"}', '{"country": "FR"}'),
                "kind": one_of("a", "b", "c"),
            },
            "items": {
                "item_id": [f"i{n}" for n in range(60)],
                "details": [f'{{"brand": "b{n % 5}"}}' if n % 2 else "{}" for n in range(60)],
                "images": [[{"url": "x", "hash": "a"}], []] * 30,
                "groups": [["a", "b"], ["b"]] * 30,
                "topics": ['["a", "b"]', '["b"]'] * 30,
                "moods": [f"{{m{n % 6},m{n // 6}}}" for n in range(60)],  # PostgreSQL's arrays
            },
        },
    )
    left = {name for name, reason in proposal.left_out.items() if "objects" in reason}
    assert left == {"device", "place", "details", "images"}
    text = feature_text(proposal)
    assert all(f'"{name}"' in text for name in ("kind", "groups", "topics", "moods"))
    bracketed = [line.code.split('"')[1] for line in proposal.lines["item"] if "brackets stay" in line.comment]
    assert bracketed == ["moods"]


@pytest.mark.parametrize("values", [[["i1", "i2"], ["i2"]], [[{"item_id": "i1"}], [{"item_id": "i2"}]]])
def test_lists_of_items_are_refused_with_the_remedy(values: list[Any], tmp_path: Path) -> None:
    columns = {"user_id": users(), "time": clock, "device_type": integers(0, 9), "items": values * (ROWS // 2)}
    with pytest.raises(
        DataError, match=re.escape("column 'items' holds lists; where a row has several items")
    ) as error:
        propose(tmp_path, {"events": columns})
    page, heading = re.findall(r"docs/(\w+\.md)#([\w-]+)", str(error.value))[0]
    headings = re.findall(r"^## (.*)$", (DOCS / page).read_text(), re.MULTILINE)
    assert heading in [each.lower().replace(" ", "-") for each in headings]


MISSHAPEN: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "the user inside an object": (
        {
            "events": {
                "appid": integers(1, 60),
                "author": [{"steamid": "7"}, {"steamid": "8"}] * (ROWS // 2),
                "t": clock,
            }
        },
        "--events: column 'author' holds objects: write the user's id in it as a column first "
        "(docs/reading.md#one-row-per-event)",
    ),
    "titles alone": (
        {"events": {"artistName": things("a"), "trackName": things("t"), "endTime": clock}},
        "--events: no column can be the user's id (its values must repeat); columns: artistName, trackName, endTime; ",
    ),
    "a column per item": (
        {"events": {"user_id": [f"u{n}" for n in range(ROWS)], **{f"m{n}": integers(1, 6) for n in range(40)}}},
        "--events: no column can be the user's id (its values must repeat); columns: user_id, "
        f"{', '.join(f'm{n}' for n in range(18))}, ..., m39; a table with a row per user and a column per item must be "
        "unpivoted first; name it with --user_id; ",
    ),
    "orders as users": (
        {
            "events": {"order_id": [n // 4 for n in range(ROWS)], "product_id": integers(1000, 1060)},
            "users": {"order_id": range(ROWS // 4), "user_id": [n // 5 for n in range(ROWS // 4)]},
        },
        "--users: users.parquet: a row per 'order_id', with the user in 'user_id'; join it with the events first "
        "(docs/reading.md#orders-and-their-lines), or take each for a user with --user_id=order_id",
    ),
    "a row per property": (
        {
            "events": {"visitorid": users(), "itemid": things(), "timestamp": clock},
            "items": {"itemid": [f"i{n // 2}" for n in range(120)], "property": ["a", "b"] * 60, "value": ["1"] * 120},
        },
        "--items: items.parquet: a row per 'itemid' and property; make one row per 'itemid' of them first "
        "(docs/reading.md#one-row-per-item)",
    ),
}


@pytest.mark.parametrize("case", MISSHAPEN)
def test_tables_of_another_shape_are_refused_with_the_remedy(case: str, tmp_path: Path) -> None:
    tables, message = MISSHAPEN[case]
    with pytest.raises(DataError) as error:
        propose(tmp_path, tables)
    assert str(error.value).startswith(message)
    headings = re.findall(r"^##+ (.*)$", (DOCS / "reading.md").read_text(), re.MULTILINE)
    known = [each.lower().replace(" ", "-") for each in headings]
    assert all(anchor in known for anchor in re.findall(r"docs/reading.md#([\w-]+)", str(error.value)))
    if case == "orders as users":
        assert propose(tmp_path, tables, user_id="order_id").roles.user.column == "order_id"


def write_sources(folder: Path) -> None:
    """The logs that docs/reading.md unfolds: 300 rows of which the item at a known place was clicked."""
    rng = np.random.default_rng(4)
    shown = [rng.permutation(40)[:5] + 100 for _ in range(300)]
    chosen = rng.integers(0, 5, 300)
    who = rng.integers(0, 30, 300)
    clicks = [[each[place]] for each, place in zip(shown, chosen, strict=True)]
    log = {"user_id": who, "article_id": pa.nulls(300, pa.int32()), "article_ids_inview": shown}
    pq.write_table(pa.table(log | {"article_ids_clicked": clicks}), folder / "behaviors.parquet")
    lines = [
        f"{n}\tU{who[n]}\t11/{1 + n // 10 % 28}/2019 9:05:58 AM\tN1\t"
        + " ".join(f"N{item}-{int(place == chosen[n])}" for place, item in enumerate(shown[n]))
        for n in range(300)
    ]
    (folder / "behaviors.tsv").write_text("\n".join(lines) + "\n")
    items = [[{"item_id": f"i{item}", "item_name": f"n{item}", "price": 1.5} for item in each[:2]] for each in shown]
    analytics = {
        "event_timestamp": 1_760_000_000_000_000 + np.arange(300) * 1_000_000,
        "event_name": ["view_item"] * 300,
        "user_pseudo_id": [f"u{n}" for n in who],
        "device": [{"category": "mobile"}] * 300,
        "geo": [{"country": "DE"}] * 300,
        "items": items,
    }
    pq.write_table(pa.table(analytics), folder / "events_20251009.parquet")
    reviews = [json.dumps({"author": {"steamid": f"u{n % 30}"}, "appid": f"a{n % 7}", "time": n}) for n in range(300)]
    (folder / "reviews.jsonl").write_text("\n".join(reviews))
    rows = [f"{n // 3},{n % 7}" for n in range(300)]
    (folder / "order_products.csv").write_text("\n".join(["order_id,product_id", *rows]))
    rows = [f"{n},{n % 30},{n // 30}" for n in range(100)]
    (folder / "orders.csv").write_text("\n".join(["order_id,user_id,order_number", *rows]))
    rows = [f"{n},i1,{name},{n}" for n, name in enumerate(["categoryid", "available", "790", "categoryid"])]
    wide = [f"u{n},{n % 5 + 1},,3" for n in range(100)]
    (folder / "ratings.csv").write_text("\n".join(["user_id,m1,m2,m3", *wide]))
    (folder / "item_properties.csv").write_text("\n".join(["timestamp,itemid,property,value", *rows]))


def test_the_documented_sql_unfolds_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement makes a log that `init` proposes a configuration for, with one row per item."""
    write_sources(tmp_path)
    monkeypatch.chdir(tmp_path)
    statements = re.findall(r"```sql\n(.*?)```", (DOCS / "reading.md").read_text(), re.DOTALL)
    found = []
    for statement in statements:
        duckdb.sql(statement)
        if "TO 'items.parquet'" in statement:
            assert pq.read_table("items.parquet").to_pylist() == [{"itemid": "i1", "categoryid": 3, "available": 1}]
            continue
        table = pq.read_table("events.parquet")
        with open_engine(tmp_path / "work", "1GB", 1, directories=[tmp_path]) as connection:
            roles = propose_config(connection, {"events": str(tmp_path / "events.parquet")}, {}).roles
        clicks = sum(int(each) for each in table["click"].to_pylist()) if "click" in table.column_names else 0
        found.append((table.num_rows, clicks, roles.user.column, roles.item.column))
    assert found == [
        (1500, 300, "user_id", "article_id"),
        (1500, 300, "user_id", "news_id"),
        (600, 0, "user_pseudo_id", "item_id"),
        (300, 0, "user_id", "appid"),
        (200, 0, "user_id", "item_id"),
        (300, 0, "user_id", "product_id"),
    ]
