"""Names and files of a bundle from elsewhere: whatever its maker wrote, nothing outside its directory is touched."""

import json
import os
import shutil
import socket

import pytest

from tests.bundle.test_bundle import write_bundle
from twotower_tf import artifacts
from twotower_tf.bundle import derived_version
from twotower_tf.bundle.bundle import Bundle, seal
from twotower_tf.errors import ArtifactError
from twotower_tf.index import members
from twotower_tf.index.backends import load_index
from twotower_tf.index.scann import scann_build

CHECKS = ("full", "light")


def refusal(root, check="full"):
    with pytest.raises(ArtifactError) as raised:
        Bundle.open(root, check=check)
    assert "\n" not in str(raised.value) and str(raised.value).isprintable()
    return str(raised.value)


def sealed(path, change):
    """Changes a manifest as its maker would have written it."""
    document = json.loads((path / "manifest.json").read_text())
    change(document)
    artifacts.write_json(path / "manifest.json", seal(document))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../outside",
        "index/../../outside",
        "variables/..",
        "./config",
        "a//b",
        "a/",
        "",
        ".",
        "..\\outside",
        "C:\\outside",
        "a\nb",
        "a\0b",
        "a\x1b[2Jb",
        "a\u202eb",
        "a\ud800",
    ],
)
def test_a_name_that_is_no_plain_relative_path_is_refused_before_it_is_used(tmp_path, name):
    path = write_bundle(tmp_path / "root", 9)
    (tmp_path / "outside").write_text("a secret")
    document = json.loads((path / "manifest.json").read_text())
    document["files"][name] = artifacts.sha256_file(tmp_path / "outside")
    if "\ud800" in name:  # JSON can say it; no UTF-8 can
        (path / "manifest.json").write_text(json.dumps(document))
    else:
        artifacts.write_json(path / "manifest.json", seal(document))
    for check in CHECKS:
        message = refusal(tmp_path / "root", check)
        assert "invalid file name" in message or "\ud800" in name
    with pytest.raises(ArtifactError, match="/9/manifest.json: invalid file name"):
        members.check_names([name], path / "manifest.json")


@pytest.mark.parametrize("twin", ["CONFIG.json", "Index/other", "manifest.json", "MANIFEST.JSON", "\u212aonfig"])
def test_names_that_a_file_system_may_take_for_one_are_refused(twin):
    names = ["config.json", "index/item_ids", "konfig"]
    members.check_names(names, members.Path("manifest.json"))
    members.check_names([*names, "config.json.gz", "index/index.json"], members.Path("manifest.json"))
    with pytest.raises(ArtifactError, match="differ by more than case"):
        members.check_names([*names, twin], members.Path("manifest.json"))


@pytest.mark.parametrize("check", CHECKS)
def test_a_link_is_refused_wherever_it_stands(tmp_path, check):
    root = tmp_path / "root"
    path = write_bundle(root, 9)
    names = ["config.json", "manifest.json", "index/item_ids", "variables", "index"]
    for name in names:
        shutil.move(path / name, tmp_path / "moved")
        (path / name).symlink_to(tmp_path / "moved")
        assert refusal(root, check).startswith(f"{path / name}: invalid symbolic link (expected plain files")
        (path / name).unlink()
        shutil.move(tmp_path / "moved", path / name)
    (path / "dangling").symlink_to("nowhere")
    assert f"{path}/dangling: invalid symbolic link" in refusal(root, check)
    (path / "dangling").unlink()
    Bundle.open(root, check=check)
    shutil.move(path, tmp_path / "9")
    path.symlink_to(tmp_path / "9")
    assert f"{path}: invalid symbolic link" in refusal(root, check)
    path.unlink()
    shutil.move(tmp_path / "9", path)
    root.rename(tmp_path / "release")
    root.symlink_to(tmp_path / "release")  # the export root is the operator's own
    Bundle.open(root, check=check)


