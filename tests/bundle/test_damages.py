"""Random damage to whole bundles, exact and ScaNN: none opens, no command follows it outside, each says one line."""

import dataclasses
import json
import os
import random
import shutil

import pytest

from twotower_tf import artifacts
from twotower_tf.bundle.bundle import Bundle, seal
from twotower_tf.cli.main import main
from twotower_tf.config import IndexConfig
from twotower_tf.errors import ArtifactError
from twotower_tf.export.export_bundle import export

OUTSIDE = "outside.txt"
NAMES = ["../" + OUTSIDE, "../../" + OUTSIDE, "/tmp/x", "a\\b", "", "..", "item_tower/../x", "CONFIG.JSON", "a\tb"]


@pytest.fixture(scope="module")
def pristine(trained, export_dir, tmp_path_factory):
    """An export root by the kind of its index."""
    pytest.importorskip("scann")
    run_dir, config = trained
    root = tmp_path_factory.mktemp("scann") / "tiny"
    index = IndexConfig(kind="scann", k=10, target_recall=0.9, recommend_below=0)
    export(dataclasses.replace(config, index=index), run_dir, root, version=7)
    return {"exact": export_dir, "scann": root}


# --- damages: each changes the version directory `path` -----------------------------------------------------------


def members(path):
    return sorted(each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file())


def flip(path, chance):
    file = path / chance.choice(members(path))
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def truncate(path, chance):
    file = path / chance.choice(members(path))
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content) - 1)])


def extend(path, chance):
    with (path / chance.choice(members(path))).open("ab") as file:
        file.write(b"x")


def swap(path, chance):
    names = members(path)
    one, other = chance.sample(names, 2)
    contents = (path / one).read_bytes(), (path / other).read_bytes()
    assert contents[0] != contents[1]
    (path / one).write_bytes(contents[1])
    (path / other).write_bytes(contents[0])


def rename(path, chance):
    file = path / chance.choice(members(path))
    file.rename(file.with_name(chance.choice([file.name + "~", file.name.upper() + "_", "other"])))


def remove(path, chance):
    (path / chance.choice(members(path))).unlink()


def add(path, chance):
    place = (path / chance.choice(members(path))).parent
    (place / chance.choice([".hidden", "saved_model.cpb", "x y", "\x1b[2J", "ünknown"])).write_bytes(b"")


def link(path, chance):
    """The same content, by a symbolic link to where somebody else may change it."""
    file = chance.choice([path, *(each for each in path.rglob("*"))])
    moved = path.parent.parent / "moved"
    shutil.move(file, moved)
    file.symlink_to(moved)


def pipe(path, chance):
    file = path / chance.choice([*members(path), "new"])
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def document(path):
    return json.loads((path / "manifest.json").read_text())


def write(path, content, sealed):
    text = json.dumps(seal(content) if sealed else content)
    (path / "manifest.json").write_text(text)


def edit(path, chance):
    """Values of the manifest, as one who does not know of the seal."""
    content = document(path)
    key = chance.choice([key for key in content if key != "manifest_fingerprint"])
    content[key] = chance.choice([None, 17.5, "x", [], {"user": {}}, float("nan"), [[[[]]]]])
    write(path, content, sealed=False)


def hostile_name(path, chance):
    content = document(path)
    digest = artifacts.sha256_file(path.parent.parent / OUTSIDE)
    content["files"] = {chance.choice(NAMES): digest, **content["files"]}
    write(path, content, sealed=True)


def other_digest(path, chance):
    content = document(path)
    name = chance.choice(list(content["files"]))
    content["files"][name] = chance.choice([f"{chance.getrandbits(256):064x}", "", None, 3])
    write(path, content, sealed=True)


def missing_key(path, chance):
    content = document(path)
    optional = ("manifest_fingerprint", "time", "text_forms", "item_text_forms")  # the last three were added later
    del content[chance.choice([key for key in content if key not in optional])]
    write(path, content, sealed=True)


def other_type(path, chance):
    content = document(path)
    key = chance.choice([key for key in content if key != "manifest_fingerprint"])
    content[key] = chance.choice([True, [[]], 1.5, {"kind": 3}]) if key != "evaluation" else 3
    write(path, content, sealed=True)


