"""Published data sets: the real files, whose counts the publishers state, and small files written by hand."""

import gzip
import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from twotower_tf.datasets import NAMES, convert_dataset
from twotower_tf.datasets.download import Archive
from twotower_tf.datasets.publications import PUBLICATIONS, Publication
from twotower_tf.errors import ConfigError, DataError

Published = Callable[[str], Path]


def rows(path: Path, table: str = "events") -> list[dict[str, Any]]:
    return pq.read_table(path / f"{table}.parquet").to_pylist()


def files(directory: Path, content: dict[str, str | bytes]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (directory / name).write_bytes(text if isinstance(text, bytes) else text.encode("latin-1"))
    return directory


# --- the real files -----------------------------------------------------------------------------------------------


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


# --- files by hand ------------------------------------------------------------------------------------------------

MOVIES = "1::Toy Story (1995)::Animation|Comedy\n2::Am\u00e9lie (1998)::Drama\n"
USERS = "7::F::25::4::02139\n8::M::1::10::48067-1234\n"


def test_ratings_dat_gives_times_and_places_in_time_order(tmp_path: Path) -> None:
    ratings = "7::2::3::978300760\n8::1::5::978300000\n7::1::4::978300100\n7::3::5::978300100\n"
    source = files(tmp_path / "in/ml-1m", {"ratings.dat": ratings, "movies.dat": MOVIES, "users.dat": USERS}).parent
    assert convert_dataset("movielens-1m", tmp_path / "out", source=source) == {
        "name": "movielens-1m",
        "output": str(tmp_path / "out"),
        "events": 4,
        "items": 2,
        "users": 2,
    }
    names = ["user_id", "movie_id", "rating", "timestamp", "position"]
    assert [tuple(row[name] for name in names) for row in rows(tmp_path / "out")] == [
        ("7", "2", 3, 978300760, 2),
        ("8", "1", 5, 978300000, 0),
        ("7", "1", 4, 978300100, 0),
        ("7", "3", 5, 978300100, 1),  # at the same time as the one before: file order
    ]
    assert rows(tmp_path / "out", "items")[1] == {
        "movie_id": "2",
        "title": "Am\u00e9lie (1998)",
        "year": 1998,
        "genres": "Drama",
    }
    assert rows(tmp_path / "out", "users")[1]["zip_code"] == "48067-1234"


def test_lists_of_any_origin(tmp_path: Path) -> None:
    source = files(tmp_path / "in", {"train.txt": "0 5 6\n1 \n\n2 5\r\n", "test.txt": "0 7\n", "valid.txt": "2 6 7"})
    result = convert_dataset("lightgcn", tmp_path / "out", source=source)
    assert result["splits"] == {"train": 3, "valid": 2, "test": 1} and result["events"] == 6
    assert [tuple(row.values()) for row in rows(tmp_path / "out")] == [
        ("0", "5", "train"),
        ("0", "6", "train"),
        ("2", "5", "train"),
        ("2", "6", "valid"),
        ("2", "7", "valid"),
        ("0", "7", "test"),
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["events.parquet"]


@pytest.mark.parametrize(
    "text",
    [
        "u1 7 9 7\nu2 9\nu1 8\n",
        "\ufeffu1\t7\nu1\t9\r\nu2\t9\nu1\t7\n\nu1\t8",  # pairs, as SASRec has them
        "u1, 7, 9, 7\nu2, 9\nu1, 8\n",
    ],
)
@pytest.mark.parametrize("name", ["lists", "lists-in-order"])
def test_lists_in_the_order_of_events(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "log.txt").write_text(text)
    written = convert_dataset(name, tmp_path / "out", source=tmp_path / "log.txt")
    assert (written["events"], written["users"]) == (5, 2)
    rows = pq.read_table(tmp_path / "out" / "events.parquet").to_pylist()
    found: dict[str, list[tuple[int, str]]] = {}
    for row in rows:
        found.setdefault(row["user_id"], []).append((row["position"], row["item_id"]))
    assert found == {"u1": [(0, "7"), (1, "9"), (2, "7"), (3, "8")], "u2": [(0, "9")]}


def test_lists_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("u1 7\n\nu2\n")
    with pytest.raises(DataError, match=r"log\.txt:3: invalid line 'u2' \(expected 'user item item \.\.\.'\)$"):
        convert_dataset("lists", tmp_path / "out", source=tmp_path / "log.txt")
    with pytest.raises(DataError, match=r"^--source: invalid file '.*' \(expected one file of lines 'user item item"):
        convert_dataset("lists", tmp_path / "out", source=tmp_path)
    with pytest.raises(DataError, match=r"^lists: no public download; it is any text file of lines .* --source=FILE$"):
        convert_dataset("lists", tmp_path / "out")


def test_m1_joins_only_what_is_there(tmp_path: Path) -> None:
    lists = {"train.txt": "0 0 1\n", "test.txt": "1 0\n", "valid_recovered.txt": "1 1\n"}
    source = files(tmp_path / "m1", lists)
    result = convert_dataset("movielens-1m-m1", tmp_path / "out", source=source)
    assert "items" not in result and result["splits"] == {"train": 2, "valid": 1, "test": 1}
    files(source, {"m1_to_ml1m_items.csv": "m1_item,ml1m_movie_id\n0,2\n1,99\n"})
    files(source, {"m1_to_ml1m_users.csv": "m1_user,ml1m_user_id\n0,8\n1,7\n"})
    files(tmp_path / "ml-1m", {"movies.dat": MOVIES, "users.dat": USERS})
    assert convert_dataset("movielens-1m-m1", tmp_path / "out", source=source)["items"] == 2
    assert [item["title"] for item in rows(tmp_path / "out", "items")] == ["Am\u00e9lie (1998)", None]
    assert [(user["user_id"], user["occupation"]) for user in rows(tmp_path / "out", "users")] == [
        ("0", "10"),
        ("1", "4"),
    ]


AVAZU_HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    "device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def avazu_row(identity: str, click: str) -> str:
    return f"{identity},{click},14102100,1005,0,1fbe01fe,,28905ebd,e,f,g,h,i,j,1,2,15706,320,50,1722,0,35,-1,79"


def test_avazu_compressed_as_the_publisher_has_it(tmp_path: Path) -> None:
    text = "\n".join([AVAZU_HEADER, avazu_row("10000169349117863715", "0"), avazu_row("0003", "1")]) + "\n"
    source = files(tmp_path / "in", {"train.gz": gzip.compress(text.encode()), "other.csv": "a,b\n1,2\n"})
    assert convert_dataset("avazu", tmp_path / "out", source=source)["events"] == 2
    first, second = rows(tmp_path / "out")
    assert (first["id"], first["click"], first["C20"]) == ("10000169349117863715", 0, "-1")  # beyond int64: text
    assert (second["id"], second["click"], second["site_domain"]) == ("0003", 1, None)


def test_avazu_streams_batches_and_counts_lines_across_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower_tf.datasets.avazu_log._BLOCK_BYTES", 4096)
    good = [avazu_row(str(number), "01"[number % 2]) for number in range(500)]
    source = files(tmp_path / "in", {"train.csv": "\n".join([AVAZU_HEADER, *good]) + "\n"})
    reports: list[int] = []
    assert convert_dataset(
        "avazu", tmp_path / "out", source=source, progress=lambda _, done, __: reports.append(done)
    ) == {
        "name": "avazu",
        "output": str(tmp_path / "out"),
        "events": 500,
    }
    assert len(reports) > 5 and [row["id"] for row in rows(tmp_path / "out")] == [str(number) for number in range(500)]
    for bad, message in (
        (avazu_row("9", "2"), "train.csv:402: click: invalid value '2' (expected 0 or 1)"),
        (avazu_row("9", ""), "train.csv:402: click: invalid value '' (expected 0 or 1)"),
        ("9,1,14102100", "train.csv:402: invalid row '9,1,14102100' (expected 24 fields, got 3)"),
    ):
        files(source, {"train.csv": "\n".join([AVAZU_HEADER, *good[:400], bad, *good[400:]]) + "\n"})
        with pytest.raises(DataError) as caught:
            convert_dataset("avazu", tmp_path / "out", source=source)
        assert str(caught.value).endswith(message)
        assert len(rows(tmp_path / "out")) == 500  # the earlier output stands


TWO_ROWS = avazu_row("1", "0") + "\n" + avazu_row("2", "1") + "\n"

# --- bad input ----------------------------------------------------------------------------------------------------

ML_1M = {"movies.dat": MOVIES, "users.dat": USERS, "ratings.csv": "user_id,movie_id,rating,position\n7,1,5,0\n"}
ML_100K = {
    "u.data": "1\t1\t5\t881250949\n",
    "u.item": "1|Toy Story (1995)|01-Jan-1995||url|0|1\n",
    "u.user": "1|24|M|technician|85711\n",
    "u.genre": "unknown|0\nAction|1\n\n",
}
LISTS = {"train.txt": "0 1\n", "test.txt": "0 2\n"}


def test_the_small_files_are_good_as_they_are(tmp_path: Path) -> None:
    """So each case below fails for the one thing that it changes."""
    convert_dataset("movielens-1m", tmp_path / "a", source=files(tmp_path / "1m", ML_1M))
    convert_dataset("movielens-100k", tmp_path / "b", source=files(tmp_path / "100k", ML_100K))
    convert_dataset("lightgcn", tmp_path / "c", source=files(tmp_path / "lists", LISTS))
    assert rows(tmp_path / "b", "items")[0]["genres"] == "Action"


@pytest.mark.parametrize(
    ("name", "content", "changed", "message"),
    [
        ("movielens-1m", ML_1M, {"movies.dat": None}, "--source: no movies.dat in '"),
        ("movielens-1m", ML_1M, {"ratings.csv": None}, "--source: no ratings.dat or ratings.csv in '"),
        (
            "movielens-1m",
            ML_1M,
            {"ratings.csv": "user,movie\n1,2\n"},
            "ratings.csv:1: invalid header 'user,movie' (expected 'user_id,movie_id,rating,position')",
        ),
        (
            "movielens-1m",
            ML_1M,
            {"ratings.csv": "user_id,movie_id,rating,position\n7,1,5,0\n7,2,5\n"},
            "ratings.csv:3: invalid line '7,2,5' (expected 4 fields separated by ',', got 3)",
        ),
        (
            "movielens-1m",
            ML_1M,
            {"ratings.csv": "user_id,movie_id,rating,position\n7,1,good,0\n"},
            "ratings.csv:2: rating: invalid value 'good' (expected a whole number)",
        ),
        (
            "movielens-1m",
            ML_1M,
            {"ratings.csv": "user_id,movie_id,rating,position\n"},
            "ratings.csv: no ratings",
        ),
        (
            "movielens-1m",
            ML_1M,
            {"ratings.dat": "7::1::5::978300760\n7::1::5\n"},
            "ratings.dat:2: invalid line '7::1::5' (expected 4 fields separated by '::', got 3)",
        ),
        ("movielens-1m", ML_1M, {"users.dat": ""}, "users.dat: empty file"),
        (
            "movielens-1m",
            ML_1M,
            {"users.dat": "7::F::old::4::02139\n"},
            "users.dat:1: age: invalid value 'old' (expected a whole number)",
        ),
        (
            "movielens-1m",
            ML_1M,
            {"ratings.csv": b"user_id,movie_id,rating,position\n7,\xff,5,0\n"},
            "ratings.csv:2: not utf-8 text: invalid start byte",
        ),
        (
            "movielens-100k",
            ML_100K,
            {"u.data": "1\t1\t5\tnever\n"},
            "u.data:1: timestamp: invalid value 'never' (expected a whole number)",
        ),
        (
            "movielens-100k",
            ML_100K,
            {"u.item": "1|Toy Story (1995)|01-Jan-1995||url|0|2\n"},
            "u.item:1: invalid genre flags '0|2' (expected 0 or 1 each)",
        ),
        (
            "movielens-100k",
            ML_100K,
            {"u.item": "1|Toy Story (1995)|01-Jan-1995||url|0\n"},
            "u.item:1: invalid line '1|Toy Story (1995)|01-Jan-1995||url|0' (expected 7 fields separated by '|', got",
        ),
        (
            "movielens-100k",
            ML_100K,
            {"u.genre": "unknown|0\nAction|2\n"},
            "u.genre: invalid genre numbers [0, 2] (expected 0, 1, 2, ... without a gap)",
        ),
        (
            "lightgcn",
            LISTS,
            {"test.txt": "0 1\n1 4 a7\n"},
            "test.txt:2: invalid id 'a7' (expected 'user item item ...' in whole numbers)",
        ),
        ("lightgcn", LISTS, {"train.txt": "0\n1\n"}, "train.txt: no 'user item item ...' line with an item"),
        ("gowalla", LISTS, {"test.txt": None}, "--source: no test.txt in '"),
        (
            "movielens-1m-m1",
            {**LISTS, "movies.dat": MOVIES, "users.dat": USERS},
            {"m1_to_ml1m_items.csv": "a,b\n1,2\n"},
            "m1_to_ml1m_items.csv:1: invalid header 'a,b' (expected 'm1_item,ml1m_movie_id')",
        ),
        ("avazu", {}, {"day.csv": "a,b\n"}, "/in: no train.csv, train.gz or other .csv file with the header 'id,"),
        (
            "avazu",
            {},
            {"train.csv": "id,hour\n1,2\n"},
            "train.csv:1: invalid header 'id,hour' (expected 'id,click,hour,C1,",
        ),
        ("avazu", {}, {"train.csv": AVAZU_HEADER + "\n"}, "/in: no rows"),
        ("avazu", {}, {"train.gz": b"no gzip"}, "train.gz: cannot be read: Not a gzipped file"),
        ("avazu", {}, {"train.gz": gzip.compress(AVAZU_HEADER.encode())[:20]}, "train.gz: cannot be read: "),
        (
            "avazu",
            {},
            {"train.gz": gzip.compress((AVAZU_HEADER + "\n" + TWO_ROWS * 5000).encode())[:-2000]},
            "train.gz: cannot be read: ",
        ),
    ],
)
def test_bad_files(
    tmp_path: Path, name: str, content: dict[str, str], changed: dict[str, str | bytes | None], message: str
) -> None:
    all_files = {key: text for key, text in {**content, **changed}.items() if text is not None}
    source = files(tmp_path / "in", all_files)
    with pytest.raises(DataError) as caught:
        convert_dataset(name, tmp_path / "out", source=source)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]  # nothing half written


def test_a_missing_source_a_file_as_source_and_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--source: no such file or directory: .*/nowhere"):
        convert_dataset("gowalla", tmp_path / "out", source=tmp_path / "nowhere")
    source = files(tmp_path / "in", LISTS)
    with pytest.raises(DataError, match="train.txt. .expected the directory with train.txt"):
        convert_dataset("gowalla", tmp_path / "out", source=source / "train.txt")
    with pytest.raises(ConfigError, match="unknown data set 'movielens-1mm1'; did you mean 'movielens-1m-m1'"):
        convert_dataset("movielens-1mm1", tmp_path / "out", source=source)
    assert NAMES == ("movielens-100k", "movielens-1m", "movielens-1m-m1", "gowalla", "lightgcn", "avazu")


def test_an_output_with_other_files_is_left_alone(tmp_path: Path) -> None:
    source = files(tmp_path / "in", LISTS)
    with pytest.raises(
        DataError, match="in' .it has 'test.txt', which does not belong to a converted data set and would"
    ):
        convert_dataset("lightgcn", source, source=source)
    assert (source / "test.txt").read_text() == "0 2\n"


# --- downloads ----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine that serves `tmp_path/www`."""
    (tmp_path / "www").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "www"))

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def zipped(content: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in content.items():
            archive.writestr(f"ml-1m/{name}", text.encode("latin-1"))
    return packed.getvalue()


def publish_at(monkeypatch: pytest.MonkeyPatch, url: str, md5: str) -> None:
    converter = PUBLICATIONS["movielens-1m"].converter
    monkeypatch.setitem(PUBLICATIONS, "movielens-1m", Publication(converter, Archive(url, md5)))


def test_download_from_the_publisher(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped(ML_1M)
    (tmp_path / "www/ml-1m.zip").write_bytes(content)
    publish_at(monkeypatch, f"{server}/ml-1m.zip", hashlib.md5(content).hexdigest())
    reports: list[tuple[str, int, int]] = []
    result = convert_dataset("movielens-1m", tmp_path / "out", progress=lambda *args: reports.append(args))
    assert result["events"] == 1 and rows(tmp_path / "out")[0]["movie_id"] == "1"
    assert ("download", len(content), len(content)) in reports
    # Nothing of the download is left; the archive given by hand is the same.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "www"]
    assert convert_dataset("movielens-1m", tmp_path / "again", source=tmp_path / "www/ml-1m.zip")["events"] == 1


def test_a_download_with_another_hash_is_refused(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "www/ml-1m.zip").write_bytes(b"an error page")
    publish_at(monkeypatch, f"{server}/ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906")
    with pytest.raises(DataError) as caught:
        convert_dataset("movielens-1m", tmp_path / "out")
    assert str(caught.value) == (
        f"{server}/ml-1m.zip: invalid md5 {hashlib.md5(b'an error page').hexdigest()} (expected "
        "c4d9eecfca2ab87c1945afe126590906); the download is damaged or changed: try again, or fetch it by hand and "
        "pass --source=FILE"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["www"]


def test_a_failed_download_says_what_to_do(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_at(monkeypatch, f"{server}/gone.zip", "0" * 32)
    with pytest.raises(DataError, match=r"gone.zip: the server answers 404 File not found; fetch it by hand and pass"):
        convert_dataset("movielens-1m", tmp_path / "out")
    publish_at(monkeypatch, "http://127.0.0.1:1/ml-1m.zip", "0" * 32)
    with pytest.raises(DataError, match=r"ml-1m.zip: cannot be fetched: .*refused; fetch it by hand and pass --source"):
        convert_dataset("movielens-1m", tmp_path / "out")


def test_a_damaged_archive_given_by_hand(tmp_path: Path) -> None:
    (tmp_path / "ml-1m.zip").write_bytes(b"PK, but no zip")
    with pytest.raises(DataError, match="ml-1m.zip: not a valid zip file: File is not a zip file"):
        convert_dataset("movielens-1m", tmp_path / "out", source=tmp_path / "ml-1m.zip")


def test_a_zip_writes_nothing_outside_its_directory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        for name, text in ML_1M.items():
            archive.writestr(f"ml-1m/{name}", text.encode("latin-1"))
        archive.writestr("../../escaped.txt", "outside")
    convert_dataset("movielens-1m", tmp_path / "out", source=tmp_path / "ml-1m.zip")
    assert not list(tmp_path.parent.glob("**/escaped.txt"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("avazu", "avazu: no public download; log in to Kaggle and fetch train.gz of the competition"),
        ("gowalla", "gowalla: no public download; fetch train.txt and test.txt of Data/gowalla"),
        ("lightgcn", "lightgcn: no public download; it is any folder with train.txt and test.txt"),
        ("movielens-1m-m1", "movielens-1m-m1: no public download; fetch train.txt, test.txt and valid.txt of"),
    ],
)
def test_data_without_a_download_says_where_it_is(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        convert_dataset(name, tmp_path / "out")
    assert str(caught.value).startswith(hint) and str(caught.value).endswith("and pass --source=DIRECTORY")


def test_the_publishers_own_addresses_and_hashes() -> None:
    assert PUBLICATIONS["movielens-100k"].archive == Archive(
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip", "0e33842e24a9c977be4e0107933c0723"
    )
    assert PUBLICATIONS["movielens-1m"].archive == Archive(
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"
    )
