"""Flags that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags
from absl.flags import FlagValues

from twotower_tf.errors import ConfigError
from twotower_tf.retrieval.limits import MAX_K

if TYPE_CHECKING:
    from twotower_tf.prepare.spark.spark_session import SparkOptions


def config(values: FlagValues, help: str = "configuration file: a .py with get_config(), or a config.json") -> None:
    """`--config` and the `--set` overrides that go with it."""
    flags.DEFINE_string("config", None, help, flag_values=values)
    flags.DEFINE_multi_string("set", [], "overrides one field, e.g. --set train.epochs=3", flag_values=values)


def run_dir(values: FlagValues, default: str | None = None) -> None:
    """`--run_dir`."""
    flags.DEFINE_string(
        "run_dir", default, "run directory: configuration, prepared data, checkpoints, metrics", flag_values=values
    )


def export_dir(values: FlagValues, default: str | None = None) -> None:
    """`--export_dir`."""
    flags.DEFINE_string(
        "export_dir", default, "export directory: holds one directory per version of the bundle", flag_values=values
    )


def version(values: FlagValues) -> None:
    """`--version` of a bundle that is read."""
    flags.DEFINE_integer("version", None, "version of the bundle; by default the newest", flag_values=values)


def overwrite(values: FlagValues) -> None:
    """`--overwrite`."""
    flags.DEFINE_bool(
        "overwrite",
        False,
        "replaces a model that --run_dir holds of another configuration, instead of refusing",
        flag_values=values,
    )


def preparation(values: FlagValues) -> None:
    """How `prepare` uses the machine."""
    flags.DEFINE_enum("engine", "duckdb", ["duckdb", "spark"], "what reads and joins the tables", flag_values=values)
    flags.DEFINE_string(
        "memory_limit",
        "4GB",
        "memory of the whole command, near enough; beyond it, it spills to disk; with --engine=spark, of each task",
        flag_values=values,
    )
    flags.DEFINE_integer("threads", 0, "threads DuckDB may use; 0: all cores", lower_bound=0, flag_values=values)
    flags.DEFINE_string(
        "since",
        "",
        "an earlier run directory that this one continues: only event files that it has not read become rows",
        flag_values=values,
    )
    spark_flags(values)


def spark_flags(values: FlagValues) -> None:
    """Where Spark runs."""
    flags.DEFINE_string(
        "spark_master",
        "",
        "where Spark runs: local[*], spark://HOST:PORT, ...; by default what spark-submit says",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "spark_conf", [], "a setting of Spark, e.g. --spark_conf spark.executor.memory=8g", flag_values=values
    )


def spark(values: FlagValues) -> SparkOptions | None:
    """Where Spark runs, with `--engine=spark`.

    Raises:
        ConfigError: for a flag of Spark's with another engine, or a `--spark_conf` that is no NAME=VALUE.
    """
    from twotower_tf.prepare.spark.spark_session import SparkOptions

    if values.engine != "spark":
        for flag in ("spark_master", "spark_conf"):
            if getattr(values, flag):
                raise ConfigError(f"--{flag}: needs --engine=spark; came --engine={values.engine}")
        return None
    pairs = [setting.partition("=") for setting in values.spark_conf]
    for setting, (name, equals, _) in zip(values.spark_conf, pairs, strict=True):
        if not name or not equals:
            raise ConfigError(f"--spark_conf: {setting!r} is not NAME=VALUE, such as spark.executor.memory=8g")
    return SparkOptions(values.spark_master, {name: value for name, _, value in pairs})


def new_version(values: FlagValues) -> None:
    """`--version` and `--keep` of a version that is published."""
    flags.DEFINE_integer(
        "version", None, "version to publish; by default the UTC time, and larger than the newest", flag_values=values
    )
    flags.DEFINE_integer("keep", 0, "versions to keep; 0 keeps all", lower_bound=0, flag_values=values)


def publication(values: FlagValues) -> None:
    """How `export` publishes."""
    new_version(values)
    flags.DEFINE_multi_enum(
        "format",
        ["tsv"],
        ["tsv", "parquet", "npy"],
        "files of the item vectors; item_embeddings.tsv is always among them",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "active_days",
        0,
        "only items seen in the last this many days of the log enter the bundle; 0: all",
        lower_bound=0,
        flag_values=values,
    )


def top_k(values: FlagValues, default: int = 10) -> None:
    """`--k` and its bound `--max_k`."""
    flags.DEFINE_integer("k", default, "answers wanted", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("max_k", MAX_K, "largest --k that is answered", lower_bound=1, flag_values=values)


def check_k(values: FlagValues) -> None:
    """Refuses a `--k` above `--max_k` before anything is loaded.

    Raises:
        ConfigError: naming both.
    """
    if values.k > values.max_k:
        raise ConfigError(f"--k: invalid value {values.k} (expected 1 to {values.max_k}); raise --max_k for more")


def gate(values: FlagValues) -> None:
    """`--filter` and `--blocklist`: which items may be answered."""
    flags.DEFINE_string(
        "filter",
        "",
        "a SQL expression over the catalogue's columns that every answer satisfies, e.g. \"country = 'DE'\"",
        flag_values=values,
    )
    flags.DEFINE_string(
        "blocklist",
        None,
        "file of item ids, one a line, that nobody may get; by default blocklist.txt in the export directory",
        flag_values=values,
    )
