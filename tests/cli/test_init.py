"""`twotower init` on tables made here, whose roles are known, and on published ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf import config as configuration
from twotower_tf.cli.main import main
from twotower_tf.config import (
    Bucketized,
    DateSplit,
    EvaluationConfig,
    ExperimentConfig,
    Hash,
    History,
    Hour,
    LeaveLastOut,
    Numeric,
    RandomSplit,
    Tags,
    TimeSplit,
    Weekday,
    feature_columns,
)
from twotower_tf.errors import DataError
from twotower_tf.onboarding.proposal import find_common_root
from twotower_tf.prepare.preparation import prepare_log


def shop(root: Path, events: int = 600) -> dict[str, list[Any]]:
    """Tables with names that say little, planted constants, leaks and ids; returns the events."""
    rng = np.random.default_rng(11)
    members = [f"m{number}" for number in rng.integers(0, 40, events)]
    goods = [f"g{number}" for number in rng.integers(0, 30, events)]
    labels = (rng.random(events) < 0.3).astype(int)
    table: dict[str, list[Any]] = {
        "row": [f"r{n:05d}" for n in range(events)],
        "memberID": members,
        "sku": goods,
        "created_at": [f"2026-03-{1 + n * 20 // events:02d}T{n % 24:02d}:15:00Z" for n in range(events)],
        "converted": labels.tolist(),
        "order_value": [f"{v:.2f}" if y else "" for y, v in zip(labels, rng.uniform(1, 9, events), strict=True)],
        "basket": ["filled" if y else "empty" for y in labels],
        "store": ["north"] * events,
        "blank": [""] * events,
        "channel": rng.choice(["web", "app", "mail"], events).tolist(),
        "shelf": [f"s{int(good[1:]) % 7}" for good in goods],
        "spent_before": np.round(rng.lognormal(1, 3, events), 3).tolist(),
        "age": rng.integers(18, 80, events).tolist(),
    }
    write(root / "log" / "dt=20260301" / "a.csv", {name: values[:300] for name, values in table.items()})
    write(root / "log" / "dt=20260302" / "b.csv", {name: values[300:] for name, values in table.items()})
    write(
        root / "goods.csv",
        {
            "sku": [f"g{n}" for n in range(33)],
            "name": [f"Thing number {n}, of {n % 3}" for n in range(33)],
            "topics": [["a|b", "b|c", "a", "c|d|a"][n % 4] for n in range(33)],
            "price": [round(0.5 + n * 1.25, 2) for n in range(33)],
        },
    )
    write(
        root / "people.tsv",
        {"memberID": [f"m{n}" for n in range(45)], "land": [["PL", "DE"][n % 2] for n in range(45)]},
    )
    return table


def write(path: Path, columns: dict[str, list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = "\t" if path.suffix == ".tsv" else ","
    rows = [[f'"{v}"' if "," in str(v) else str(v) for v in row] for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(mark.join(row) for row in [list(columns), *rows]) + "\n")


def init(output: Path, *flags: str) -> ExperimentConfig:
    assert main(["init", f"--output={output}", *flags]) == 0
    return configuration.load(output)


@pytest.fixture
def proposed(tmp_path: Path) -> tuple[ExperimentConfig, str]:
    shop(tmp_path)
    config = init(
        tmp_path / "shop.py",
        f"--events={tmp_path}/log",
        f"--items={tmp_path}/goods.csv",
        f"--users={tmp_path}/people.tsv",
    )
    return config, (tmp_path / "shop.py").read_text()


def test_roles_are_guessed_and_explained(proposed: tuple[ExperimentConfig, str], tmp_path: Path) -> None:
    config, text = proposed
    data = config.data
    assert (data.root, data.events, data.items, data.users) == (str(tmp_path), "log", "goods.csv", "people.tsv")
    assert (data.user_id, data.item_id, data.timestamp, data.label) == ("memberID", "sku", "created_at", "converted")
    assert data.item_name == "name" and data.split == TimeSplit(0.1, 0.1)
    assert 'user_id="memberID",  # the key of the user table, which has 100 % of the events\' ids' in text
    assert 'item_id="sku",  # the key of the item table, which has 100 % of the events\' ids' in text
    assert "# read as ISO 8601: 2026-03-01 00:15 to 2026-03-20 23:15, UTC" in text
    assert f"twotower run --config={tmp_path}/shop.py --run_dir=runs/shop --export_dir=export/shop" in text


def test_features_have_types_sides_and_buckets(proposed: tuple[ExperimentConfig, str]) -> None:
    config, text = proposed
    assert config.item_features == (
        Hash("sku", buckets=280, hashes=2),  # 30 values: 1 / (1 - 0.9^(1/29)) = 275.7
        Tags("topics", buckets=29, separator="|"),  # 4 values: 29.0
        Numeric("price"),
        Hash("shelf", buckets=58),  # 7 values: 57.5
    )
    assert config.user_features == (
        Hash("land", buckets=10),  # 2 values
        Hash("channel", buckets=20),  # 3 values: 19.5
        Numeric("spent_before", transform="log1p"),
        Bucketized("age", buckets=20),
        Hour("created_at"),
        Weekday("created_at"),
        History(of="sku", length=50),
    )
    assert 'Hash("shelf", buckets=58),  # 7 values' in text and "the item predicts it in 100 % of the cases" in text


def test_what_is_left_out_is_said_with_its_reason(proposed: tuple[ExperimentConfig, str]) -> None:
    _, text = proposed
    for line in (
        "name: shown as the item's name",
        "row: 600 values in 600 rows: nearly unique per row, like an id of events or free text",
        "order_value: known only after the event, by its name",
        "dt: a time",
        "basket: it predicts the label (it avoids 100 % of the errors of a constant guess): likely made after it",
        "store: always 'north'",
        "blank: no value in any row",
    ):
        assert f"        #   {line}\n" in text


def test_a_person_may_settle_roles(tmp_path: Path) -> None:
    shop(tmp_path)
    given = ["--user_id=channel", "--item_id=shelf", "--label=", "--timestamp=dt"]
    data = init(tmp_path / "a.py", f"--events={tmp_path}/log", *given).data
    assert (data.user_id, data.item_id, data.timestamp) == ("channel", "shelf", "dt")


def test_names_that_say_nothing(tmp_path: Path) -> None:
    """The ids are the columns whose values repeat; the one with the most values is the user's."""
    rng = np.random.default_rng(3)
    pq.write_table(
        pa.table(
            {
                "a": rng.integers(0, 90, 900),
                "b": rng.integers(0, 40, 900),
                "c": rng.choice(["x", "y"], 900),
                "d": np.arange(900),
            }
        ),
        tmp_path / "x.parquet",
    )
    config = init(tmp_path / "a.py", f"--events={tmp_path}/x.parquet")
    assert (config.data.user_id, config.data.item_id) == ("a", "b")
    assert (config.data.timestamp, config.data.label, config.data.split) == ("", "", RandomSplit(0.1, 0.1))
    assert "a guess: no column has a usual name for a user's id" in (tmp_path / "a.py").read_text().replace(
        "\n            # ", " "
    )
    assert config.user_features == (Hash("c", buckets=10), History(of="b", length=50))
    assert prepare_log(config, tmp_path / "run")["rows"]["used"] == 900


