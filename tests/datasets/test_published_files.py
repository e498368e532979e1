"""The publishers' real files, whose counts they state."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.datasets.publisher_files import rows
from twotower_tf.datasets import convert_dataset

Published = Callable[[str], Path]


def test_movielens_100k_as_published(tmp_path: Path, published: Published) -> None:
    result = convert_dataset("movielens-100k", tmp_path / "out", source=published("movielens-100k"))
    assert (result["events"], result["users"], result["items"]) == (100_000, 943, 1_682)
    events = pq.read_table(tmp_path / "out/events.parquet")
    assert events.column_names == ["user_id", "movie_id", "rating", "timestamp", "position"]
    # The first line of u.data is 196 242 3 881250949.
    first = events.slice(0, 1).to_pylist()[0]
    assert (first["user_id"], first["movie_id"], first["rating"], first["timestamp"]) == ("196", "242", 3, 881250949)
    frame = events.to_pandas().sort_values(["user_id", "position"])
    assert (frame.groupby("user_id").timestamp.diff().dropna() >= 0).all()
    assert (frame.groupby("user_id").position.agg(lambda places: list(places) == list(range(len(places))))).all()
    items = {item["movie_id"]: item for item in rows(tmp_path / "out", "items")}
    assert items["1"] == {
        "movie_id": "1",
        "title": "Toy Story (1995)",
        "year": 1995,
        "genres": "Animation|Children's|Comedy",
    }
    assert items["267"] == {"movie_id": "267", "title": "unknown", "year": None, "genres": "unknown"}
    assert items["1412"]["year"] == 1995  # "... (1995) (V)"
    assert "\u00e9rables, Les" in items["543"]["title"]
    assert rows(tmp_path / "out", "users")[0] == {
        "user_id": "1",
        "age": 24,
        "gender": "M",
        "occupation": "technician",
        "zip_code": "85711",
    }


def test_movielens_1m_as_rebuilt(tmp_path: Path, published: Published) -> None:
    result = convert_dataset("movielens-1m", tmp_path / "out", source=published("movielens-1m"))
    assert (result["events"], result["users"], result["items"]) == (1_000_209, 6_040, 3_883)
    events = pq.read_table(tmp_path / "out/events.parquet").to_pandas()
    assert list(events) == ["user_id", "movie_id", "rating", "position"]
    assert tuple(events.iloc[0]) == ("1", "1193", 5, 9)
    assert (events.position == -1).sum() == 598
    assert events.user_id.nunique() == 6_040 and events.movie_id.nunique() == 3_706
    items = rows(tmp_path / "out", "items")
    assert items[0]["title"] == "Toy Story (1995)" and all(1919 <= item["year"] <= 2000 for item in items)
    assert any("\u00e9" in item["title"] for item in items)
    assert rows(tmp_path / "out", "users")[0] == {
        "user_id": "1",
        "gender": "F",
        "age": 1,
        "occupation": "10",
        "zip_code": "48067",
    }


def test_movielens_1m_m1_with_the_columns_of_movielens_1m(tmp_path: Path, published: Published) -> None:
    result = convert_dataset("movielens-1m-m1", tmp_path / "out", source=published("movielens-1m-m1"))
    assert result["splits"] == {"train": 796_244, "valid": 99_455, "test": 99_455}
    assert (result["events"], result["users"], result["items"]) == (995_154, 6_022, 3_043)
    events = pq.read_table(tmp_path / "out/events.parquet").to_pandas()
    assert not events.duplicated(["user_id", "item_id"]).any()
    assert tuple(events.iloc[0]) == ("0", "148", "train")
    items = rows(tmp_path / "out", "items")
    assert items[2] == {
        "item_id": "2",
        "movie_id": "100",
        "title": "City Hall (1996)",
        "year": 1996,
        "genres": "Drama|Thriller",
    }
    assert all(item["title"] for item in items) and set(events.item_id) == {item["item_id"] for item in items}
    users = rows(tmp_path / "out", "users")
    assert users[0]["ml1m_user_id"] == "1" and users[0]["zip_code"] == "48067"
    assert all(user["gender"] in "FM" for user in users) and set(events.user_id) == {u["user_id"] for u in users}


def test_gowalla_with_its_training_list_in_two_parts(tmp_path: Path, published: Published) -> None:
    source = published("gowalla")
    result = convert_dataset("gowalla", tmp_path / "out", source=source)
    assert result["splits"]["test"] == 217_242
    assert result["splits"]["train"] + result["splits"]["valid"] == 810_128
    events = pq.read_table(tmp_path / "out/events.parquet").to_pandas()
    assert events.user_id.nunique() == 29_858 and events.item_id.nunique() == 40_981
    # Alone, train.txt is the training list.
    (tmp_path / "whole").mkdir()
    for name in ("train.txt", "test.txt"):
        (tmp_path / "whole" / name).symlink_to((source / name).resolve())
    result = convert_dataset("gowalla", tmp_path / "out", source=tmp_path / "whole")
    assert result["splits"] == {"train": 810_128, "test": 217_242}


def test_avazu_sample(tmp_path: Path, published: Published) -> None:
    source = published("avazu-sample")
    assert convert_dataset("avazu", tmp_path / "one", source=source / "avazu_random20k.csv")["events"] == 20_000
    table = pq.read_table(tmp_path / "one/events.parquet")
    header = (source / "avazu_random20k.csv").read_text().splitlines()[0]
    assert ",".join(table.column_names) == header
    assert {str(field.type) for field in table.schema if field.name != "click"} == {"string"}
    assert table["click"].to_pandas().mean() == pytest.approx(0.168, abs=0.005)
    assert table["hour"][0].as_py() == "14102923"  # YYMMDDHH stays as published
    assert convert_dataset("avazu", tmp_path / "both", source=source)["events"] == 29_999
