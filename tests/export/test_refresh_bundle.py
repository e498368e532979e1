"""A version with another catalogue and the same model, against what plain TensorFlow and NumPy make of its files."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from twotower_tf.bundle.bundle import Bundle, list_versions
from twotower_tf.bundle.loaded_tower import Tower
from twotower_tf.bundle.rollback_version import rollback
from twotower_tf.bundle.verify_bundle import verify
from twotower_tf.config import IndexConfig
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.export import refresh_bundle as refreshing
from twotower_tf.export.export_bundle import export
from twotower_tf.export.refresh_bundle import describe_refresh, refresh
from twotower_tf.features.inputs import rows_to_arrays, side_inputs
from twotower_tf.index.scann.scann_searcher import ScannSearcher


@pytest.fixture
def root(export_dir, tmp_path):
    shutil.copytree(export_dir, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture(scope="module")
def rows(trained):
    """The item table as it was, a dict per row."""
    with (Path(trained[1].data.root) / "items.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def tsv(path):
    lines = [line.split("\t") for line in (path / "item_embeddings.tsv").read_text(encoding="utf-8").splitlines()]
    return {line[0]: np.array(line[1].split(","), np.float32) for line in lines}


@pytest.fixture(scope="module")
def done(export_dir, rows, tmp_path_factory):
    """One new item, one with another price, one with another title, two that leave."""
    place = tmp_path_factory.mktemp("refreshed")
    root = place / "tiny"
    shutil.copytree(export_dir, root)
    listed = [
        rows[5] | {"item_id": "brandnew", "price": "9.5", "title": "Brand New"},
        rows[3] | {"price": "77.25"},
        rows[8] | {"title": "Other Title"},
        rows[9],
    ]
    (place / "gone.txt").write_text("i00000\ni00149\nnever\n")
    embedded = []
    real = Tower.vectors

    def counted(self, arrays):
        embedded.append((self._side, len(next(iter(arrays.values())))))
        return real(self, arrays)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tower, "vectors", counted)
        result = refresh(root, table(place / "items.csv", listed), delete=place / "gone.txt", version=12)
    return root, result, dict(reversed(embedded))  # the first of each: verification calls the towers, too


def test_only_new_and_changed_items_are_embedded(done):
    root, result, embedded = done
    assert result.path == root / "12" and result.published and list_versions(root) == [7, 12]
    assert embedded["item"] == 2
    changes = result.changes
    counts = (changes.added, changes.changed, changes.restated, changes.removed, changes.unknown)
    assert counts == (1, 1, 1, 2, 1)
    assert describe_refresh(result) == [
        "items: 1 new, 1 changed, 2 gone, 1 with other columns only",
        "1 ids to delete were not in the catalogue",
        "index: updated",
    ]


def test_vectors_are_those_of_the_item_tower_and_others_stay_bit_by_bit(done, rows):
    root, _, _ = done
    before, after = tsv(root / "7"), tsv(root / "12")
    kept = [item for item in before if item not in ("i00000", "i00149")]
    assert list(after) == ["brandnew", *kept]  # in the first row, which i00000 had
    tower = tf.saved_model.load(str(root / "7" / "item_tower")).signatures["serving_default"]
    for item, price, category in (("brandnew", 9.5, rows[5]["category"]), ("i00003", 77.25, rows[3]["category"])):
        answer = tower(
            item_id=tf.constant([item]), category=tf.constant([category]), price=tf.constant([price], tf.float32)
        )
        np.testing.assert_allclose(after[item], answer["ad_vector"][0], atol=1e-6)
    assert np.abs(after["i00003"] - before["i00003"]).max() > 1e-4
    for item in after:
        if item not in ("brandnew", "i00003"):
            np.testing.assert_array_equal(after[item], before[item])
    names = Bundle.open(root).items.to_pylist()
    shown = {each["item_id"]: each["item_name"] for each in names}
    assert (shown["i00008"], shown["brandnew"]) == ("Other Title", "Brand New")


def test_towers_answer_as_the_new_version_and_recommend_from_the_new_catalogue(done):
    root, _, _ = done
    bundle = Bundle.open(root)
    people = [canary["user"] for canary in bundle.manifest["canaries"]]
    arrays = rows_to_arrays(side_inputs(bundle.config, "user"), people)
    user_tower = tf.saved_model.load(str(root / "12"))
    arguments = {name: tf.constant(value) for name, value in arrays.items()}
    users = user_tower.signatures["serving_default"](**arguments)
    answer = user_tower.signatures["recommend"](**arguments)
    before = tf.saved_model.load(str(root / "7")).signatures["serving_default"](**arguments)
    np.testing.assert_array_equal(users["user_vector"], before["user_vector"])
    assert set(users["model_version"].numpy()) == set(answer["model_version"].numpy()) == {12}
    assert set(before["model_version"].numpy()) == {7}
    vectors = tsv(root / "12")
    ids, items = list(vectors), np.stack(list(vectors.values())).astype(np.float64)
    scores = (users["user_vector"].numpy().astype(np.float64) @ items.T).astype(np.float32)
    for row, canary in enumerate(bundle.manifest["canaries"]):
        best = np.argsort(-scores[row], kind="stable")
        assert [text.decode() for text in answer["item_ids"][row].numpy()] == [ids[each] for each in best[:30]]
        assert canary["item_ids"] == [ids[each] for each in best[:10]]
        np.testing.assert_allclose(canary["scores"], scores[row][best[:10]], atol=1e-6)


def test_the_manifest_says_where_the_version_comes_from_and_verify_passes(done):
    root, _, _ = done
    old, new = (json.loads((root / version / "manifest.json").read_text()) for version in ("7", "12"))
    assert new["origin"] == {
        "kind": "refresh", "version": 7, "added": 1, "changed": 1, "restated": 1, "removed": 2, "index": "updated",
    }  # fmt: skip
    assert new["version"] == 12 and new["items"] == 149
    for same in ("weights_fingerprint", "config_fingerprint", "evaluation", "tables", "signatures", "canary_k"):
        assert new[same] == old[same]
    assert new["vectors_fingerprint"] != old["vectors_fingerprint"]
    checks = "\n".join(verify(root))
    assert "item tower: gives the vectors of 149 items" in checks and "4 requests, all answered" in checks
    verify(root, 7)  # as it was
    shared = "item_tower/variables/variables.data-00000-of-00001"
    assert (root / "7" / shared).stat().st_ino == (root / "12" / shared).stat().st_ino


def test_an_earlier_version_comes_back_under_a_new_number(done):
    root, _, _ = done
    path = rollback(root, 7)
    assert list_versions(root) == [7, 12, int(path.name)]
    assert tsv(path).keys() == tsv(root / "7").keys()
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["origin"] == {"kind": "rollback", "version": 7}
    assert manifest["canaries"] == json.loads((root / "7" / "manifest.json").read_text())["canaries"]
    assert f"version {path.name}: " in verify(root)[0]
    with pytest.raises(ArtifactError, match=f"/{path.name}: is the newest version already; nothing to roll back"):
        rollback(root, int(path.name))
    with pytest.raises(ArtifactError, match="invalid version 6 .expected one of: 7, 12, "):
        rollback(root, 6)
    with pytest.raises(ConfigError, match="--version: invalid version 11 .expected more than "):
        rollback(root, 7, version=11)
    shutil.rmtree(path)


def test_the_same_items_again_publish_nothing(root, rows, tmp_path):
    result = refresh(root, table(tmp_path / "items.csv", rows), mode="replace")
    assert not result.published and result.path == root / "7" and list_versions(root) == [7]
    assert describe_refresh(result)[-1] == "nothing has changed; no version was published"
    assert [path.name for path in root.iterdir()] == ["7"]


def test_other_columns_only_keep_vectors_and_index(root, rows, tmp_path):
    listed = [rows[0] | {"title": "Another"}, rows[1] | {"item_id": "", "title": "?"}]
    result = refresh(root, table(tmp_path / "items.csv", listed), keep=1)
    assert result.index == "kept" and list_versions(root) == [int(result.path.name)]
    assert describe_refresh(result)[1] == f"1 of 2 rows set aside: {result.path}/refresh_quarantine.jsonl"
    (entry,) = map(json.loads, (result.path / "refresh_quarantine.jsonl").read_text().splitlines())
    assert entry["line"] == 3 and entry["reason"] == "no item id: column 'item_id' is empty"
    assert Bundle.open(root).items["item_name"][0].as_py() == "Another"
    verify(root)


def test_too_much_at_once_is_refused(root, rows, tmp_path):
    few = table(tmp_path / "items.csv", rows[:60])
    with pytest.raises(DataError) as raised:
        refresh(root, few, mode="replace")
    assert str(raised.value).startswith(
        "--items: 90 of 150 items would be removed, more than --max_removed=0.5 of them; check that the table"
    )
    assert [path.name for path in root.iterdir()] == ["7"]


def test_what_is_no_refresh(root, tmp_path):
    with pytest.raises(
        ConfigError, match="^--items or --delete is required: a table of items, or a file of ids to remove$"
    ):
        refresh(root)
    with pytest.raises(ConfigError, match="--mode=replace needs --items: the whole catalogue"):
        refresh(root, mode="replace", delete=tmp_path / "ids")
    with pytest.raises(ArtifactError, match="at least one bundle version"):
        refresh(tmp_path / "nowhere", tmp_path / "items.csv")


def test_a_damaged_version_is_not_carried_on(root, rows, tmp_path):
    path = root / "7" / "item_tower" / "variables" / "variables.index"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="/7/item_tower/variables/variables.index: damaged"):
        refresh(root, table(tmp_path / "items.csv", rows[:1]))
    with pytest.raises(ArtifactError, match="variables.index: damaged"):
        rollback(root, 7)


def test_no_file_with_a_flipped_bit_is_carried_on(root, rows, tmp_path):
    """Whether a file is linked, copied in part, or read: its checksum is compared first."""
    changed = table(tmp_path / "changed.csv", [rows[0] | {"price": "1"}])
    same = table(tmp_path / "same.csv", rows)
    restated = table(tmp_path / "restated.csv", [rows[0] | {"title": "Another"}])
    path = root / "7"
    names = list(json.loads((path / "manifest.json").read_text())["files"])
    assert {"item_embeddings.tsv", "index/vectors.npy", "items.parquet", "saved_model.pb"} <= set(names)
    for name in names:
        content = (path / name).read_bytes()
        damaged = bytearray(content)
        damaged[len(damaged) // 2] ^= 1
        cases = [(bytes(damaged), changed), (content[:-2], changed)]
        if name == "item_embeddings.tsv":  # only where lines are copied it is read at all
            cases += [(bytes(damaged), same), (bytes(damaged), restated)]
        for wrong, items in cases:
            (path / name).write_bytes(wrong)
            with pytest.raises(ArtifactError, match=f"/7/{name}: damaged"):
                refresh(root, items)
            assert [each.name for each in root.iterdir()] == ["7"]
        (path / name).write_bytes(content)
    assert refresh(root, changed).published


def test_a_number_of_a_line_that_stays_is_not_carried_on_damaged(root, rows, tmp_path):
    """A digit of another item's line: the text is as well formed as before, and no line of the change is near."""
    path = root / "7" / "item_embeddings.tsv"
    lines = path.read_bytes().split(b"\n")
    place = next(place for place, digit in enumerate(lines[120]) if place > 30 and chr(digit) in "2468")
    lines[120] = lines[120][:place] + bytes([lines[120][place] ^ 1]) + lines[120][place + 1 :]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ArtifactError) as raised:
        refresh(root, table(tmp_path / "items.csv", [rows[0] | {"price": "1"}]))
    assert str(raised.value).startswith(f"{path}: damaged: its sha256 is ")
    assert "..., manifest.json states " in str(raised.value)
    assert [each.name for each in root.iterdir()] == ["7"]


