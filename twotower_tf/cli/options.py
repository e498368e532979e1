"""Adds flags that several commands have, and reads their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twotower_tf.cli.command import Flags
from twotower_tf.errors import ConfigError
from twotower_tf.retrieval.limits import MAX_K

if TYPE_CHECKING:
    from twotower_tf.prepare.spark.spark_session import SparkOptions


def add_config(flags: Flags, help: str = "configuration file: a .py with get_config(), or a config.json") -> None:
    """Adds `--config` and `--set`."""
    flags.string("config", None, help)
    flags.multi_string("set", [], "override a field, e.g. --set train.epochs=3; may be repeated")


def add_run_dir(flags: Flags, default: str | None = None) -> None:
    flags.string("run_dir", default, "run directory: configuration, prepared data, checkpoints, metrics")


def add_export_dir(flags: Flags, default: str | None = None) -> None:
    flags.string("export_dir", default, "export directory: contains one directory per version of the bundle")


def add_version(flags: Flags) -> None:
    """Adds `--version` of the bundle to read."""
    flags.integer("version", None, "version of the bundle (default: the newest)")


def add_overwrite(flags: Flags) -> None:
    flags.bool("overwrite", False, "replace a model of another configuration in --run_dir; otherwise that is an error")


def add_preparation(flags: Flags) -> None:
    """Adds the flags of `prepare`: engine, memory, threads, incremental runs."""
    flags.enum("engine", "duckdb", ["duckdb", "spark"], "engine that reads and joins the tables")
    flags.string(
        "memory_limit",
        "4GB",
        "approximate memory of the command, beyond which it spills to disk; with --engine=spark, memory of each task",
    )
    flags.integer("threads", 0, "threads DuckDB may use; 0: all cores", lower_bound=0)
    flags.string(
        "since", "", "previous run directory to continue from: only event files that it has not read are added"
    )
    add_spark(flags)


def read_preparation(flags: Flags) -> dict[str, Any]:
    """Returns the arguments of `Pipeline.prepare`; raises as `read_spark` does."""
    spark = read_spark(flags)
    return {"memory_limit": flags.memory_limit, "threads": flags.threads, "spark": spark, "since": flags.since}


def add_spark(flags: Flags) -> None:
    """Adds `--spark_master` and `--spark_conf`."""
    flags.string(
        "spark_master", "", "Spark master: local[*], spark://HOST:PORT, ... (default: the setting of spark-submit)"
    )
    flags.multi_string("spark_conf", [], "Spark setting, e.g. --spark_conf spark.executor.memory=8g; may be repeated")


def read_spark(flags: Flags) -> SparkOptions | None:
    """Returns the Spark options with `--engine=spark`, otherwise None.

    Raises:
        ConfigError: for a Spark flag with another engine, or a `--spark_conf` that is not NAME=VALUE.
    """
    from twotower_tf.prepare.spark.spark_session import SparkOptions

    if flags.engine != "spark":
        for flag in ("spark_master", "spark_conf"):
            if getattr(flags, flag):
                raise ConfigError(f"--{flag}: needs --engine=spark; got --engine={flags.engine}")
        return None
    pairs = [setting.partition("=") for setting in flags.spark_conf]
    for setting, (name, equals, _) in zip(flags.spark_conf, pairs, strict=True):
        if not name or not equals:
            raise ConfigError(
                f"--spark_conf: invalid value {setting!r} (expected NAME=VALUE, e.g. spark.executor.memory=8g)"
            )
    return SparkOptions(flags.spark_master, {name: value for name, _, value in pairs})


def add_new_version(flags: Flags) -> None:
    """Adds `--version` and `--keep` of the version to publish."""
    flags.integer("version", None, "number of the new version (default: UTC time, larger than the newest)")
    flags.integer("keep", 0, "number of versions to keep; 0 keeps all", lower_bound=0)


def add_publication(flags: Flags) -> None:
    """Adds the flags of `export`."""
    add_new_version(flags)
    flags.multi_enum(
        "format",
        ["tsv"],
        ["tsv", "parquet", "npy"],
        "file formats of the item vectors; item_embeddings.tsv is always written",
    )
    flags.integer(
        "active_days", 0, "export only items with an event in the last N days of the log; 0: all items", lower_bound=0
    )


def read_publication(flags: Flags) -> dict[str, Any]:
    """Returns the arguments of `Pipeline.export`."""
    return {name: getattr(flags, name) for name in ("version", "keep", "active_days")} | {"formats": flags.format}


def add_top_k(flags: Flags) -> None:
    """Adds `--k` and its bound `--max_k`."""
    flags.integer("k", 10, "number of items to return", lower_bound=1)
    flags.integer("max_k", MAX_K, "largest --k that is allowed", lower_bound=1)


def check_k(flags: Flags) -> None:
    """Checks `--k` against `--max_k` before anything is loaded.

    Raises:
        ConfigError: if it is larger.
    """
    if flags.k > flags.max_k:
        raise ConfigError(f"--k: invalid value {flags.k} (expected 1 to {flags.max_k}); raise --max_k for more")


def add_names(flags: Flags) -> None:
    flags.bool("names", False, "add the names of items to the answers")


def add_item_filters(flags: Flags) -> None:
    """Adds `--filter` and `--blocklist`, which restrict the items that may be returned."""
    flags.string(
        "filter",
        "",
        "SQL predicate over the catalogue's columns that every returned item satisfies, e.g. \"country = 'DE'\"",
    )
    add_blocklist(flags)


def add_blocklist(flags: Flags) -> None:
    flags.string(
        "blocklist",
        None,
        "file of item ids, one per line, that are never returned (default: blocklist.txt in the export directory)",
    )
