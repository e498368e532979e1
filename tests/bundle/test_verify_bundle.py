import json
import shutil
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from twotower_tf import artifacts
from twotower_tf.bundle import item_tsv, vector_formats, warmup
from twotower_tf.bundle import manifest as manifests
from twotower_tf.bundle import verify_bundle as verifying
from twotower_tf.bundle.bundle import Bundle, seal
from twotower_tf.bundle.verify_bundle import verify
from twotower_tf.bundle.verify_staging import verify_staging
from twotower_tf.errors import ArtifactError
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.item_vectors import ItemVectors


@pytest.fixture
def copy(export_dir, tmp_path):
    """A version of one's own to damage."""
    shutil.copytree(export_dir, tmp_path / "moved")
    return tmp_path / "moved" / "7"


def refusal(path):
    with pytest.raises(ArtifactError) as raised:
        verify(path.parent)
    return str(raised.value)


def restate(path, **changes):
    """Makes the checksums right again, as one who exchanges a file would."""
    document = json.loads((path / "manifest.json").read_text())
    document |= {"files": manifests.hash_files(path), **changes}
    artifacts.write_json(path / "manifest.json", seal(document))


def test_a_moved_bundle_passes_and_says_what_was_checked(copy):
    assert verify(copy.parent, 7) == verify(copy.parent)
    checks = "\n".join(verify(copy.parent))
    for part in (
        "version 7: 15 files",
        "user tower: weights of fingerprint",
        "index: 150 items of 8 dimensions",
        "saved_model.pb: from_encoded, from_examples, recommend, serving_default",
        "item_tower/saved_model.pb: from_examples, serving_default",
        "item tower: gives the vectors of 150 items",
        "8 canaries: signature recommend",
        "4 requests, all answered",
    ):
        assert part in checks