@pytest.mark.quality  # trains, exports and tunes ScaNN's index twice
def test_an_index_of_scann_is_changed_or_built_anew_and_tried_as_it_is_published(trained, rows, tmp_path, monkeypatch):
    pytest.importorskip("scann")
    run_dir, config = trained
    index = IndexConfig(kind="scann", k=10, target_recall=0.9, recommend_below=0)
    root = tmp_path / "scann"
    export(dataclasses.replace(config, index=index), run_dir, root, version=7)
    path = root / "7" / "index" / "scann" / "dataset.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    items = table(tmp_path / "items.csv", [rows[5] | {"item_id": "new", "price": "3"}, rows[2] | {"price": "7"}])
    with pytest.raises(ArtifactError, match="/7/index/scann/dataset.npy: damaged: its sha256 is"):
        refresh(root, items)
    path.write_bytes(content)
    changed = refresh(root, items, version=8)
    assert changed.index == "updated"
    bundle = Bundle.open(root)
    assert bundle.searcher().items.ids.tolist() == [*(f"i{row:05}" for row in range(150)), "new"]
    assert tsv(root / "8").keys() == set(bundle.searcher().items.ids)
    monkeypatch.setattr(ScannSearcher, "update", lambda *args: None)
    second = refresh(root, table(tmp_path / "items.csv", [rows[3] | {"price": "11"}]), version=9)
    assert second.index == "rebuilt"
    verify(root)


def test_nothing_is_published_that_verify_refuses(root, rows, tmp_path, monkeypatch):
    real = refreshing.answers.make_canaries

    def wrong(*args):
        found = real(*args)
        found[0]["item_ids"].reverse()
        return found

    monkeypatch.setattr(refreshing.answers, "make_canaries", wrong)
    with pytest.raises(ArtifactError) as raised:
        refresh(root, table(tmp_path / "items.csv", [rows[0] | {"price": "1"}]), version=9)
    message = str(raised.value)
    assert message.startswith("verification failed: ") and message.endswith("; nothing was published")
    assert "the index answers for canary {'user_id'" in message
    assert [path.name for path in root.iterdir()] == ["7"]