@pytest.mark.parametrize("check", CHECKS)
def test_a_pipe_or_socket_is_refused_and_never_opened(tmp_path, check, monkeypatch):
    path = write_bundle(tmp_path, 9)
    for name in ("config.json", "manifest.json", "extra"):
        content = (path / name).read_bytes() if (path / name).exists() else None
        (path / name).unlink(missing_ok=True)
        os.mkfifo(path / name)
        assert refusal(tmp_path, check).startswith(f"{path / name}: invalid pipe, socket or device")
        (path / name).unlink()
        if content is not None:
            (path / name).write_bytes(content)
    monkeypatch.chdir(path)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("door")
        assert refusal(tmp_path, check).startswith(f"{path}/door: invalid pipe, socket or device")


@pytest.mark.parametrize("check", CHECKS)
def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path, check):
    """TensorFlow reads saved_model.cpb in preference to saved_model.pb where it is there."""
    path = write_bundle(tmp_path, 9)
    for name in ("saved_model.cpb", ".hidden", "index/extra", "a\x1b[31m"):
        (path / name).write_bytes(b"")
        assert "not in manifest.json; a version is never changed" in refusal(tmp_path, check)
        (path / name).unlink()
    (path / "assets").mkdir()  # TensorFlow leaves such empty directories
    Bundle.open(tmp_path, check=check)


KEYS = ["created", "origin", "canaries", "canary_k", "formats", "signatures", "tables", "index", "libraries", "files"]


@pytest.mark.parametrize(
    "key", [*KEYS, "weights_fingerprint", "config_fingerprint", "similarity", "evaluation", "name", "vector_dim"]
)
def test_a_sealed_manifest_without_a_key_or_with_another_type_is_refused_by_name(tmp_path, key):
    path = write_bundle(tmp_path, 9)
    sealed(path, lambda document: document.pop(key))
    assert refusal(tmp_path).startswith(f"{path}/manifest.json: damaged: '{key}': field required")
    for wrong in (True, [[]], {"user": 3}):
        shutil.rmtree(path)
        path = write_bundle(tmp_path, 9)
        sealed(path, lambda document, wrong=wrong: document.update({key: wrong}))
        if not (key == "evaluation" and isinstance(wrong, dict)):
            assert refusal(tmp_path).startswith(f"{path}/manifest.json: damaged: '{key}")


def test_what_is_inside_a_key_is_checked_too(tmp_path):
    for change, place in (
        ({"evaluation": {"metrics": {"recall@20": "high"}}}, "evaluation.metrics.recall@20"),
        ({"index": {"kind": "scann", "parameters": {}, "recall": {"k": 10, "queries": 3, "target": 1.0}}}, "measured"),
        ({"index": {"kind": "faiss", "parameters": {}, "recall": {}}}, "index.kind"),
        ({"tables": {"user": {"user_id": {"shape": [1], "bytes": "8"}}, "item": {}}}, "tables.user.user_id.bytes"),
        ({"canaries": [{"user": {}, "item_ids": ["a"], "scores": ["1"]}]}, "canaries.0.scores.0"),
        ({"weights_fingerprint": {"user": "1"}}, "weights_fingerprint.item"),
        ({"time": {"form": "s", "first": 1.5, "last": None}}, "time.first"),
        ({"text_forms": {"user_id": 3}}, "text_forms.user_id"),
    ):
        shutil.rmtree(tmp_path / "9", ignore_errors=True)
        path = write_bundle(tmp_path, 9, **change)
        assert refusal(tmp_path).startswith(f"{path}/manifest.json: damaged: '{place}': ")
    shutil.rmtree(tmp_path / "9")
    path = write_bundle(tmp_path, 9, canaries=[{"user": {}, "item_ids": ["a", "b"], "scores": [1.0]}])
    assert refusal(tmp_path) == f"{path}/manifest.json: damaged: a canary has 2 items and 1 scores; export again"