def test_every_file_is_missed_and_every_flipped_bit_is_found(copy):
    names = [path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()]
    assert len(names) == 16
    for name in names:
        path = copy / name
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[len(damaged) // 2] ^= 1
        for wrong in (bytes(damaged), content[:-2], b"", None):
            path.unlink()
            if wrong is not None:
                path.write_bytes(wrong)
            message = refusal(copy)
            # Without a manifest the directory does not count as a version.
            gone = name == "manifest.json" and "at least one bundle version" in message
            assert name in message or gone, (name, wrong)
            path.write_bytes(content)
    verify(copy.parent)


def test_a_file_that_the_manifest_does_not_know(copy):
    (copy / "item_tower" / "notes.txt").write_text("mine")
    expected = "not in manifest.json; a version is never changed; move the file elsewhere"
    assert refusal(copy) == f"{copy}/item_tower/notes.txt: {expected}"


def test_vectors_of_another_run_in_the_tsv(copy):
    ids, vectors = item_tsv.read_tsv(copy / "item_embeddings.tsv")
    item_tsv.write_tsv(copy / "item_embeddings.tsv", ItemVectors(ids, np.roll(vectors, 1, axis=0)))
    restate(copy)
    assert refusal(copy) == f"{copy}/item_embeddings.tsv: other items or vectors than the index holds"


def test_catalogue_in_another_order(copy):
    table = pq.read_table(copy / "items.parquet")
    pq.write_table(table.take(pa.array(np.roll(np.arange(150), 1))), copy / "items.parquet")
    restate(copy)
    assert "items.parquet: other items, or in another order, than the index holds" in refusal(copy)


def test_item_tower_that_does_not_give_the_index_vectors(copy):
    """A price that changed in the catalogue moves its vector; the ids stay."""
    table = pq.read_table(copy / "items.parquet")
    price = table.column_names.index("price")
    table = table.set_column(price, "price", pa.array(np.r_[[1e6], table["price"].to_numpy()[1:]]))
    pq.write_table(table, copy / "items.parquet")
    restate(copy)
    assert f"{copy}/item_tower: invalid vector for item 'i00000' (expected that of the index" in refusal(copy)


def test_tower_of_another_training_step(copy, export_dir):
    """The item tower's variables, but for one number."""
    path = copy / "item_tower"
    module = tf.saved_model.load(str(path))
    name = next(key for key in module.weights if key.startswith("item_projection-bias"))
    module.weights[name].assign_add(np.full(8, 1e-3, np.float32))
    tf.saved_model.save(module, str(path), signatures=dict(module.signatures))
    restate(copy)
    assert f"{path}/variables: weights of fingerprint" in refusal(copy)
    restate(
        copy,
        weights_fingerprint={"user": manifests.hash_weights(copy)[0], "item": manifests.hash_weights(path)[0]},
    )
    assert f"{path}: invalid vector for item" in refusal(copy)


@pytest.fixture(scope="module")
def one_step_later(export_dir, tmp_path_factory):
    """The index of the same run after one more step of training: every weight moved by the rate, as Adam's first."""
    bundle = Bundle.open(export_dir)
    tower = tf.saved_model.load(str(bundle.path / "item_tower"))
    generator = np.random.default_rng(0)
    for weight in tower.weights.values():
        weight.assign_add((1e-3 * generator.choice([-1, 1], weight.shape)).astype(weight.dtype.as_numpy_dtype))
    items = bundle.items
    answer = tower.signatures["serving_default"](
        item_id=tf.constant(items["item_id"].to_pylist()),
        category=tf.constant([text or "" for text in items["category"].to_pylist()]),
        price=tf.constant(
            [float("nan") if price is None else price for price in items["price"].to_pylist()], tf.float32
        ),
    )
    place = tmp_path_factory.mktemp("later")
    found = ItemVectors(items["item_id"].to_pylist(), answer["ad_vector"].numpy())
    ExactSearcher(found).save(place / "index")
    return place / "index", found


def test_towers_and_an_index_that_are_one_training_step_apart(copy, one_step_later):
    """First as one who copies files, then as one who mends checksums, then as one who mends every fingerprint."""
    index, items = one_step_later
    shutil.rmtree(copy / "index")
    shutil.copytree(index, copy / "index")
    for check in ("full", "light"):
        with pytest.raises(ArtifactError, match=r"/7/index/[a-z_.]+: damaged: its sha256 is"):
            Bundle.open(copy.parent, check=check)
    restate(copy)
    stated = json.loads((copy / "manifest.json").read_text())["vectors_fingerprint"]
    assert stated != items.fingerprint
    for check in ("full", "light"):
        with pytest.raises(ArtifactError) as raised:
            Bundle.open(copy.parent, check=check)
        assert str(raised.value) == (
            f"{copy}/index: the index has fingerprint {items.fingerprint}, manifest.json states vectors_fingerprint "
            f"{stated}; they are of different models"
        )
    item_tsv.write_tsv(copy / "item_embeddings.tsv", items)
    restate(copy, vectors_fingerprint=items.fingerprint)
    assert f"{copy}/item_tower: invalid vector for item 'i0" in refusal(copy)
    with pytest.raises(ArtifactError, match="verification failed: .*item_tower: invalid vector for item 'i0"):
        verify_staging(copy)


def test_a_recall_that_is_no_longer_as_stated(copy, monkeypatch):
    """An approximate index: every answer but the first is lost. As many users are asked as it was stated of."""
    bundle = Bundle.open(copy.parent)
    real = bundle.searcher()

    class Worse:
        kind, items = "scann", real.items

        def search(self, queries, k):
            found = real.search(queries, k)
            return types.SimpleNamespace(scores=np.where(np.arange(k) < 1, found.scores, -np.inf).astype(np.float32))

    bundle.manifest["index"]["recall"] = {"k": 10, "queries": 20, "measured": 0.95}
    with pytest.raises(ArtifactError, match="/7/index: recall@10 of 20 users is 0.1000, the manifest states 0.9500"):
        list(verifying._recall(bundle, Worse()))
    bundle.manifest["index"]["recall"]["measured"] = 0.104
    (said,) = verifying._recall(bundle, Worse())
    assert said.endswith(" users 0.1000, stated 0.1040")
    level = {"k": 40, "excluded": 30, "recall_excluded": 0.95, "queries": 12}
    bundle.manifest["index"]["recall"]["levels"] = [{"k": 10}, level]
    with pytest.raises(
        ArtifactError, match="index: recall of ranks 31 to 40 of 12 users is 0.0000, the manifest states 0.9500"
    ):
        list(verifying._recall(bundle, Worse()))
    _, said = verifying._recall(bundle, types.SimpleNamespace(kind="scann", items=real.items, search=real.search))
    assert said == "index: recall of ranks 31 to 40 of 12 users 1.0000, stated 0.9500"


def test_other_formats_are_what_other_programs_read(copy):
    items = Bundle.open(copy.parent).searcher().items
    vector_formats.write(copy, ["parquet", "npy"], items)
    table = pq.read_table(copy / "item_embeddings.parquet")
    assert table["item_id"].to_pylist() == items.ids.tolist()
    np.testing.assert_array_equal(np.stack(table["vector"].to_pylist()).astype(np.float32), items.vectors)
    np.testing.assert_array_equal(np.load(copy / "item_embeddings.npy"), items.vectors)
    restate(copy, formats=["tsv", "parquet", "npy"])
    assert "item_embeddings.parquet: the same items and vectors" in verify(copy.parent)
    np.save(copy / "item_embeddings.npy", items.vectors[::-1])
    restate(copy)
    assert refusal(copy) == f"{copy}/item_embeddings.npy: other vectors than the index holds"
    np.save(copy / "item_embeddings.npy", items.vectors)
    pq.write_table(
        table.set_column(0, "item_id", [table["item_id"].to_pylist()[::-1]]), copy / "item_embeddings.parquet"
    )
    restate(copy)
    assert refusal(copy) == f"{copy}/item_embeddings.parquet: other items or vectors than the index holds"


def test_missing_signature_and_scalar_output(copy):
    file = copy / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    signatures = model.meta_graphs[0].signature_def
    signatures["recommend"].outputs["model_version"].tensor_shape.ClearField("dim")
    file.write_bytes(model.SerializeToString())
    restate(copy)
    assert refusal(copy) == f"{file}: recommend: output 'model_version' has no batch dimension"
    del signatures["recommend"]
    file.write_bytes(model.SerializeToString())
    restate(copy)
    assert refusal(copy) == (
        f"{file}: has no signature 'recommend'; it has from_encoded, from_examples, serving_default"
    )


def test_canaries_that_get_another_answer(copy):
    document = json.loads((copy / "manifest.json").read_text())
    first = document["canaries"][0]
    first["item_ids"][2], first["item_ids"][0] = first["item_ids"][0], first["item_ids"][2]
    restate(copy, canaries=document["canaries"])
    message = refusal(copy)
    assert message.startswith(f"{copy}: the index answers for canary {{'user_id': 'u")
    assert f"expected {first['item_ids']}" in message


def test_replaced_version_is_refused(copy):
    (copy.parent / "8").mkdir()
    shutil.copytree(copy, copy.parent / "8", dirs_exist_ok=True)
    assert refusal(copy) == (
        f"{copy.parent}/8: invalid directory name (expected 7, the manifest's version); versions are not renamed, use "
        "rollback"
    )


def test_warmup_file_that_is_none(copy):
    (copy / warmup.WARMUP).write_bytes(b"not a record file")
    restate(copy)
    assert f"{copy}/assets.extra/tf_serving_warmup_requests: damaged: no warm-up requests: " in refusal(copy)


def test_warmup_requests_are_of_real_users_at_one_and_many(copy):
    requests = list(warmup.read(copy / warmup.WARMUP))
    sizes = [(name, len(arrays["user_id"])) for name, arrays in requests]
    assert sizes == [("serving_default", 1), ("serving_default", 32), ("recommend", 1), ("recommend", 32)]
    assert len(set(requests[1][1]["user_id"])) == 32
    assert all(user.startswith(b"u00") for user in requests[1][1]["user_id"])
    assert any(requests[1][1]["history"][:, 0] != b"")
