"""What the tests of preparation share: one Spark for all of them."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator

import pytest

from twotower_tf.data.spark.session import SparkOptions


@pytest.fixture(scope="session")
def spark_installed() -> None:
    """Skips where Spark cannot be started."""
    for module in ("pyspark", "sqlglot"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install 'twotower-tf[spark]'")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("needs Java 17: apt-get install openjdk-17-jre-headless")


@pytest.fixture(scope="session")
def spark(spark_installed: None) -> Iterator[SparkOptions]:
    """A small Spark in this process, which the preparations share."""
    from twotower_tf.data.spark.session import start

    conf = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.adaptive.coalescePartitions.enabled": "false",  # little as there is, it is parted
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.log.level": "ERROR",
        # so little is run that compiling it takes longer
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    session = start(SparkOptions("local[2]", conf))
    yield SparkOptions()
    session.stop()
