"""From a raw log to recommendations: each figure against what can be computed from the raw files without us."""

import csv
import json
import math
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.conftest import Quickstart, command


def clicks(log: Path) -> tuple[list[tuple[str, str, str]], float]:
    """(time, user, item) of every click in order of time, and the time at which the test part begins."""
    rows = []
    for path in sorted((log / "events").rglob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows += [(row["timestamp"], row["user_id"], row["item_id"], row["click"]) for row in csv.DictReader(file)]
    rows.sort(key=lambda row: row[0])
    begin = rows[math.ceil(len(rows) * 0.9)][0]
    return [row[:3] for row in rows if row[3] == "1"], begin


def recall_of_truth(log: Path, k: int) -> float:
    """recall@k of ranking by the planted preferences, each user's earlier clicks left out; in plain loops."""
    known, wanted = defaultdict(set), defaultdict(set)
    events, begin = clicks(log)
    for moment, user, item in events:
        (wanted if moment >= begin else known)[user].add(item)
    truth = np.load(log / "truth.npz")
    items = [str(item) for item in truth["item_id"]]
    row = {str(user): place for place, user in enumerate(truth["user_id"])}
    recalls = []
    for user, found in wanted.items():
        relevant = found - known[user]
        if relevant:
            scores = truth["item_vector"] @ truth["user_vector"][row[user]] + truth["item_bias"]
            best = [items[place] for place in np.argsort(-scores) if items[place] not in known[user]][:k]
            recalls.append(len(relevant & set(best)) / len(relevant))
    return float(np.mean(recalls))


def test_the_model_recovers_the_planted_preferences(quickstart: Quickstart) -> None:
    metrics = json.loads((quickstart.run_dir / "metrics.json").read_text())
    best = recall_of_truth(quickstart.log, 10)
    assert metrics["metrics"]["recall@10"] >= 0.78 * best
    assert f"reach recall@10 {best:.4f}:" in quickstart.out
    assert metrics["metrics"]["recall@20"] >= 1.5 * metrics["baselines"]["popularity"]["recall@20"]
    assert metrics["baselines"]["popularity"]["recall@20"] > 1.5 * metrics["baselines"]["random"]["recall@20"]


def test_it_prints_what_a_person_wants_to_see(quickstart: Quickstart) -> None:
    out = quickstart.out
    assert re.search(r"^recall@10 +0\.\d{4} +0\.\d{4} to 0\.\d{4}( +0\.\d{4}){4}$", out, re.MULTILINE)
    assert len(re.findall(r"^(gender|country|device_type) \S.*\nclicked last: ", out, re.MULTILINE)) == 3
    with (quickstart.log / "items.csv").open(encoding="utf-8", newline="") as file:
        titles = {row["item_id"]: row["title"] for row in csv.DictReader(file)}
    answers = re.findall(r"^\d  (\S+)  (.+?) +(-?\d\.\d{4})$", out, re.MULTILINE)
    assert len(answers) == 15
    for item, name, _ in answers:
        assert name == (titles[item] or item)


def test_the_commands_it_proposes_work(quickstart: Quickstart) -> None:
    lines = [line.strip() for line in quickstart.out.split("Try next:")[1].splitlines() if line.startswith("  ")]
    assert len(lines) == 5
    for line in lines:
        if "saved_model_cli" in line or "tensorboard" in line:
            assert (program := shlex.split(line)[0]) and Path(program).exists() or "/" not in program
            continue
        arguments = shlex.split(line)
        start = next(place for place, word in enumerate(arguments) if word in ("recommend", "similar", "verify"))
        assert command(*arguments[start:]).status == 0, line


def test_the_files_of_a_run_are_all_there(quickstart: Quickstart) -> None:
    names = {path.name for path in quickstart.run_dir.iterdir()}
    assert names == {
        "config.json",
        "stages.json",
        "log",
        "prepared",
        "checkpoints",
        "final",
        "logs",
        "train.json",
        "metrics.json",
        "item_map.json",
        "report.html",
    }
    assert "validation recall@20" in (quickstart.run_dir / "report.html").read_text()
    rows = json.loads((quickstart.run_dir / "prepared" / "manifest.json").read_text())["rows"]
    assert rows["read"] == 200_000 == rows["used"] + sum(rows["excluded"].values()) + rows["quarantined"]


def test_again_it_skips_what_is_done(quickstart: Quickstart) -> None:
    versions = sorted(quickstart.export_dir.glob("[0-9]*"))
    done = command("quickstart", f"--run_dir={quickstart.run_dir}", f"--export_dir={quickstart.export_dir}")
    assert done.status == 0
    for stage in ("prepare", "train", "evaluate", "export"):
        assert f"{stage}: up to date" in done.out
    assert sorted(quickstart.export_dir.glob("[0-9]*")) == versions


# --- the bundle, without this package -----------------------------------------------------------------------------

PLAIN = """
import json, sys
import numpy as np
import tensorflow as tf
bundle, k = sys.argv[1], int(sys.argv[2])
lines = [line.split("\\t") for line in open(bundle + "/item_embeddings.tsv", encoding="utf-8").read().splitlines()]
ids, vectors = [line[0] for line in lines], np.array([line[1].split(",") for line in lines], np.float32)
canary = json.load(open(bundle + "/manifest.json"))["canaries"][0]["user"]
model = tf.saved_model.load(bundle)
tower = model.signatures["serving_default"]
inputs = {}
for name, spec in tower.structured_input_signature[1].items():
    value = canary.get(name)
    if spec.shape.rank == 2:
        inputs[name] = tf.constant([value or [""]], spec.dtype)
    else:
        missing = {tf.string: "", tf.float32: float("nan"), tf.int64: 0}[spec.dtype]
        inputs[name] = tf.constant([missing if value is None else value], spec.dtype)
user = tower(**inputs)["user_vector"].numpy()[0]
order = np.argsort(-(vectors @ user), kind="stable")[:k]
print(json.dumps({
    "user": canary, "item_ids": [ids[row] for row in order], "scores": (vectors[order] @ user).tolist(),
    "lengths": [float(np.linalg.norm(user)), float(np.linalg.norm(vectors, axis=1).min())],
    "package": [name for name in sys.modules if name.startswith("twotower")],
}))
"""


def test_the_bundle_answers_without_this_package_as_recommend_does(quickstart: Quickstart) -> None:
    bundle = max(quickstart.export_dir.glob("[0-9]*"), key=lambda path: int(path.name))
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(bundle), "20"], capture_output=True, text=True, check=True, cwd="/"
    )
    plain = json.loads(done.stdout.splitlines()[-1])
    assert plain["package"] == []
    assert plain["lengths"] == pytest.approx([1.0, 1.0], abs=1e-5)
    answer = command(
        "recommend", f"--export_dir={quickstart.export_dir}", f"--user={json.dumps(plain['user'])}", "--k=20"
    )
    recommended = json.loads(answer.out)
    assert recommended["item_ids"] == plain["item_ids"]
    assert recommended["scores"] == pytest.approx(plain["scores"], abs=1e-6)
    assert recommended["model_version"] == int(bundle.name)


