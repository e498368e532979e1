import json
import os
import shutil
from datetime import datetime, timezone

import pytest

from twotower_tf.bundle import bundle, export_root
from twotower_tf.errors import ArtifactError, ConfigError


def fake_version(root, version):
    path = root / str(version)
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({"schema_version": 1, "format": "twotower_tf bundle"}))
    (path / "saved_model.pb").write_text("x")


def refused(root):
    with pytest.raises(ArtifactError) as raised, export_root.lock_root(root):
        pass
    return str(raised.value)


def test_version_is_the_time_and_larger_than_the_newest(tmp_path):
    before = int(datetime.now(timezone.utc).strftime("%Y%m%d%H%M%S"))
    chosen = export_root.choose_version(tmp_path, None)
    assert before <= chosen <= before + 2 * 10**6
    fake_version(tmp_path, 30000101000000)
    assert export_root.choose_version(tmp_path, None) == 30000101000001


def test_version_as_asked(tmp_path):
    fake_version(tmp_path, 5)
    assert export_root.choose_version(tmp_path, 4) == 4
    with pytest.raises(ArtifactError, match=r"/5: exists already and is never overwritten; choose another"):
        export_root.choose_version(tmp_path, 5)
    for bad in (0, -1, 2**63):
        with pytest.raises(
            ConfigError, match=rf"--version: invalid version {bad} .expected a whole number from 1 to 2\^63 - 1"
        ):
            export_root.choose_version(tmp_path, bad)


def test_missing_empty_and_own_directories_are_taken(tmp_path):
    own = tmp_path / "own"
    fake_version(own, 1)
    for name in ("README.md", "blocklist.txt", ".gitignore", ".tmp-2-abc"):
        (own / name).write_text("")
    (own / "serving").mkdir()
    (tmp_path / "empty").mkdir()
    for root in (own, tmp_path / "empty", tmp_path / "new" / "deeper"):
        with export_root.lock_root(root):
            assert root.is_dir()


def test_foreign_directories_are_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    assert refused(tmp_path) == (
        f"{tmp_path}: invalid export directory (expected only bundle versions, got 'thesis.tex'); "
        "choose a new or empty directory"
    )
    assert (tmp_path / "thesis.tex").exists()


def test_another_programs_versions_are_foreign(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_text("x")
    assert "(expected only bundle versions, got '1')" in refused(tmp_path)


def test_a_file_is_no_directory(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert refused(file) == f"{file}: invalid export directory (expected a directory, got a file)"


def test_one_writer_at_a_time(tmp_path):
    with export_root.lock_root(tmp_path):
        message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: in use by process {os.getpid()} (")
    assert message.endswith("); wait until it has ended, or choose another directory")
    with export_root.lock_root(tmp_path):
        pass


def test_leftovers_of_a_killed_export_are_cleared(tmp_path):
    (tmp_path / ".tmp-7-abc" / "variables").mkdir(parents=True)
    (tmp_path / ".tmp-7-abc" / "saved_model.pb").write_text("half")
    with export_root.lock_root(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keep", "published", "left"),
    [(0, 4, [1, 2, 3, 4]), (1, 4, [4]), (3, 4, [2, 3, 4]), (9, 4, [1, 2, 3, 4]), (1, 2, [2, 4])],
)
def test_old_versions_are_removed(tmp_path, keep, published, left):
    for version in (1, 2, 3, 4):
        fake_version(tmp_path, version)
    removed = export_root.remove_old(tmp_path, keep, published)
    assert bundle.list_versions(tmp_path) == left
    assert sorted([*removed, *left]) == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(version) for version in left]


def test_an_old_version_that_is_a_link_loses_the_link_alone(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "manifest.json").write_text('{"format": "twotower_tf bundle"}')
    root = tmp_path / "root"
    root.mkdir()
    shutil.copytree(tmp_path / "elsewhere", root / "9")
    (root / "8").symlink_to(tmp_path / "elsewhere")
    assert export_root.remove_old(root, 1, 9) == [8]
    assert [path.name for path in root.iterdir()] == ["9"]
    assert (tmp_path / "elsewhere" / "manifest.json").is_file()
