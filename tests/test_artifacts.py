"""Files appear whole or not at all, and are rejected where twotower did not write them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from twotower_tf import artifacts
from twotower_tf.errors import ArtifactError


class Killed(BaseException):
    """Stands for a process that ends in the middle."""


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with pytest.raises(Killed), artifacts.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise Killed
    assert list(path.parent.iterdir()) == []
    artifacts.write_text(path, "whole")
    with pytest.raises(Killed), artifacts.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise Killed
    assert [(entry.name, entry.read_text()) for entry in path.parent.iterdir()] == [("file.txt", "whole")]


def test_a_directory_appears_by_one_rename(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with artifacts.atomic_directory(target) as temporary:
        (temporary / "part").write_text("1")
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".tmp-bundle-")
        assert not target.exists()
    assert (target / "part").read_text() == "1"
    with pytest.raises(Killed), artifacts.atomic_directory(target, replace=True) as temporary:
        (temporary / "part").write_text("2")
        raise Killed
    assert (target / "part").read_text() == "1"
    with artifacts.atomic_directory(target, replace=True) as temporary:
        (temporary / "other").write_text("3")
    assert [path.name for path in target.iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_published_directory_is_never_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(ArtifactError) as error, artifacts.atomic_directory(tmp_path / "bundle"):
        pass
    assert str(error.value) == f"{tmp_path}/bundle: exists already and is never overwritten"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".tmp-prepared-0123456789ab").mkdir()
    (tmp_path / ".tmp-prepared-0123456789ab" / "part").write_text("half")
    others = [".tmp-prepared-2-0123456789ab", ".tmp-prepared-abc", ".tmp-train.json-0123456789ab"]
    for name in others:
        (tmp_path / name).write_text("of another")
    with artifacts.atomic_directory(tmp_path / "prepared"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [*others, "prepared"]


def test_json_is_read_back_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    artifacts.write_json(path, {"schema_version": 1, "name": "Ünï"})
    assert path.read_text(encoding="utf-8") == '{\n  "schema_version": 1,\n  "name": "Ünï"\n}\n'
    assert artifacts.read_json(path, "run directory", 1) == {"schema_version": 1, "name": "Ünï"}
    with pytest.raises(ArtifactError) as error:
        artifacts.read_json(path, "run directory", 2)
    assert str(error.value) == (
        f"{path}: invalid schema_version 1 (expected 2, which this version of twotower_tf reads); "
        "write it again with this version"
    )


def test_json_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    artifacts.write_json(path, {"recall": float("nan"), "ks": [1.5, float("inf")], "deep": {"x": (-float("inf"),)}})
    assert artifacts.read_json(path, "run directory") == {"recall": None, "ks": [1.5, None], "deep": {"x": [None]}}
    for text in ('{"recall": NaN}', '{"recall": [-Infinity]}'):
        path.write_text(text)
        with pytest.raises(ArtifactError, match=r"metrics.json: damaged: (NaN|-Infinity) is not a JSON number"):
            artifacts.read_json(path, "run directory")


def test_json_without_an_end_to_its_depth_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}")
    with pytest.raises(ArtifactError) as caught:
        artifacts.read_json(path, "run directory")
    assert str(caught.value) == f"{path}: damaged: nested too deeply"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; {root} is not a twotower run directory, or its command did not finish"),
        (b"{", "damaged: "),
        (b"[1]", "damaged: expected a JSON object, got list"),
        (b"\xff", "cannot be read: "),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as error:
        artifacts.read_json(path, "run directory")
    assert str(error.value).startswith(f"{path}: {message.format(root=tmp_path)}")


def test_fingerprints_depend_on_content_only(tmp_path: Path) -> None:
    assert artifacts.fingerprint({"a": 1, "b": [2.5, None]}) == artifacts.fingerprint({"b": [2.5, None], "a": 1})
    assert artifacts.fingerprint({"a": 1}) != artifacts.fingerprint({"a": 2})
    assert artifacts.fingerprint({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    assert artifacts.sha256_file(tmp_path / "file") == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_paths_of_a_run() -> None:
    run = artifacts.RunPaths(Path("run"))
    prepared = artifacts.PreparedPaths(run.prepared)
    assert prepared.manifest == Path("run/prepared/manifest.json")
    assert prepared.examples("train") == Path("run/prepared/examples/train")
    assert prepared.sequences("seen") == Path("run/prepared/sequences/seen.npy")
    assert prepared.sequence_users("seen") == Path("run/prepared/sequences/seen_users.npy")
