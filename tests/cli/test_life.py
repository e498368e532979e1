"""refresh, rollback, versions and publish at the command line: what they print, and how they refuse."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from twotower_tf import artifacts
from twotower_tf.bundle import manifest as bundle_manifest
from twotower_tf.bundle.bundle import seal
from twotower_tf.cli.main import main
from twotower_tf.stage_results import ExportResult


@pytest.fixture(scope="module")
def root(export_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("life") / "tiny"
    shutil.copytree(export_dir, place)
    return place


def out(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()


def test_a_bundle_is_refreshed_listed_and_rolled_back(
    root: Path, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (Path(trained[1].data.root) / "items.csv").read_text().splitlines()
    items = tmp_path / "items.csv"
    items.write_text("\n".join([lines[0], lines[1].replace("i00000", "brandnew")]) + "\n")
    (tmp_path / "gone.txt").write_text("i00001\n")
    flags = (f"--export_dir={root}", f"--items={items}", f"--delete={tmp_path}/gone.txt")
    assert out(capsys, "refresh", *flags, "--version=8") == [
        "items: 1 new, 0 changed, 1 gone, 0 with other columns only", "index: updated", f"{root}/8",
    ]  # fmt: skip
    assert out(capsys, "rollback", f"--export_dir={root}", "--to=7", "--version=9", "--keep=2") == [f"{root}/9"]
    listed = [json.loads(line) for line in out(capsys, "versions", f"--export_dir={root}")]
    assert [(each["version"], each["origin"], each["items"]) for each in listed] == [
        (8, "refresh of 7", 150), (9, "rollback of 7", 150),
    ]  # fmt: skip


def test_warnings_of_a_model_go_with_its_versions(
    export_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are in the manifest; the lines on standard output stay as programs read them."""
    shutil.copytree(export_dir / "7", tmp_path / "7")
    warning = {"name": "few_users", "text": "only 3 users"}
    manifest = json.loads((export_dir / "7" / "manifest.json").read_text())
    manifest["evaluation"] = {"split": "test", "metrics": {"recall@20": 0.25}, "warnings": [warning]}
    artifacts.write_json(tmp_path / "7" / "manifest.json", seal(manifest))
    assert main(["versions", f"--export_dir={tmp_path}"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["warnings"] == [warning]
    assert said.err == "version 7: warning: only 3 users [few_users]\n"
    assert ExportResult(tmp_path / "7", 7, skipped=True).warnings == [warning]
    assert ExportResult(export_dir / "7", 7, skipped=True).warnings == []
    assert json.loads(out(capsys, "versions", f"--export_dir={export_dir}")[0])["warnings"] == []


def test_a_version_keeps_the_warnings_of_its_run(tmp_path: Path) -> None:
    warning = {"name": "few_users", "text": "only 3 users"}
    artifacts.write_json(tmp_path / "metrics.json", {"metrics": {"recall@20": 0.25}, "warnings": [warning]})
    assert bundle_manifest.read_evaluation(tmp_path) == {"metrics": {"recall@20": 0.25}, "warnings": [warning]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("refresh --export_dir={root}", "--items or --delete is required: a table of items, or a file of"),
        ("refresh --export_dir={root} --items=x --mode=merge", "--mode=merge: invalid value (expected one of: upsert,"),
        ("refresh --export_dir={root} --items={root}/x.csv", "--items: no such file: {root}/x.csv"),
        ("refresh --export_dir={root} --items=x --max_removed=2", "--max_removed=2: invalid value (expected a number"),
        ("rollback --export_dir={root}", "--to is required: the earlier version"),
        ("rollback --export_dir={root} --to=3", "{root}: invalid version 3 (expected one of: "),
        ("publish --export_dir={root}", "--redis_url is required: redis://host:port/database"),
        ("publish --export_dir={root} --redis_url=localhost", "--redis_url: invalid URL 'localhost' (expected redis://"),
        ("export --run_dir=x --export_dir=y --format=csv", "--format=csv: invalid value (expected one of: tsv, "),
    ],
)  # fmt: skip
def test_refusals(root: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.format(root=root).split()) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"twotower {line.split()[0]}: {message.format(root=root)}"), said.err