# --- the commands on a bundle -------------------------------------------------------------------------------------


def test_recommend_prints_one_line_per_user_and_leaves_out_what_it_is_told_to(quickstart: Quickstart) -> None:
    where = f"--export_dir={quickstart.export_dir}"
    both = command("recommend", where, '--user={"gender": "f"}', '--user={"country": "PL"}', "--k=3").out.splitlines()
    answers = [json.loads(line) for line in both]
    assert [answer["user"] for answer in answers] == [{"gender": "f"}, {"country": "PL"}]
    assert [len(answer["item_ids"]) for answer in answers] == [3, 3]
    first = answers[0]["item_ids"][0]
    less = json.loads(command("recommend", where, '--user={"gender": "f"}', "--k=3", f"--exclude={first}").out)
    assert less["item_ids"][:2] == answers[0]["item_ids"][1:]


def test_recommend_refuses_a_feature_it_does_not_know(quickstart: Quickstart) -> None:
    done = command("recommend", f"--export_dir={quickstart.export_dir}", '--user={"contry": "PL"}')
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "twotower recommend: row 0: unknown feature 'contry'; did you mean 'country'? (features: age, country, "
        "device_type, gender, history, interests, placement, timestamp)\n"
    )


def test_similar_answers_other_items(quickstart: Quickstart) -> None:
    where = f"--export_dir={quickstart.export_dir}"
    answer = json.loads(command("similar", where, "--item=i00000", "--k=5").out)
    assert answer["item"] == "i00000" and len(set(answer["item_ids"]) - {"i00000"}) == 5
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    done = command("similar", where, "--item=no-such")
    assert done.status == 2 and done.err.startswith("twotower similar: item 'no-such': not the id or the name of one ")


def test_versions_lists_what_is_published(quickstart: Quickstart) -> None:
    lines = command("versions", f"--export_dir={quickstart.export_dir}").out.splitlines()
    metrics = json.loads((quickstart.run_dir / "metrics.json").read_text())["metrics"]
    (summary,) = [json.loads(line) for line in lines]
    assert (summary["items"], summary["index"], summary["metrics"]) == (1000, "exact", metrics)
    assert (quickstart.export_dir / str(summary["version"])).is_dir()


def test_verify_says_what_it_checked(quickstart: Quickstart) -> None:
    done = command("verify", f"--export_dir={quickstart.export_dir}")
    assert done.status == 0
    assert len(done.out.splitlines()) >= 5 and all(line.startswith("ok  ") for line in done.out.splitlines())


def test_evaluate_on_the_other_split_replaces_the_report(quickstart: Quickstart, tmp_path: Path) -> None:
    names = ("metrics.json", "item_map.json", "report.html", "stages.json")
    before = {name: (quickstart.run_dir / name).read_bytes() for name in names}
    done = command("evaluate", f"--run_dir={quickstart.run_dir}", "--split=valid")
    after = json.loads((quickstart.run_dir / "metrics.json").read_text())
    assert done.status == 0 and after["split"] == "valid" and done.out.startswith("valid split, ")
    for name, content in before.items():  # the run is shared with the other tests
        (quickstart.run_dir / name).write_bytes(content)
