"""Flags shared by several commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from absl import flags
from absl.flags import FlagValues

from twotower_tf.errors import ConfigError
from twotower_tf.retrieval.limits import MAX_K

if TYPE_CHECKING:
    from twotower_tf.prepare.spark.spark_session import SparkOptions


def config(values: FlagValues, help: str = "configuration file: a .py with get_config(), or a config.json") -> None:
    """Defines `--config` and `--set`."""
    flags.DEFINE_string("config", None, help, flag_values=values)
    flags.DEFINE_multi_string(
        "set", [], "override a field, e.g. --set train.epochs=3; may be repeated", flag_values=values
    )


def run_dir(values: FlagValues, default: str | None = None) -> None:
    """Defines `--run_dir`."""
    flags.DEFINE_string(
        "run_dir", default, "run directory: configuration, prepared data, checkpoints, metrics", flag_values=values
    )


def export_dir(values: FlagValues, default: str | None = None) -> None:
    """Defines `--export_dir`."""
    flags.DEFINE_string(
        "export_dir", default, "export directory: contains one directory per version of the bundle", flag_values=values
    )


def version(values: FlagValues) -> None:
    """Defines `--version` of the bundle to read."""
    flags.DEFINE_integer("version", None, "version of the bundle (default: the newest)", flag_values=values)


def overwrite(values: FlagValues) -> None:
    """Defines `--overwrite`."""
    flags.DEFINE_bool(
        "overwrite",
        False,
        "replace a model of another configuration in --run_dir; otherwise that is an error",
        flag_values=values,
    )


def preparation(values: FlagValues) -> None:
    """Defines the flags of `prepare`: engine, memory, threads, incremental runs."""
    flags.DEFINE_enum(
        "engine", "duckdb", ["duckdb", "spark"], "engine that reads and joins the tables", flag_values=values
    )
    flags.DEFINE_string(
        "memory_limit",
        "4GB",
        "approximate memory of the command, beyond which it spills to disk; with --engine=spark, memory of each task",
        flag_values=values,
    )
    flags.DEFINE_integer("threads", 0, "threads DuckDB may use; 0: all cores", lower_bound=0, flag_values=values)
    flags.DEFINE_string(
        "since",
        "",
        "previous run directory to continue from: only event files that it has not read are added",
        flag_values=values,
    )
    spark_flags(values)


def preparation_arguments(values: FlagValues, spark: SparkOptions | None) -> dict[str, Any]:
    """Returns the arguments of `Pipeline.prepare` that the flags of `preparation` give."""
    return {
        "memory_limit": values.memory_limit,
        "threads": values.threads,
        "spark": spark,
        "since": values.since,
    }


def spark_flags(values: FlagValues) -> None:
    """Defines `--spark_master` and `--spark_conf`."""
    flags.DEFINE_string(
        "spark_master",
        "",
        "Spark master: local[*], spark://HOST:PORT, ... (default: the setting of spark-submit)",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "spark_conf",
        [],
        "Spark setting, e.g. --spark_conf spark.executor.memory=8g; may be repeated",
        flag_values=values,
    )


def spark(values: FlagValues) -> SparkOptions | None:
    """Returns the Spark options with `--engine=spark`, otherwise None.

    Raises:
        ConfigError: for a Spark flag with another engine, or a `--spark_conf` that is not NAME=VALUE.
    """
    from twotower_tf.prepare.spark.spark_session import SparkOptions

    if values.engine != "spark":
        for flag in ("spark_master", "spark_conf"):
            if getattr(values, flag):
                raise ConfigError(f"--{flag}: needs --engine=spark; got --engine={values.engine}")
        return None
    pairs = [setting.partition("=") for setting in values.spark_conf]
    for setting, (name, equals, _) in zip(values.spark_conf, pairs, strict=True):
        if not name or not equals:
            raise ConfigError(
                f"--spark_conf: invalid value {setting!r} (expected NAME=VALUE, e.g. spark.executor.memory=8g)"
            )
    return SparkOptions(values.spark_master, {name: value for name, _, value in pairs})


def new_version(values: FlagValues) -> None:
    """Defines `--version` and `--keep` of the version to publish."""
    flags.DEFINE_integer(
        "version", None, "number of the new version (default: UTC time, larger than the newest)", flag_values=values
    )
    flags.DEFINE_integer("keep", 0, "number of versions to keep; 0 keeps all", lower_bound=0, flag_values=values)


def publication(values: FlagValues) -> None:
    """Defines the flags of `export`."""
    new_version(values)
    flags.DEFINE_multi_enum(
        "format",
        ["tsv"],
        ["tsv", "parquet", "npy"],
        "file formats of the item vectors; item_embeddings.tsv is always written",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "active_days",
        0,
        "export only items with an event in the last N days of the log; 0: all items",
        lower_bound=0,
        flag_values=values,
    )


def publication_arguments(values: FlagValues) -> dict[str, Any]:
    """Returns the arguments of `Pipeline.export` that the flags of `publication` give."""
    return {
        "version": values.version,
        "keep": values.keep,
        "active_days": values.active_days,
        "formats": values.format,
    }


def top_k(values: FlagValues, default: int = 10) -> None:
    """Defines `--k` and its bound `--max_k`."""
    flags.DEFINE_integer("k", default, "number of items to return", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("max_k", MAX_K, "largest --k that is allowed", lower_bound=1, flag_values=values)


def check_k(values: FlagValues) -> None:
    """Checks `--k` against `--max_k` before anything is loaded.

    Raises:
        ConfigError: if it is larger.
    """
    if values.k > values.max_k:
        raise ConfigError(f"--k: invalid value {values.k} (expected 1 to {values.max_k}); raise --max_k for more")


def names(values: FlagValues) -> None:
    """Defines `--names`."""
    flags.DEFINE_bool("names", False, "add the names of items to the answers", flag_values=values)


def item_filters(values: FlagValues) -> None:
    """Defines `--filter` and `--blocklist`, which restrict the items that may be returned."""
    flags.DEFINE_string(
        "filter",
        "",
        "SQL predicate over the catalogue's columns that every returned item satisfies, e.g. \"country = 'DE'\"",
        flag_values=values,
    )
    flags.DEFINE_string(
        "blocklist",
        None,
        "file of item ids, one per line, that are never returned (default: blocklist.txt in the export directory)",
        flag_values=values,
    )