REFUSED = {
    "no file": (["--events=none.csv"], "--events: no such file: none.csv"),
    "no rows": (["--events=head.csv"], "--events: head.csv: no rows"),
    "an unknown column": (
        ["--events=one.csv", "--user_id=usr"],
        "--user_id: unknown column of the events 'usr'; did you mean 'user'?",
    ),
    "no id": (
        ["--events=two.csv"],
        "--events: no column can be the user's id (its values must repeat); columns: k, v, when; "
        "name it with --user_id; in a log without users, name the column whose rows belong together (a session, a "
        "basket, a device), or add one; where a row has several items, make one row per item of them first "
        "(docs/reading.md#one-row-per-event)",
    ),
    "no time": (
        ["--events=one.csv", "--timestamp=user"],
        "--timestamp: invalid column 'user' (expected times, and more than one)",
    ),
    "no Python file": (
        ["--events=one.csv", "--output=shop.json"],
        "--output: invalid file name 'shop.json' (expected a .py file, e.g. configs/shop.py)",
    ),
    "a file that is there": (
        ["--events=one.csv", "--output=there.py"],
        "--output: there.py exists already; choose another name or remove it",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.csv").write_text("user,item,when\na,x,5\nb,y,6\n")
    Path("two.csv").write_text("k,v,when\na,x,5\nb,y,6\n")
    Path("head.csv").write_text("user,item,when\n")
    Path("there.py").write_text("precious")
    flags, message = REFUSED[case]
    assert main(["init", "--output=new.py", *flags]) == 2
    assert capsys.readouterr().err == f"twotower init: {message}\n"
    assert not Path("new.py").exists() and Path("there.py").read_text() == "precious"


@pytest.mark.parametrize(
    ("paths", "root", "relative"),
    [
        ({"events": "data/log.csv"}, "data", {"events": "log.csv"}),
        ({"events": "log.csv"}, ".", {"events": "log.csv"}),
        (
            {"events": "data/log/*.csv", "items": "data/items.csv"},
            "data",
            {"events": "log/*.csv", "items": "items.csv"},
        ),
        ({"events": "d/e/dt=1/x.csv", "users": ""}, "d/e", {"events": "dt=1/x.csv"}),
        ({"events": "/a/b/c.csv", "items": "/a/d/e.csv"}, "/a", {"events": "b/c.csv", "items": "d/e.csv"}),
        ({"events": "a/x.csv", "items": "b/y.csv"}, ".", {"events": "a/x.csv", "items": "b/y.csv"}),
    ],
)
def test_the_root_is_what_all_paths_share(paths: dict[str, str], root: str, relative: dict[str, str]) -> None:
    assert find_common_root(paths) == (root, relative)


def test_paths_that_share_nothing() -> None:
    with pytest.raises(DataError) as error:
        find_common_root({"events": "/a/b.csv", "items": "c.csv"})
    assert str(error.value) == (
        "--items, --users: mixed paths (expected all absolute, or all relative to one directory)"
    )


# --- published tables ---------------------------------------------------------------------------------------------


def test_avazu_as_published(tmp_path: Path, published: Callable[[str], Path]) -> None:
    source = published("avazu-sample/avazu_random20k.csv")
    config = init(tmp_path / "avazu.py", f"--events={source}")
    data = config.data
    assert (data.user_id, data.item_id, data.timestamp, data.label) == ("device_id", "C14", "hour", "click")
    text = (tmp_path / "avazu.py").read_text()
    flat = " ".join(text.replace("# ", "").split())
    assert "'a99f214a' alone has 83 % of the rows" in flat
    assert "no column has a usual name for an item's id" in flat and "1,202 values in 20,000 rows. Check it" in flat
    assert "read as YYMMDDHH: 2014-10-21 00:00 to 2014-10-30 23:00, UTC" in flat
    assert "id: 20,000 values in 20,000 rows: nearly unique per row" in flat
    assert config.evaluation == EvaluationConfig(query="event", exclude_seen=False)
    assert "'a99f214a' stands for many users" in flat
    assert [feature.column for feature in config.item_features] == ["C14", "C15", "C16", "C17", "C18", "C19", "C21"]
    assert main(["validate", f"--config={tmp_path}/avazu.py"]) == 0
    assert prepare_log(config, tmp_path / "run")["rows"]["used"] == 20_000


def test_movielens_as_converted(tmp_path: Path, published: Callable[[str], Path]) -> None:
    source = published("movielens-1m")
    assert main(["dataset", "movielens-1m", f"--source={source}", f"--output={tmp_path}/ml"]) == 0
    flags = [f"--{name}={tmp_path}/ml/{name}.parquet" for name in ("events", "items", "users")]
    config = init(tmp_path / "ml.py", *flags)
    data = config.data
    assert (data.user_id, data.item_id, data.label, data.item_name) == ("user_id", "movie_id", "", "title")
    assert data.timestamp == "position" and data.split == LeaveLastOut()
    assert config.item_features == (
        Hash("movie_id", buckets=36_000, hashes=2),
        Bucketized("year", buckets=20),
        Tags("genres", buckets=170, separator="|"),
    )
    assert (
        '# positive="rating >= 4",  # rating: 1 to 5, half at most 4; good ratings alone'
        in (tmp_path / "ml.py").read_text()
    )
    assert not [each for each in config.user_features if feature_columns(each) in (("rating",), ("user_id",))]
    assert main(["validate", f"--config={tmp_path}/ml.py"]) == 0
    assert prepare_log(config, tmp_path / "run")["rows"]["used"] == 1_000_209


def test_days_versions_and_lists_are_seen(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for day in range(1, 6):
        rows = 200
        write(
            tmp_path / "log" / f"dt=2026030{day}" / "a.csv",
            {
                "user_id": [f"u{number}" for number in rng.integers(0, 30, rows)],
                "item_id": [f"i{number}" for number in rng.integers(0, 20, rows)],
                "time": [f"2026-03-0{day}T{n * 24 // rows:02d}:{n % 60:02d}:00Z" for n in range(rows)],
                "click": (rng.random(rows) < 0.4).astype(int).tolist(),
                "request_id": [f"r{day}-{n // 5}" for n in range(rows)],
                "slot": [n % 5 for n in range(rows)],
            },
        )
    write(
        tmp_path / "items.csv",
        {
            "item_id": [f"i{n % 20}" for n in range(60)],
            "valid_from": [f"2026-03-0{1 + n // 20}" for n in range(60)],
            "price": [round(float(price), 2) for price in rng.uniform(1, 90, 60)],
        },
    )
    flags = [f"--events={tmp_path}/log", f"--items={tmp_path}/items.csv", f"--output={tmp_path}/shop.py"]
    assert main(["init", *flags]) == 0
    config = configuration.load(tmp_path / "shop.py")
    data = config.data
    assert data.split == DateSplit(train_days=3, valid_days=1, test_days=1)
    assert (data.items_time, data.users_time) == ("valid_from", "")
    assert (data.list_id, data.position) == ("request_id", "slot")
    assert [feature.column for feature in config.item_features] == ["item_id", "price"]
    assert not {"slot", "request_id", "dt"} & {getattr(feature, "column", "") for feature in config.user_features}
    manifest = prepare_log(config, tmp_path / "run")
    assert {name: split["rows"] for name, split in manifest["splits"].items()} == {
        "train": 600, "valid": 200, "test": 200,
    }  # fmt: skip
    assert manifest["keys"][-2:] == ["list", "position"]
