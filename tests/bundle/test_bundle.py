import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf import artifacts, config
from twotower_tf.bundle.bundle import Bundle, list_versions, seal
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, IndexConfig
from twotower_tf.errors import ArtifactError
from twotower_tf.index.backends import build_index

EXPERIMENT = ExperimentConfig(
    name="small", data=DataConfig(), item_features=(Hash("item_id", 100),), user_features=(Hash("user_id", 100),)
)


def write_bundle(root, version, angle=0.0, **changes):
    """A bundle of three items in the plane, with a stand-in for each file that other packages write."""
    path = root / str(version)
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"a user tower")
    (path / "variables/variables.index").write_bytes(b"weights")
    (path / "config.json").write_text(config.to_json(EXPERIMENT))
    ids = ["a", "b", "c"]
    pq.write_table(pa.table({"item_id": ids, "item_name": ["A", "B", "C"]}), path / "items.parquet")
    turned = np.array([0.0, 1.0, 2.0]) + angle
    vectors = np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)
    searcher = build_index(ids, vectors, IndexConfig(kind="exact"))
    searcher.save(path / "index")
    files = {
        file.relative_to(path).as_posix(): artifacts.sha256_file(file) for file in path.rglob("*") if file.is_file()
    }
    manifest = {
        "schema_version": 2,
        "format": "twotower_tf bundle",
        "version": version,
        "created": "2026-01-01T00:00:00+00:00",
        "origin": {"kind": "export"},
        "name": "small",
        "config_fingerprint": "0",
        "items": 3,
        "vector_dim": 2,
        "vectors_fingerprint": searcher.items.fingerprint,
        "weights_fingerprint": {"user": "1", "item": "2"},
        "tables": {"user": {"user_id": {"shape": [100, 2], "bytes": 800}}, "item": {}},
        "signatures": {"user": ["serving_default"], "item": ["serving_default"]},
        "similarity": "cosine",
        "index": {"kind": "exact", "parameters": {}, "recall": {"measured": 1.0}},
        "evaluation": None,
        "libraries": {},
        "canaries": [{"user": {"user_id": "u1"}, "item_ids": ["a", "b"], "scores": [1.0, 0.5]}],
        "canary_k": 2,
        "formats": ["tsv"],
        "files": files,
        **changes,
    }
    artifacts.write_json(path / "manifest.json", seal(manifest))
    return path


def test_versions_are_our_integer_directories_in_order(tmp_path):
    for version in (9, 10, 20260101000000):
        write_bundle(tmp_path, version)
    shutil.copytree(tmp_path / "9", tmp_path / ".tmp-11-abc")
    shutil.copytree(tmp_path / "9", tmp_path / "0012")
    shutil.copytree(tmp_path / "9", tmp_path / "latest")
    (tmp_path / "13").mkdir()  # somebody's copy, half done
    (tmp_path / "14").mkdir()
    (tmp_path / "14/manifest.json").write_text('{"name": "a browser extension"}')
    (tmp_path / "15").write_text("a file")
    assert list_versions(tmp_path) == [9, 10, 20260101000000]
    assert list_versions(tmp_path / "nowhere") == []


def test_opens_the_newest_or_the_one_asked_for(tmp_path):
    write_bundle(tmp_path, 9)
    write_bundle(tmp_path, 10, angle=1.0)
    assert Bundle.open(tmp_path).version == 10
    bundle = Bundle.open(tmp_path, 9)
    assert (bundle.version, bundle.path, bundle.config) == (9, tmp_path / "9", EXPERIMENT)
    assert bundle.items["item_name"].to_pylist() == ["A", "B", "C"]
    east = np.float32([[1, 0]])
    assert bundle.searcher().search(east, 2).item_ids.tolist() == [["a", "b"]]  # at 0 and 1 radian
    assert Bundle.open(tmp_path).searcher().search(east, 1).scores[0, 0] == pytest.approx(np.cos(1.0))


@pytest.mark.parametrize("check", ["full", "light"])
def test_moved_and_renamed_roots_answer_the_same(tmp_path, check):
    write_bundle(tmp_path / "export", 9)
    shutil.move(tmp_path / "export", tmp_path / "elsewhere")
    found = Bundle.open(tmp_path / "elsewhere", check=check).searcher().search(np.float32([[0, 1]]), 3)
    assert found.item_ids.tolist() == [["c", "b", "a"]]  # sin 2 = 0.91, sin 1 = 0.84, sin 0


def test_every_changed_file_is_refused_by_name(tmp_path):
    path = write_bundle(tmp_path, 9)
    names = list(json.loads((path / "manifest.json").read_text())["files"])
    assert {"saved_model.pb", "variables/variables.index", "index/vectors.npy", "index/item_ids"} <= set(names)
    for name in names:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[:-1])
        with pytest.raises(ArtifactError, match=f"/9/{name}: damaged: its sha256 is .*, manifest.json states"):
            Bundle.open(tmp_path)
        (path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 4]))
        with pytest.raises(ArtifactError, match=f"/9/{name}: damaged"):
            Bundle.open(tmp_path)
        (path / name).unlink()
        for check in ("full", "light"):
            with pytest.raises(ArtifactError, match=f"/9/{name}: missing;"):
                Bundle.open(tmp_path, check=check)
        (path / name).write_bytes(content)
    Bundle.open(tmp_path)


