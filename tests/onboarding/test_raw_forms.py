"""From raw files, as people have them, to prepared rows with `init`'s proposal unedited."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from twotower_tf import config as configuration
from twotower_tf.cli.main import main
from twotower_tf.config import ExperimentConfig, LeaveLastOut, RandomSplit, TextFormat, TimeSplit
from twotower_tf.prepare.preparation import prepare_log

ROWS = 600


def log() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "user_id": rng.integers(1, 40, ROWS),
            "item_id": rng.integers(1, 31, ROWS),
            "rating": rng.integers(1, 6, ROWS),
            "timestamp": 978_300_000 + np.arange(ROWS) * 977,
        }
    )


def films() -> pd.DataFrame:
    titles = [f"Misérables {n}" for n in range(1, 31)]
    return pd.DataFrame({"item_id": range(1, 31), "title": titles, "genres": ["Drama|War", "War|Crime", "Crime"] * 10})


def propose(folder: Path, *flags: str) -> ExperimentConfig:
    assert main(["init", f"--output={folder}/c.py", *flags]) == 0
    config = configuration.load(folder / "c.py")
    assert main(["validate", f"--config={folder}/c.py"]) == 0
    return config


def prepared_items(config: ExperimentConfig, folder: Path, rows: int = ROWS) -> list[dict[str, object]]:
    assert prepare_log(config, folder / "run")["rows"] == {
        "read": rows, "used": rows, "excluded": {}, "quarantined": 0,
    }  # fmt: skip
    items: list[dict[str, object]] = pq.read_table(folder / "run/prepared/items.parquet").to_pylist()
    return items


def test_two_colons_and_latin_1(tmp_path: Path) -> None:
    """The form of MovieLens 1M."""
    for name, frame in (("ratings", log()), ("movies", films())):
        lines = ["::".join(map(str, row)) for row in frame.itertuples(index=False)]
        (tmp_path / f"{name}.dat").write_bytes(("\n".join(lines) + "\n").encode("latin-1"))
    config = propose(
        tmp_path,
        f"--events={tmp_path}/ratings.dat",
        f"--items={tmp_path}/movies.dat",
        "--columns=user_id,item_id,rating,timestamp",
        "--item_columns=item_id,title,genres",
    )
    assert config.data.item_format is not None and config.data.item_format.encoding == "latin-1"
    assert isinstance(config.data.split, TimeSplit)
    items = prepared_items(config, tmp_path)
    assert [row["item_name"] for row in items if row["item_id"] == "7"] == ["Misérables 7"]


def test_tabs_and_bars_without_header(tmp_path: Path) -> None:
    """The form of MovieLens 100K; the message of the first attempt has the flag."""
    log().to_csv(tmp_path / "u.data", sep="\t", header=False, index=False)
    films().assign(genres="x").to_csv(tmp_path / "u.item", sep="|", header=False, index=False, encoding="latin-1")
    config = propose(
        tmp_path,
        f"--events={tmp_path}/u.data",
        f"--items={tmp_path}/u.item",
        "--columns=user_id,item_id,rating,timestamp",
        "--item_columns=item_id,title,kind",
    )
    assert config.data.item_format == TextFormat(delimiter="|", encoding="latin-1")
    assert prepared_items(config, tmp_path)[0]["item_name"] == "Misérables 1"


def test_pandas_index_first(tmp_path: Path) -> None:
    log().assign(click=lambda frame: frame.rating > 3).to_csv(tmp_path / "log.csv")
    config = propose(tmp_path, f"--events={tmp_path}/log.csv")
    assert (config.data.user_id, config.data.item_id, config.data.label) == ("user_id", "item_id", "click")
    assert len(prepared_items(config, tmp_path)) == 30


def test_upper_case_parquet(tmp_path: Path) -> None:
    log().rename(columns=str.upper).to_parquet(tmp_path / "EVENTS.parquet")
    films().rename(columns=str.upper).to_parquet(tmp_path / "ITEMS.parquet")
    config = propose(tmp_path, f"--events={tmp_path}/EVENTS.parquet", f"--items={tmp_path}/ITEMS.parquet")
    assert (config.data.user_id, config.data.item_id, config.data.item_name) == ("USER_ID", "ITEM_ID", "TITLE")
    assert prepared_items(config, tmp_path)[1]["item_name"] == "Misérables 10"  # ids in the order of their texts


def test_missing_values_as_hive_writes_them(tmp_path: Path) -> None:
    frame = log().assign(age=[str(20 + n % 40) if n % 4 else "\\N" for n in range(ROWS)])
    frame.to_csv(tmp_path / "log.tsv", sep="\t", index=False)
    config = propose(tmp_path, f"--events={tmp_path}/log.tsv")
    assert config.data.null_values == ("\\N",)
    assert any(getattr(each, "column", "") == "age" and each.type == "Bucketized" for each in config.user_features)


@pytest.mark.parametrize("sort", [False, True])
def test_pairs_in_the_order_of_the_file(sort: bool, tmp_path: Path) -> None:
    """A user's rows in their order are split by it; rows sorted by item have no order."""
    rng = np.random.default_rng(3)
    lines = []
    for user in range(60):
        items = rng.permutation(40)[:10]
        lines += [f"{user} {item}" for item in (sorted(items) if sort else items)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    config = propose(tmp_path, f"--events={tmp_path}/pairs.txt", "--columns=user_id,item_id")
    assert config.data.split == (RandomSplit() if sort else LeaveLastOut())
    prepared_items(config, tmp_path)
    if not sort:
        test = pq.read_table(tmp_path / "run/prepared/examples/test")
        catalogue = pq.read_table(tmp_path / "run/prepared/items.parquet")["item_id"].to_pylist()
        last = {line.split()[0]: line.split()[1] for line in lines}
        users = pq.read_table(tmp_path / "run/prepared/users.parquet")["user_id"].to_pylist()
        found = {
            users[row["user_row"]]: catalogue[row["item_row"]]
            for row in test.select(["user_row", "item_row"]).to_pylist()
        }
        assert found == last


def test_a_blank_after_every_comma(tmp_path: Path) -> None:
    lines = [f"u{n % 30}, i{n % 7}, {1_700_000_000 + n}" for n in range(300)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id, item_id, timestamp", *lines]))
    config = propose(tmp_path, f"--events={tmp_path}/log.csv")
    assert (config.data.delimiter, config.data.item_id, config.data.timestamp) == (", ", "item_id", "timestamp")
    assert {each["item_id"] for each in prepared_items(config, tmp_path, 300)} == {f"i{n}" for n in range(7)}


REFUSED = {
    "a line for Excel": (
        "sep=;\nuser;item;time\na;b;5\nb;b;6\n",
        "log.tsv:1: a line for Excel, 'sep=;'; remove it",
    ),
    "no header": (
        "1\t5\t3\t881250949\n2\t5\t1\t881250950\n1\t6\t4\t881250999\n",
        "--events: log.tsv: no header line (the first line has the value '1' where a header has a name); name its 4 "
        "columns in order, e.g. --columns=user_id,item_id,rating,timestamp for '1\\t5\\t3\\t881250949'",
    ),
    "twelve columns, some of them empty": (
        "\n".join("\t".join(["1", *("" if (n + row) % 3 else "7" for n in range(10)), "5"]) for row in range(9)),
        "--events: log.tsv: no header line (the first line has the value '1' where a header has a name); name its 12 "
        "columns in order, e.g. --columns=user_id,item_id,rating,timestamp,column_5,column_6,column_7,column_8,"
        "column_9,...,column_12 for '1\\t7\\t\\t\\t7\\t\\t\\t7\\t\\t\\t7\\t5'",
    ),
    "lists": (
        "0 1 2 3\n1 2\n2 3 4\n3 4 5 6 7 8\n4 1 7 9 11\n",
        "--events: log.tsv: lists of several items in a line (expected one row per event or id); convert them with "
        "`twotower dataset lists --source={folder}/log.tsv --output=...`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_remedy_is_in_the_message(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = REFUSED[case]
    (tmp_path / "log.tsv").write_text(text)
    assert main(["init", f"--events={tmp_path}/log.tsv", f"--output={tmp_path}/c.py"]) == 2
    assert capsys.readouterr().err == f"twotower init: {message.format(folder=tmp_path)}\n"


@pytest.mark.quality
def test_published_raw_files(published: Callable[[str], Path], tmp_path: Path) -> None:
    """MovieLens 100K, and MovieLens 1M as pairs in order: every row is used."""
    config = propose(tmp_path, *_movielens_100k(published, tmp_path))
    assert prepared_items(config, tmp_path, 100_000)[0]["item_name"] == "Toy Story (1995)"
    (tmp_path / "c.py").unlink()
    source = published("movielens-1m/sasrec_order.txt")
    config = propose(tmp_path, f"--events={source}", "--columns=user_id,item_id")
    assert config.data.split == LeaveLastOut()
    assert len(prepared_items(config, tmp_path / "pairs", 999_611)) == 3_416


def _ratings(published: Callable[[str], Path]) -> pd.DataFrame:
    """The ratings of a third of MovieLens 100K's users."""
    names = ["user_id", "item_id", "rating", "timestamp"]
    ratings = pd.read_csv(published("movielens-100k") / "u.data", sep="\t", names=names)
    return ratings[ratings.user_id % 3 == 0]


def _movielens_100k(published: Callable[[str], Path], folder: Path) -> list[str]:
    source = published("movielens-100k")
    genres = ",".join(f"genre_{n}" for n in range(19))
    return [
        f"--events={source}/u.data",
        f"--items={source}/u.item",
        f"--users={source}/u.user",
        "--columns=user_id,item_id,rating,timestamp",
        f"--item_columns=item_id,title,released,video,url,{genres}",
        "--user_columns=user_id,age,gender,occupation,zip",
    ]


def _movielens_1m(published: Callable[[str], Path], folder: Path) -> list[str]:
    """Its movies and users as published; a tenth of its ratings in the published form, with times by their order."""
    source = published("movielens-1m")
    ratings = pd.read_csv(source / "ratings.csv")
    ratings = ratings[ratings.user_id % 10 == 0]
    share = ratings.position / ratings.groupby("user_id").position.transform("max")
    times = 978_000_000 + (share * 30 * 86_400).astype(int) + ratings.user_id % 60  # of all users at once
    lines = [
        f"{user}::{movie}::{rating}::{time}\n"
        for user, movie, rating, time in zip(ratings.user_id, ratings.movie_id, ratings.rating, times, strict=True)
    ]
    (folder / "ratings.dat").write_text("".join(lines))
    for name in ("movies", "users"):
        (folder / f"{name}.dat").write_bytes((source / f"{name}.dat").read_bytes())
    return [
        f"--events={folder}/ratings.dat",
        f"--items={folder}/movies.dat",
        f"--users={folder}/users.dat",
        "--columns=user_id,movie_id,rating,timestamp",
        "--item_columns=movie_id,title,genres",
        "--user_columns=user_id,gender,age,occupation,zip",
    ]


def _lists(published: Callable[[str], Path], folder: Path) -> list[str]:
    """The first lists of gowalla, in one file."""
    with (published("gowalla") / "train.txt").open() as file:
        (folder / "lists.txt").write_text("".join(line for _, line in zip(range(2_000), file, strict=False)))
    command = ["dataset", "lists", f"--source={folder}/lists.txt", f"--output={folder}/converted"]
    assert main(command) == 0
    return [f"--events={folder}/converted/events.parquet"]


def _index_first(published: Callable[[str], Path], folder: Path) -> list[str]:
    _ratings(published).to_csv(folder / "log.csv")
    return [f"--events={folder}/log.csv"]


def _headerless(published: Callable[[str], Path], folder: Path) -> list[str]:
    _ratings(published).to_csv(folder / "log.tsv", sep="\t", header=False, index=False)
    return [f"--events={folder}/log.tsv", "--columns=who,what,stars,when"]


def _warehouse(published: Callable[[str], Path], folder: Path) -> list[str]:
    _ratings(published).rename(columns=str.upper).to_parquet(folder / "EVENTS.parquet")
    names = ["ITEM_ID", "TITLE", "RELEASED"]
    films = published("movielens-100k") / "u.item"
    items = pd.read_csv(films, sep="|", names=names, usecols=range(3), encoding="latin-1")
    items.to_parquet(folder / "ITEMS.parquet")
    return [f"--events={folder}/EVENTS.parquet", f"--items={folder}/ITEMS.parquet"]


RAW = {
    "MovieLens 100K": _movielens_100k,
    "MovieLens 1M": _movielens_1m,
    "lists": _lists,
    "pandas' index": _index_first,
    "no header": _headerless,
    "upper case": _warehouse,
}


@pytest.mark.quality
@pytest.mark.parametrize("form", RAW)
def test_raw_files_run_to_recommendations(
    form: str, published: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`init`, `validate` and `run` without an edit: every row is used, and the towers find more than popularity."""
    propose(tmp_path, *RAW[form](published, tmp_path))
    command = ["run", f"--config={tmp_path}/c.py", f"--run_dir={tmp_path}/run", f"--export_dir={tmp_path}/export"]
    assert main(command) == 0
    rows = json.loads((tmp_path / "run/prepared/manifest.json").read_text())["rows"]
    assert rows["read"] == rows["used"] + sum(rows["excluded"].values()) and rows["quarantined"] == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    print(form, metrics["metrics"]["recall@20"], metrics["baselines"]["popularity"]["recall@20"], metrics["warnings"])
    assert metrics["metrics"]["recall@20"] > metrics["baselines"]["popularity"]["recall@20"]
    user = pq.read_table(tmp_path / "run/prepared/users.parquet")["user_id"][0].as_py()
    items = pq.read_table(tmp_path / "run/prepared/items.parquet")["item_id"].to_pylist()
    capsys.readouterr()
    past = json.dumps({"history": items[:3]})
    assert main(["recommend", f"--export_dir={tmp_path}/export", "--k=10", f"--user={past}"]) == 0, user
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(set(answer["item_ids"])) == 10 and set(answer["item_ids"]) <= set(items)
