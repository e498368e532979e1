"""Opens the Spark session of a preparation: on an existing cluster, or on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twotower_tf import interpreter
from twotower_tf.errors import ConfigError

# of SQL alone; the session's own copy, so that a notebook's session keeps its settings
_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.adaptive.enabled": "true",
        "spark.sql.adaptive.skewJoin.enabled": "true",
        # also where the next join has the same key, and its rows go through one more exchange
        "spark.sql.adaptive.forceOptimizeSkewedJoin": "true",
        # no side of a join is sent to every executor: each may grow with the vocabulary
        "spark.sql.autoBroadcastJoinThreshold": "-1",
        "spark.sql.adaptive.autoBroadcastJoinThreshold": "-1",
    }
)


@dataclass(frozen=True)
class SparkOptions:
    """Options of a Spark session.

    Attributes:
        master: `local[*]`, `spark://HOST:PORT`, `yarn`, ...; "" uses that of spark-submit or spark-defaults.conf.
        conf: Spark's own settings, by name.
    """

    master: str = ""
    conf: Mapping[str, str] = field(default_factory=dict)


def check_installed() -> None:
    """Checks that Spark can start on this machine.

    Raises:
        ConfigError: naming what is missing and how to install it.
    """
    for module in ("pyspark", "sqlglot"):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"--engine=spark: {module} is not installed; pip install 'twotower-tf[spark]'")
    home = os.environ.get("JAVA_HOME")
    if not shutil.which("java") and not (home and (Path(home) / "bin" / "java").is_file()):
        raise ConfigError(
            "--engine=spark: no Java found; Spark 4 needs Java 17 or later: apt-get install openjdk-17-jre-headless, "
            "or set JAVA_HOME"
        )


def start_session(options: SparkOptions) -> Any:
    """Returns the `SparkSession` with these options; where a Spark context runs already, its session.

    Raises:
        ConfigError: where Spark is not installed, or cannot be started.
    """
    check_installed()
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's default lacks the packages of this environment
    builder: Any = SparkSession.builder.appName("twotower prepare")
    builder = builder.config("spark.ui.showConsoleProgress", "false")  # twotower shows its own progress
    builder = builder.config(f"spark.executorEnv.{interpreter.SAFE_PATH}", "1")
    if options.master:
        builder = builder.master(options.master)
    for name, value in options.conf.items():
        builder = builder.config(name, value)
    try:
        return builder.getOrCreate()
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--spark_master={options.master}: Spark cannot be started: {reason}") from None


@contextlib.contextmanager
def open_session(options: SparkOptions) -> Iterator[Any]:
    """Opens a session: of a Spark context that runs already, and is left running, or of one that is stopped afterwards.

    Raises:
        ConfigError: where Spark is not installed, or cannot be started with these options.
    """
    check_installed()
    from pyspark import SparkContext

    started = SparkContext._active_spark_context is None
    session = start_session(options)
    try:
        yield session
    finally:
        if started:
            session.stop()


@contextlib.contextmanager
def open_spark(options: SparkOptions, work: Path, memory_limit: str, directories: Iterable[Path]) -> Iterator[Any]:
    """Opens a `SparkConnection`; its tables are in the new directory `work`, which is removed afterwards.

    The driver reads files below `work` and `directories`, no others.

    Raises:
        ConfigError: where Spark is not installed, or cannot be started with these options.
    """
    with open_session(options) as base:
        from twotower_tf.prepare.spark import spark_tasks
        from twotower_tf.prepare.spark.executors import Executors
        from twotower_tf.prepare.spark.spark_connection import SparkConnection
        from twotower_tf.tables.duckdb_engine import open_engine

        session = base.newSession()
        for name, value in _SETTINGS.items():
            session.conf.set(name, value)
        work.mkdir()
        executors = Executors(session, work, memory_limit)
        try:
            with open_engine(work / "driver", memory_limit, 0, directories=[work, *directories]) as shadow:
                yield SparkConnection(session, executors, shadow)
        finally:
            spark_tasks.close_worker_engine(executors.local)
            shutil.rmtree(work, ignore_errors=True)