def test_a_damaged_manifest_is_not_passed_over_for_an_older_version(tmp_path):
    write_bundle(tmp_path, 8)
    path = write_bundle(tmp_path, 9)
    (path / "manifest.json").write_text('{"schema_version": 1, "for')
    with pytest.raises(ArtifactError, match=r"/9/manifest.json: damaged: "):
        Bundle.open(tmp_path)
    (path / "manifest.json").write_text('{"schema_version": 2, "format": "twotower_tf bundle", "version": 9}')
    with pytest.raises(ArtifactError, match="manifest.json: damaged: 'created': field required; export again"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("was", [b'"format"', b"twotower_tf bundle"])
def test_a_flipped_bit_in_the_format_does_not_hide_a_version(tmp_path, was):
    write_bundle(tmp_path, 8)
    path = write_bundle(tmp_path, 9) / "manifest.json"
    content = path.read_bytes()
    place = content.index(was) + 3
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ArtifactError, match=r"/9/manifest.json: invalid format .* .expected 'twotower_tf bundle'"):
        Bundle.open(tmp_path)


def test_a_manifest_whose_content_changed_is_refused(tmp_path):
    path = write_bundle(tmp_path, 9, evaluation={"recall@20": 0.25}) / "manifest.json"
    path.write_text(path.read_text().replace("0.25", "0.75"))
    with pytest.raises(ArtifactError, match="/9/manifest.json: damaged: its content is not that of its manifest_fing"):
        Bundle.open(tmp_path, check="light")


def test_light_checks_small_files_and_leaves_the_rest_to_their_readers(tmp_path):
    path = write_bundle(tmp_path, 9)
    (path / "saved_model.pb").write_bytes(b"another tower")
    bundle = Bundle.open(tmp_path, check="light")
    with pytest.raises(ArtifactError, match="saved_model.pb: damaged"):
        bundle.check_files("saved_model.pb", "variables")
    bundle.check_files("variables")
    with pytest.raises(ArtifactError, match="/9/assets: .*manifest.json does not list it"):
        bundle.check_files("assets")
    (path / "index/vectors.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match="index/vectors.npy: damaged"):
        bundle.searcher()
    (path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="/9/config.json: damaged"):
        Bundle.open(tmp_path, check="light")


@pytest.mark.parametrize("check", ["full", "light"])
def test_an_index_of_another_model_is_refused_naming_both(tmp_path, check):
    write_bundle(tmp_path, 9, vectors_fingerprint="abc")
    with pytest.raises(
        ArtifactError, match="the index has fingerprint [0-9a-f]{64}, manifest.json states .* abc; they"
    ):
        Bundle.open(tmp_path, check=check)
    write_bundle(tmp_path, 10, vector_dim=32)
    with pytest.raises(
        ArtifactError, match="the index has dim 2, manifest.json states vector_dim 32; they are of diff"
    ):
        Bundle.open(tmp_path, check=check)


def test_an_index_swapped_between_versions_is_refused(tmp_path):
    old, new = write_bundle(tmp_path, 9), write_bundle(tmp_path, 10, angle=0.001)
    shutil.rmtree(new / "index")
    shutil.copytree(old / "index", new / "index")
    with pytest.raises(ArtifactError, match=r"/10/index/[a-z_.]+: damaged"):
        Bundle.open(tmp_path, check="light")


def test_what_is_no_export_directory_is_said(tmp_path):
    with pytest.raises(ArtifactError, match="at least one bundle version.; run `twotower export"):
        Bundle.open(tmp_path)
    path = write_bundle(tmp_path, 9)
    with pytest.raises(ArtifactError, match="invalid version 7 .expected one of: 9"):
        Bundle.open(tmp_path, 7)
    with pytest.raises(ArtifactError, match=f"/9: is a version itself; give the export directory {tmp_path}"):
        Bundle.open(path)
    path.rename(tmp_path / "12")
    with pytest.raises(ArtifactError, match="/12: invalid directory name .expected 9, the manifest's version"):
        Bundle.open(tmp_path)


def test_a_bundle_of_another_schema_version_is_refused(tmp_path):
    write_bundle(tmp_path, 9, schema_version=1)
    with pytest.raises(ArtifactError, match="invalid schema_version 1 .expected 2, "):
        Bundle.open(tmp_path)


def test_items_that_do_not_fit_the_manifest_are_refused(tmp_path):
    write_bundle(tmp_path, 9)
    bundle = Bundle.open(tmp_path)
    pq.write_table(pa.table({"item_id": ["a"]}), tmp_path / "9/items.parquet")
    with pytest.raises(ArtifactError, match="items.parquet: 1 rows, the manifest states 3 items"):
        _ = bundle.items


def test_reading_a_bundle_imports_no_tensorflow(tmp_path, run_python):
    write_bundle(tmp_path, 9)
    code = (
        f"import sys; from twotower_tf.bundle.bundle import Bundle; Bundle.open({str(tmp_path)!r}).searcher();"
        "print('tensorflow' in sys.modules)"
    )
    assert run_python(code).strip() == "False"
