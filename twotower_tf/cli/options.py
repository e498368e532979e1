"""Flags that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from absl import flags
from absl.flags import FlagValues


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
    flags.DEFINE_enum("engine", "duckdb", ["duckdb"], "what reads and joins the tables", flag_values=values)
    flags.DEFINE_string("memory_limit", "4GB", "memory DuckDB may use before it spills to disk", flag_values=values)
    flags.DEFINE_integer("threads", 0, "threads DuckDB may use; 0: all cores", lower_bound=0, flag_values=values)


def publication(values: FlagValues) -> None:
    """How `export` publishes."""
    flags.DEFINE_integer(
        "version", None, "version to publish; by default the UTC time, and larger than the newest", flag_values=values
    )
    flags.DEFINE_integer("keep", 0, "versions to keep; 0 keeps all", lower_bound=0, flag_values=values)
    flags.DEFINE_integer(
        "active_days",
        0,
        "only items seen in the last this many days of the log enter the bundle; 0: all",
        lower_bound=0,
        flag_values=values,
    )


def top_k(values: FlagValues, default: int = 10) -> None:
    """`--k`."""
    flags.DEFINE_integer("k", default, "answers wanted", lower_bound=1, flag_values=values)
