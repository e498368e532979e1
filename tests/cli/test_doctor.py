"""`doctor` reports the installed versions, and fails if a requirement is missing."""

from types import SimpleNamespace

import pytest

from twotower_tf.cli import doctor
from twotower_tf.cli.main import main

VERSIONS = {
    "tensorflow": "2.20.0",
    "tf-keras": "2.20.1",
    "tensorboard": "2.20.0",
    "tensorflow-serving-api": "2.20.0",
    "scann": "1.4.2",
    **{name: "1.0" for name in doctor.REQUIRED_PACKAGES},
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine with just these packages, where ScaNN loads."""
    versions = dict(VERSIONS)
    monkeypatch.setattr(doctor, "_version", versions.get)
    monkeypatch.setattr(doctor, "_import_in_a_process", lambda name: SimpleNamespace(returncode=0, stderr=""))
    return versions


def test_all_is_well(machine: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "  tensorflow              2.20.0\n" in out
    assert "  pyspark                 not installed; pip install twotower-tf[spark]\n" in out
    assert out.endswith("ScaNN loads with this TensorFlow\nall requirements are met\n")
    assert " cores; " in out and "  memory " in out and "  disk of the working directory " in out


def test_something_is_missing(machine: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    del machine["duckdb"]
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "twotower doctor: duckdb is missing\n"


def test_a_version_that_does_not_fit(machine: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    machine["tensorflow"] = "2.21.0"
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "twotower doctor: tensorflow: unsupported version 2.21.0 (expected 2.20.*)\n"


def test_a_pair_that_dies_on_loading(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    died = SimpleNamespace(returncode=1, stderr="Traceback\nImportError: undefined symbol: _ZN4absl\n")
    monkeypatch.setattr(doctor, "_import_in_a_process", lambda name: died)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == (
        "twotower doctor: ScaNN does not load with this TensorFlow: ImportError: undefined symbol: _ZN4absl\n"
    )
