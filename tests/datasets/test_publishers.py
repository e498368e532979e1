"""Published data sets in small files written by hand: what is converted, and what is refused."""

import gzip
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.datasets.publisher_files import LISTS, ML_1M, ML_100K, MOVIES, USERS, files, rows
from twotower_tf.datasets import NAMES, convert_dataset
from twotower_tf.errors import ConfigError, DataError


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
    published = ("movielens-100k", "movielens-1m", "movielens-1m-m1", "gowalla", "lightgcn")
    assert NAMES == (*published, "lists", "lists-in-order", "avazu")


def test_an_output_with_other_files_is_left_alone(tmp_path: Path) -> None:
    source = files(tmp_path / "in", LISTS)
    with pytest.raises(
        DataError, match="in' .it has 'test.txt', which does not belong to a converted data set and would"
    ):
        convert_dataset("lightgcn", source, source=source)
    assert (source / "test.txt").read_text() == "0 2\n"