def test_a_manifest_that_is_no_plain_json_is_refused(tmp_path):
    path = write_bundle(tmp_path, 9)
    text = (path / "manifest.json").read_text()
    with_deep = text.replace('"evaluation": null', '"evaluation": ' + '{"a":' * 100_000 + "1" + "}" * 100_000)
    assert with_deep != text
    for changed, reason in (
        (text.replace('"canary_k": 2', '"canary_k": NaN'), "NaN is not a JSON number"),
        (text.replace("0.5", "-Infinity"), "-Infinity is not a JSON number"),
        (text.replace('"canary_k": 2', '"canary_k": 1e999'), "damaged: 'canary_k'"),
        (text.replace("0.5", "1e999"), "damaged: 'canaries.0.scores.1'"),
        (text.replace('"canary_k": 2', '"canary_k": ' + "9" * 5000), "damaged: "),
        (text.replace('"canary_k": 2', '"canary_k": 2, "canary_k": 2'), "'canary_k' appears twice"),
        (with_deep, "nested too deeply"),
        ("[" * 200_000, "nested too deeply"),
    ):
        assert changed != text
        (path / "manifest.json").write_text(changed)
        for check in CHECKS:
            assert f"{path}/manifest.json: damaged: " in refusal(tmp_path, check)
            assert reason in refusal(tmp_path, check)


def test_an_index_description_with_other_names_is_refused(tmp_path):
    path = write_bundle(tmp_path, 9)
    (tmp_path / "outside").write_text("a secret")
    document = json.loads((path / "index" / "index.json").read_text())
    for name in ("../../outside", str(tmp_path / "outside")):
        files = document["files"] | {name: artifacts.sha256_file(tmp_path / "outside")}
        artifacts.write_json(path / "index" / "index.json", document | {"files": files})
        with pytest.raises(ArtifactError, match="/index/index.json: invalid file name"):
            load_index(path / "index")
    artifacts.write_json(path / "index" / "index.json", document | {"files": {}})
    with pytest.raises(ArtifactError, match="/index/item_ids: not in index.json"):
        load_index(path / "index")
    digest = artifacts.sha256_file(path / "index" / "index.json")
    sealed(path, lambda manifest: manifest["files"].update({"index/index.json": digest}))
    assert "index.json: damaged: manifest.json states another kind or other files" in refusal(tmp_path)


def test_scann_is_not_told_of_files_elsewhere(tmp_path):
    entry = 'assets {{\n  asset_type: {}\n  asset_path: "{}"\n}}\n'
    (tmp_path / "centers").write_bytes(b"")
    assets = tmp_path / "scann_assets.pbtxt"
    assets.write_text(entry.format("AH_CENTERS", "centers"))
    assert scann_build.list_assets(tmp_path) == {"AH_CENTERS": "centers"}
    for text in (
        entry.format("AH_CENTERS", "/etc/passwd"),
        entry.format("AH_CENTERS", "../centers"),
        entry.format("AH_CENTERS", "gone"),
        entry.format("AH_CENTERS", "centers") * 2,
        "assets { asset_path: 'centers' }",
    ):
        assets.write_text(text)
        with pytest.raises(ArtifactError, match="invalid file name|missing; scann_assets|damaged: not a list"):
            scann_build.load(tmp_path)


def test_no_file_is_linked_or_copied_over_another(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_text("new")
    derived_version._link(source, target)
    assert target.stat().st_ino == source.stat().st_ino

    def refuses(*args, **kwargs):
        raise OSError(1, "no hard links here")

    for links in (os.link, refuses):
        monkeypatch.setattr(os, "link", links)
        target.unlink()
        derived_version._link(source, target)
        assert target.read_text() == "new"
        target.unlink()
        target.write_text("precious")
        with pytest.raises(ArtifactError, match="deep/target: exists already, and is never overwritten"):
            derived_version._link(source, target)
        assert target.read_text() == "precious"
