"""Spark flags that do not fit together are reported before anything is written."""

from pathlib import Path

import pytest

from twotower_tf.cli.main import main
from twotower_tf.prepare.spark import spark_session

CONFIG = Path(__file__).resolve().parents[2] / "configs/quickstart.py"
BAD = {
    ("--spark_master=local[2]",): "--spark_master: needs --engine=spark; got --engine=duckdb",
    ("--spark_conf=a=b",): "--spark_conf: needs --engine=spark; got --engine=duckdb",
    ("--engine=spark", "--spark_conf=spark.executor.memory"): (
        "--spark_conf: invalid value 'spark.executor.memory' (expected NAME=VALUE, e.g. spark.executor.memory=8g)"
    ),
}


@pytest.mark.parametrize("flags", BAD)
def test_flags_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]) -> None:
    run_dir = tmp_path / "run"
    assert main(["prepare", f"--config={CONFIG}", f"--run_dir={run_dir}", *flags]) == 2
    assert BAD[flags] in capsys.readouterr().err
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("pyspark", "--engine=spark: pyspark is not installed; pip install 'twotower-tf[spark]'"),
        (
            "java",
            "--engine=spark: no Java found; Spark 4 needs Java 17 or later: apt-get install openjdk-17-jre-headless",
        ),
    ],
)
def test_what_spark_lacks(monkeypatch: pytest.MonkeyPatch, missing: str, message: str) -> None:
    monkeypatch.setattr(
        spark_session.importlib.util, "find_spec", lambda module: None if module == missing else object()
    )
    monkeypatch.setattr(spark_session.shutil, "which", lambda program: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(spark_session.ConfigError) as error:
        spark_session.check_installed()
    assert str(error.value).startswith(message)