def deep(path, chance):
    depth = chance.choice([2_000, 100_000])
    text = json.dumps(document(path))
    (path / "manifest.json").write_text(text[:-1] + ', "more": ' + "[" * depth + "]" * depth + "}")


def unlisted(path, chance):
    content = document(path)
    del content["files"][chance.choice(list(content["files"]))]
    write(path, content, sealed=True)


def other_index(path, chance):
    """The index's description, with every checksum mended."""
    file = path / "index" / "index.json"
    index = json.loads(file.read_text())
    change = chance.choice(
        [
            {"kind": "exact" if index["kind"] == "scann" else "scann"},
            {"kind": "other"},
            {"size": index["size"] + 1},
            {"dim": 0},
            {"fingerprint": None},
            {"schema_version": 1},
            {"files": {}},
            {"files": index["files"] | {chance.choice(NAMES[:4]): "0" * 64}},
        ]
    )
    file.write_text(json.dumps(index | change))
    content = document(path)
    content["files"]["index/index.json"] = artifacts.sha256_file(file)
    write(path, content, sealed=True)


def other_version(path, chance):
    write(path, document(path) | {"version": chance.choice([8, 0, -7, 2**63, "7"])}, sealed=True)


DAMAGES = [
    flip, truncate, extend, swap, rename, remove, add, link, pipe, edit, hostile_name, other_digest, missing_key,
    other_type, deep, unlisted, other_index, other_version,
]  # fmt: skip

# --- what meets them ------------------------------------------------------------------------------------------------


def commands(root, items, place):
    return {
        "verify": ["verify"],
        "recommend": ["recommend", "--user={}", "--k=3"],
        "rollback": ["rollback", "--to=7"],
        "refresh": ["refresh", f"--items={items}"],
        "score": ["score", f"--users={items}", f"--output={place / 'answers'}", "--k=3", "--workers=1"],
    }


def snapshot(place):
    """Everything below a directory but the bundle itself: names, kinds, content and time."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if not name.startswith(("tiny/7", "tiny/.lock")) and path.is_file():
            found[name] = (path.is_symlink(), path.read_bytes(), path.stat().st_mtime_ns)
    return found


def check_damage(number, pristine, trained, place, capfd, asked):
    chance = random.Random(number)
    damage = DAMAGES[number % len(DAMAGES)]
    place.mkdir()
    (place / OUTSIDE).write_text("precious")
    root = place / "tiny"
    shutil.copytree(pristine[chance.choice(sorted(pristine))], root)
    damage(root / "7", chance)
    before = snapshot(place)
    said = f"damage {number}: {damage.__name__}"
    with pytest.raises(ArtifactError) as raised:
        Bundle.open(root)
        raise AssertionError(f"{said}: opened")
    assert "\n" not in str(raised.value), said
    everything = commands(root, f"{trained[1].data.root}/items.csv", place)
    for name in asked or [chance.choice(list(everything))]:
        capfd.readouterr()
        status = main([*everything[name], f"--export_dir={root}"])
        lines = capfd.readouterr().err.strip().splitlines()
        assert (status, len(lines)) == (2, 1), (said, name, lines)
        assert lines[0].startswith(f"twotower {name}: ") and len(lines[0]) < 2000, (said, lines)
        assert set(os.listdir(root)) <= {"7", ".lock"}, (said, name)
        assert not (place / "answers").exists(), (said, name)
        assert snapshot(place) == before, (said, name)
    shutil.rmtree(place)


def test_no_damaged_bundle_opens(pristine, trained, tmp_path, capfd):
    """Two of each kind, each met by one command."""
    for number in range(2 * len(DAMAGES)):
        check_damage(number, pristine, trained, tmp_path / str(number), capfd, ())


@pytest.mark.quality
def test_none_of_400_damaged_bundles_opens(pristine, trained, tmp_path, capfd):
    """Each met by every command."""
    for number in range(1000, 1400):
        check_damage(number, pristine, trained, tmp_path / str(number), capfd, list(commands(tmp_path, "", tmp_path)))
