"""Side tables whose columns of ids have other names than the log's, and labels in letters of any case."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.config import DataConfig, ExperimentConfig, Hash, Numeric, RandomSplit, TrainConfig
from twotower_tf.errors import ConfigError, DataError
from twotower_tf.export.catalogue_diff import read_items
from twotower_tf.onboarding.validate_inputs import validate_tables
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.score.inspect_users import inspect_table
from twotower_tf.score.score_options import Options
from twotower_tf.score.type_columns import ColumnTyper
from twotower_tf.score.unit_reader import open_unit
from twotower_tf.score.units import split_units
from twotower_tf.tables.duckdb_engine import open_engine
from twotower_tf.tables.time_parser import TimeParser

CONFIG = ExperimentConfig(
    name="keys",
    data=DataConfig(
        items="items.csv",
        users="users.csv",
        user_id="who",
        item_id="what",
        items_id="id",
        users_id="code",
        timestamp="",
        label="click",
        item_name="name",
        split=RandomSplit(0.0, 0.0),
    ),
    item_features=(Hash("what", buckets=9), Numeric("price")),
    user_features=(Hash("who", buckets=9), Hash("land", buckets=9)),
    train=TrainConfig(batch_size=2),
)


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    """Users have a column `id` of their own, which is another thing."""
    (tmp_path / "events.csv").write_text("who,what,click\nu1,a,True\nu2,b,FALSE\nu2,a,true\n")
    (tmp_path / "items.csv").write_text("name,id,price\nApple,a,1.5\nBean,b,2\nCorn,c,3\n")
    (tmp_path / "users.csv").write_text("id,code,land\n7,u1,PL\n8,u2,DE\n")
    return dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, root=str(tmp_path)))


def test_tables_are_joined_by_their_own_keys(config: ExperimentConfig, tmp_path: Path) -> None:
    manifest = prepare_log(config, tmp_path / "run")
    assert manifest["splits"]["train"]["rows"] == 3
    items = pq.read_table(tmp_path / "run/prepared/items.parquet").to_pylist()
    assert [(row["item_id"], row["item_name"], row["price"], row["train_count"]) for row in items] == [
        ("a", "Apple", 1.5, 2), ("b", "Bean", 2.0, 0), ("c", "Corn", 3.0, 0),
    ]  # fmt: skip
    rows = Prepared.open(tmp_path / "run").read_rows("train").to_pylist()
    assert sorted((row["user.who"], row["user.land"], row["label"]) for row in rows) == [
        ("u1", "PL", 1), ("u2", "DE", 0), ("u2", "DE", 1),
    ]  # fmt: skip


def test_refresh_and_validate_read_the_same_keys(config: ExperimentConfig, tmp_path: Path) -> None:
    with open_engine(tmp_path / "work", "1GB", 1, directories=[tmp_path]) as connection:
        assert validate_tables(connection, config, tmp_path).problems == []
    prepare_log(config, tmp_path / "run")
    known = pq.read_schema(tmp_path / "run/prepared/items.parquet")
    (tmp_path / "more.csv").write_text("id,price\nd,4\n")
    assert read_items(config, tmp_path / "more.csv", known).items["item_id"].to_pylist() == ["d"]


def test_a_key_that_is_not_there(config: ExperimentConfig, tmp_path: Path) -> None:
    data = dataclasses.replace(config.data, items_id="ean")
    with pytest.raises(DataError, match=r"data.items_id: unknown column in items.csv 'ean'"):
        prepare_log(dataclasses.replace(config, data=data), tmp_path / "run")
    with pytest.raises(ConfigError, match="data.users_id: needs data.users; set it or remove data.users_id"):
        dataclasses.replace(config, data=dataclasses.replace(config.data, users=""))


TABLES = {
    "csv": "code,who,land\nu1,x,PL\nu2,y,DE\n",
    "json": '{"code": "u1", "who": "x", "land": "PL"}\n{"code": "u2", "who": "y", "land": "DE"}\n',
    "parquet": "",
    "log's name": "who,land\nu1,PL\nu2,DE\n",
}


@pytest.mark.parametrize("form", TABLES)
def test_scoring_reads_the_key_of_the_user_table(form: str, tmp_path: Path) -> None:
    """Also where the table has a column of the log's name; a table by the log's name needs no other."""
    path = tmp_path / f"users.{form if form in ('json', 'parquet') else 'csv'}"
    if form == "parquet":
        pq.write_table(pa.table({"code": ["u1", "u2"], "who": ["x", "y"], "land": ["PL", "DE"]}), path)
    else:
        path.write_text(TABLES[form])
    options = Options(export_dir=tmp_path, output=tmp_path / "out", users=str(path))
    found = inspect_table(options, CONFIG, {})
    (unit,) = split_units(found.sources)
    wanted = ("who", "land")
    with open_unit(found.sources[0], unit, wanted, 10, tmp_path, "1GB", found.renamed) as rows:
        (table,) = rows.batches
        users, bad = ColumnTyper("who", found.columns, TimeParser()).type_rows(table, 0)
    assert (users.ids.to_pylist(), users.columns["land"].to_pylist(), bad) == (["u1", "u2"], ["PL", "DE"], [])
    assert users.columns["who"].to_pylist() == ["u1", "u2"]


def test_scoring_names_the_key_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("cod,land\nu1,PL\n")
    options = Options(export_dir=tmp_path, output=tmp_path / "out", users=str(tmp_path / "users.csv"))
    message = f"data.users_id: unknown column in {tmp_path}/users.csv 'code'; did you mean 'cod'?"
    with pytest.raises(DataError, match=re.escape(message)):
        inspect_table(options, CONFIG, {})
