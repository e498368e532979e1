"""What a table of items changes in a catalogue: rows, order, counts, refusals. No tower is run."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.config import DataConfig, ExperimentConfig, Hash, Numeric, Tags
from twotower_tf.errors import DataError
from twotower_tf.export.catalogue_diff import merge, read_ids, read_items
from twotower_tf.prepare import catalogue

CONFIG = ExperimentConfig(
    name="shop",
    data=DataConfig(item_id="sku", item_name="title"),
    item_features=(Hash("sku", 100), Hash("brand", 10), Tags("tags", 10), Numeric("price")),
    user_features=(Hash("user_id", 100),),
)
FEATURES = {"sku", "brand", "tags", "price"}
OLD = pa.table(
    {
        "item_id": ["a", "b", "c", "d"],
        "item_name": ["A", "B", "C", "D"],
        "sku": ["a", "b", "c", "d"],
        "brand": ["x", None, "x", "y"],
        "tags": ["1|2", "3", None, None],
        "price": [1.0, 2.0, None, 4.0],
        "stock": pa.array([5, 6, 7, 8], pa.int64()),
        "train_count": pa.array([9, 0, 1, 2], pa.int64()),
    }
)


def read(tmp_path, text, name="items.csv"):
    (tmp_path / name).write_text(text)
    return read_items(CONFIG, tmp_path / name, OLD.schema)


def test_upsert_keeps_order_and_what_the_table_does_not_say(tmp_path):
    """c as before, b with another price, a with another title only, two new ones, in no order."""
    listing = read(
        tmp_path,
        "sku,title,brand,tags,price,colour\nz,Z,x,1,3,red\nb,B,,3,2.5,\nc,,x,,,\na,Alpha,x,1|2,1.0,\nm,,y,,7,blue\n",
    )
    assert listing.read == 5 and listing.quarantine == []
    found = merge(OLD, listing.items, [], "upsert", FEATURES)
    assert found.catalogue["item_id"].to_pylist() == ["a", "b", "c", "d", "m", "z"]
    assert found.origin.tolist() == [0, -1, 2, 3, -1, -1]
    assert (found.added, found.changed, found.restated, found.removed, found.unknown) == (2, 1, 2, 0, 0)
    assert found.catalogue["item_name"].to_pylist() == ["Alpha", "B", "c", "D", "m", "Z"]
    assert found.catalogue["price"].to_pylist() == [1.0, 2.5, None, 4.0, 7.0, 3.0]
    assert found.catalogue["brand"].to_pylist() == ["x", None, "x", "y", "y", "x"]
    assert found.catalogue["stock"].to_pylist() == [5, 6, 7, 8, None, None]  # the table has no such column
    assert found.catalogue["train_count"].to_pylist() == [9, 0, 1, 2, 0, 0]
    assert found.catalogue["colour"].to_pylist() == [None, None, None, None, "blue", "red"]
    assert found.any


def test_replace_and_delete(tmp_path):
    listing = read(tmp_path, "sku,brand,tags,price\nd,y,,4\nq,x,,1\nb,,3,2\n")
    found = merge(OLD, listing.items, ["nowhere", "a"], "replace", FEATURES)
    assert found.catalogue["item_id"].to_pylist() == ["d", "b", "q"]  # a's row is free for the last item, c's for q
    assert found.origin.tolist() == [3, 1, -1]
    assert (found.added, found.changed, found.restated, found.removed, found.unknown) == (1, 0, 0, 2, 1)
    only = merge(OLD, None, ["a", "d"], "upsert", FEATURES)
    assert only.catalogue["item_id"].to_pylist() == ["c", "b"] and only.origin.tolist() == [2, 1]
    assert only.catalogue.schema == OLD.schema


def test_the_same_catalogue_again_changes_nothing(tmp_path):
    pq.write_table(OLD.drop_columns(["item_id", "item_name", "train_count"]), tmp_path / "items.parquet")
    listing = read_items(CONFIG, tmp_path / "items.parquet", OLD.schema)
    found = merge(OLD, listing.items, [], "replace", FEATURES)
    assert not found.any and found.origin.tolist() == [0, 1, 2, 3]
    assert found.catalogue.to_pylist() == OLD.to_pylist()


def test_ids_and_texts_are_written_as_the_log_has_them(tmp_path):
    """`3.0` and `True` of a log in CSV, for a table whose columns are typed, and for one of other texts."""
    forms = {"sku": "3.0", "brand": "True", "tags": "3.0"}
    typed = {"sku": [1, 2, 30], "brand": [True, None, False], "tags": [[7, 8], [], [9]], "price": [1, 2, 3]}
    pq.write_table(pa.table({**typed, "stock": [4, 5, 6]}), tmp_path / "items.parquet")
    text = 'sku,brand,tags,price,stock\n30,false,9.0,3,6\n1.0,true,"7|8",1,4\n2,,,2,5\n'
    (tmp_path / "items.csv").write_text(text)
    for name in ("items.parquet", "items.csv"):
        listing = read_items(CONFIG, tmp_path / name, OLD.schema, forms=forms)
        columns = {column: listing.items[column].to_pylist() for column in listing.items.column_names}
        assert columns["item_id"] == columns["sku"] == ["1.0", "2.0", "30.0"], name
        assert columns["brand"] == ["True", None, "False"], name
        assert columns["tags"] == ["7.0|8.0", None, "9.0"], name
        assert columns["price"] == [1.0, 2.0, 3.0] and columns["stock"] == [4, 5, 6], name


def test_rows_that_begin_later_do_not_hold_yet(tmp_path):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, items="items.csv", items_time="from"))
    path = tmp_path / "items.csv"
    path.write_text("sku,from,brand,tags,price\na,100,x,,1\na,200,x,,2\na,201,x,,3\nz,201,y,,4\n")
    prices = {}
    for now in (199, 200, 201, None):
        listing = read_items(config, path, OLD.schema, now=now)
        prices[now] = dict(zip(listing.items["item_id"].to_pylist(), listing.items["price"].to_pylist(), strict=True))
    assert prices == {199: {"a": 1}, 200: {"a": 2}, 201: {"a": 3, "z": 4}, None: {"a": 3, "z": 4}}
    with pytest.raises(DataError, match="none of 4 rows is valid yet; by column 'from' each begins later"):
        read_items(config, path, OLD.schema, now=99)


def test_random_changes_against_dictionaries():
    """A dict of rows is what a catalogue is, when time does not matter."""
    generator = np.random.default_rng(3)
    for trial in range(20):
        rows = {f"i{key}": (str(generator.integers(3)), float(generator.integers(4))) for key in range(60)}
        old = pa.table(
            {
                "item_id": list(rows),
                "brand": [brand for brand, _ in rows.values()],
                "price": [price for _, price in rows.values()],
            }
        )
        chosen = [f"i{key}" for key in generator.permutation(90)[:40]]
        listed = {key: (str(generator.integers(3)), float(generator.integers(4))) for key in chosen}
        gone = [f"i{key}" for key in range(100) if f"i{key}" not in listed and generator.random() < 0.2]
        listing = pa.table(
            {
                "item_id": sorted(listed),
                "brand": [listed[key][0] for key in sorted(listed)],
                "price": [listed[key][1] for key in sorted(listed)],
            }
        )
        mode = ("upsert", "replace")[trial % 2]
        found = merge(old, listing, gone, mode, {"brand", "price"})
        kept = [key for key in rows if key not in gone and (mode == "upsert" or key in listed)]
        expected = {key: listed.get(key, rows[key]) for key in kept}
        expected |= {key: listed[key] for key in sorted(listed) if key not in rows}
        order = [key if key in kept else None for key in rows]  # rows stay, the last move, new items fill the rest
        order = (order + [None] * len(expected))[: len(expected)]
        for key in [key for key in kept if key not in order] + list(expected)[len(kept) :]:
            order[order.index(None)] = key
        got = found.catalogue.to_pydict()
        assert dict(zip(got["item_id"], zip(got["brand"], got["price"], strict=True), strict=True)) == expected
        assert got["item_id"] == order
        places = list(rows)
        for key, origin in zip(got["item_id"], found.origin, strict=True):
            same = key in rows and rows[key] == expected[key]
            assert origin == (places.index(key) if same else -1)


def test_malformed_rows_are_set_aside_and_types_are_kept(tmp_path):
    listing = read(
        tmp_path,
        'sku,brand,tags,price,stock\na,x,1|2,1.0,many\n,x,,1,2\nb,"x\nbroken,line\nb,,3,2.0,9\na,x,1|2,1.5,4\n',
    )
    assert [entry["line"] for entry in listing.quarantine] == [3, 4, 5]
    assert listing.quarantine[0]["reason"] == "no item id: column 'sku' is empty"
    assert listing.items.to_pydict()["price"] == [1.5, 2.0]  # of a the later row
    assert listing.items.schema.field("stock").type == pa.int64()
    odd = read(tmp_path, "sku,brand,tags,price,stock\na,x,,1,many\nb,x,,1,3\n")
    assert odd.unfit == {"stock": 1} and odd.items["stock"].to_pylist() == [None, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sku,brand,tags\na,x,1\n",
            "--items: unknown column in {0}/items.csv 'price'; known: brand, sku, tags; a table of items has the",
        ),
        ("id,brand,tags,price\na,x,1,1\n", "--items: unknown column in {0}/items.csv 'sku'; known: brand, id, price"),
        (
            "sku,brand,tags,price\n,x,1,1\n",
            "--items: {0}/items.csv: none of 1 rows can be used; the first, {0}/items.csv:2: no item id: column 'sku'",
        ),
        (
            "sku,brand,tags,price\na,x,1,cheap\n",
            "item_features: column 'price': 1 of 1 values are not finite numbers; e.g. 'cheap' at {0}/items.csv:2",
        ),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(DataError) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(message.format(tmp_path))


def test_no_such_table_and_ids_in_a_file(tmp_path):
    with pytest.raises(DataError, match="--items: no such file: .*nothing.csv"):
        read_items(CONFIG, tmp_path / "nothing.csv", OLD.schema)
    with pytest.raises(DataError, match="--delete: .*nothing.txt: cannot be read: .*No such file"):
        read_ids(tmp_path / "nothing.txt")
    (tmp_path / "ids").write_bytes(b"\xef\xbb\xbfa\r\n\nb c\nd")
    assert read_ids(tmp_path / "ids") == ["a", "b c", "d"]


def test_contradictions_are_refused(tmp_path):
    listing = read(tmp_path, "sku,brand,tags,price\na,x,,1\n").items
    with pytest.raises(DataError, match="item 'a': both in --items and in --delete; remove it from one of them"):
        merge(OLD, listing, ["d", "a"], "upsert", FEATURES)
    with pytest.raises(DataError, match="--delete: invalid ids .expected at least one item to stay"):
        merge(OLD, None, ["a", "b", "c", "d"], "upsert", FEATURES)


def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "items.csv").write_text("sku,title,brand,tags,price\na,A,x,1,1.0\n")
    latest = catalogue.create_latest_rows

    def meanwhile(*arguments):
        (tmp_path / "items.csv").write_text("sku,title,brand,tags,price\nb,B,x,1,1.0\nc,C,x,1,1.0\n")
        return latest(*arguments)

    monkeypatch.setattr(catalogue, "create_latest_rows", meanwhile)
    with pytest.raises(
        DataError, match=r"items\.csv: changed while it was read; run again when no process writes to it$"
    ):
        read_items(CONFIG, tmp_path / "items.csv", OLD.schema)
