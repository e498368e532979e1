"""What people write as SQL is one expression over the log's columns; the database that runs it reaches nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prepare.test_key_columns import experiment
from tests.prepare.test_preparation import write_csv
from twotower_tf import sql
from twotower_tf.config import RandomSplit
from twotower_tf.errors import DataError
from twotower_tf.onboarding.validate_inputs import validate_tables
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.user_sql import UserExpressions
from twotower_tf.tables.duckdb_engine import open_engine
from twotower_tf.tables.input_table import Column, Table

PROGRAMS = {
    "a table function": (
        "(select count(*) from read_csv('/etc/passwd')) > 0",
        "a query inside a predicate is not allowed",
    ),
    "a file as a table": ("exists (from '/etc/passwd')", "a query inside a predicate is not allowed"),
    "a subquery": ("click in (select 1)", "a query inside a predicate is not allowed"),
    "a scalar reader": ("read_text('/etc/passwd') = ''", "unknown function 'read_text'"),
    "an environment variable": ("getenv('HOME') = ''", "unknown function 'getenv'"),
    "a setting": ("current_setting('threads') = ''", "unknown function 'current_setting'"),
    "the clock": ("now() > time", "unknown function 'now'"),
    "chance": ("random() < 0.5", "unknown function 'random'"),
    "a second statement": ("true; COPY (SELECT 1) TO '{out}'", "(syntax error"),
    "a way out of the brackets": ("true)); COPY (SELECT 1) TO '{out}'; SELECT ((1", "(syntax error"),
    "a clause": ("true) from events where (true", "(expected one expression)"),
    "COPY": ("COPY (SELECT 1) TO '{out}'", "(syntax error"),
    "ATTACH": ("ATTACH DATABASE '{out}'", "(syntax error"),
    "INSTALL": ("INSTALL httpfs", "(syntax error"),
    "PRAGMA": ("PRAGMA version", "(syntax error"),
    "a comment": ("click = 1 -- the clicks", "(a comment is not allowed)"),
    "a comment inside": ("click /* '1' */ = 1", "(a comment is not allowed)"),
    "a window": ("row_number() over () = 1", "(a window function is not allowed"),
    "an aggregate": ("sum(click) > 1", "unknown function 'sum'"),
    "a parameter": ("click = ?", "(a parameter is not allowed in a predicate)"),
    "a column of the package's own": ("__label = 1", "unknown column '__label'"),
    "a row's place": ("rowid = 1", "unknown column 'rowid'"),
    "another table": ("events.click = 1", "unknown column 'events'"),
}


def log(directory: Path) -> None:
    row = {"user": "u", "item": "i", "time": 5, "click": 1}
    write_csv(directory / "events.csv", [row, {**row, "item": "j"}])


@pytest.mark.parametrize(
    ("case", "field"),
    [
        *((case, "positive") for case in PROGRAMS),
        *(("a subquery", field) for field in ("exclude", "rejected", "weight")),
    ],
)
def test_a_program_in_a_configuration_is_refused_in_one_line(tmp_path: Path, case: str, field: str) -> None:
    text, message = PROGRAMS[case]
    text = text.format(out=tmp_path / "out")
    log(tmp_path)
    config = experiment(tmp_path, split=RandomSplit(0, 0), **{field: text})
    message = message.replace("predicate", "weight") if field == "weight" else message
    with open_engine(tmp_path / "work", "1GB", 1, directories=[tmp_path]) as connection:
        (tmp_path / "work" / "samples").mkdir()
        (problem,) = validate_tables(connection, config, tmp_path / "work" / "samples").problems
    assert problem.startswith(f"data.{field}: ") and message in problem and "\n" not in problem
    assert [path.name for path in tmp_path.iterdir()] == ["events.csv"]


def test_prepare_refuses_what_validate_refuses(tmp_path: Path) -> None:
    log(tmp_path)
    config = experiment(tmp_path, split=RandomSplit(0, 0), positive="(select getenv('HOME')) = ''")
    with pytest.raises(DataError, match=r"^data\.positive: .* .a query inside a predicate is not allowed"):
        prepare_log(config, tmp_path / "run")
    assert not (tmp_path / "run" / "prepared").exists()


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("click = 1 and\n\"item\" <> 'j'", ["i"]),
        ("CLICK = 1 AND Item IN ('i', 'k')", ["i"]),
        ("try_strptime('2026-01-0' || time, '%Y-%m-%d') < TIMESTAMP '2026-01-06' and md5(item) = md5('i')", ["i"]),
        ("case when item like '%j' then false else coalesce(click, 0) = 1 end", ["i"]),
        ("item = '--' or item = ';' or item = '/*' or item = 'j'", ["j"]),
    ],
)
def test_expressions_are_evaluated(tmp_path: Path, text: str, used: list[str]) -> None:
    log(tmp_path)
    manifest = prepare_log(experiment(tmp_path, split=RandomSplit(0, 0), positive=text), tmp_path / "run")
    assert manifest["splits"]["train"]["positives"] == len(used)


def test_columns_that_differ_in_case_are_distinguished_or_refused() -> None:
    def faults(names: str, text: str) -> tuple[list[str], str]:
        with sql.connect() as connection:
            columns = {name: Column(f"c{position}", "BIGINT") for position, name in enumerate(names.split())}
            defined = ", ".join(f"{position + 1} AS c{position}" for position in range(len(columns)))
            connection.execute(f"CREATE TABLE events AS SELECT {defined}")
            data = experiment(Path(), positive=text).data
            found = UserExpressions.of(connection, data, Table("events", [], columns, list(columns)))
            return list(found.faults(connection)), found.named

    assert faults("a A", "a = 1") == ([], ', c0 AS "a"')
    assert faults("a A", "A = 2") == ([], ', c1 AS "A"')
    assert faults("abc", "ABC = 1") == ([], ', c0 AS "abc"')
    twins = "data.positive: columns 'A', 'a' differ in case only; SQL needs other names"
    assert faults("a A", "a < A") == ([twins], "")
    assert faults("Ab aB", "ab = 1")[0] == [
        "data.positive: columns 'Ab', 'aB' differ in case only; SQL needs other names"
    ]
    own = "data.positive: column '__label' has a name that twotower uses internally; rename it"
    assert faults("a __label", "__label = 1")[0] == [own]


def test_the_database_reaches_the_given_directories_only(tmp_path: Path) -> None:
    for name in ("in[side]", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text("x\n7\n")
    inside, outside = tmp_path / "in[side]" / "a.csv", tmp_path / "outside" / "a.csv"
    with open_engine(tmp_path / "work", "1GB", 1, directories=[inside.parent]) as connection:
        assert connection.execute(f"SELECT x FROM read_csv('{tmp_path}/in[[]side]/*.csv')").fetchall() == [(7,)]
        for statement in (
            f"SELECT * FROM read_csv('{outside}')",
            f"SELECT * FROM '{outside}'",
            f"SELECT * FROM read_text('{inside.parent}/../outside/a.csv')",
            f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
            f"ATTACH '{tmp_path}/other.db'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
            "SET allowed_directories = ['/']",
            "SET autoload_known_extensions = true",
        ):
            with pytest.raises(Exception, match=r"disabled|locked|Cannot|does not exist"):
                connection.execute(statement)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in[side]", "outside"]
