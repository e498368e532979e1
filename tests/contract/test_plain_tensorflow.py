"""The bundle without this package and without Keras: plain TensorFlow, and the tool that every user of it has."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.export.trained import K

QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1", "PYTHONPATH": ""}

CLIENT = """
import json, sys
for name in ("twotower_tf", "tf_keras", "keras"):
    sys.modules[name] = None  # an import of it fails
import numpy as np
import tensorflow as tf

bundle, items = sys.argv[1], json.loads(sys.argv[2])
lines = [line.split("\\t") for line in open(bundle + "/item_embeddings.tsv", encoding="utf-8")]
ids = [line[0] for line in lines]
vectors = np.array([line[1].split(",") for line in lines], np.float32)

item_tower = tf.saved_model.load(bundle + "/item_tower")
answer = item_tower.signatures["serving_default"](
    item_id=tf.constant(items["item_id"]),
    category=tf.constant(items["category"]),
    price=tf.constant(items["price"], tf.float32),
)
apart = float(np.abs(answer["ad_vector"].numpy() - vectors).max())

user_tower = tf.saved_model.load(bundle)
features = dict(
    user_id=tf.constant(["u000137", "u000003", "nobody", ""]),
    country=tf.constant(["US", "", "Atlantis", ""]),
    age=tf.constant([30.0, float("nan"), 20.0, float("nan")]),
    interests=tf.constant([["cars", ""], ["sports", "health"], ["cheese", ""], ["", ""]]),
    device_type=tf.constant(["tablet", "phone", "toaster", ""]),
    timestamp=tf.constant([1736531435, 1736531443, 1736531439, 0], tf.int64),
    history=tf.constant([["i00114", "i00140"], ["i00005", ""], ["no item", ""], ["", ""]]),
)
users = user_tower.signatures["serving_default"](**features)
recommended = user_tower.signatures["recommend"](**features)
print(json.dumps({
    "apart": apart,
    "ids": ids,
    "cosines": (users["user_vector"].numpy().astype(np.float64) @ vectors.T.astype(np.float64)).tolist(),
    "lengths": np.linalg.norm(users["user_vector"], axis=1).tolist(),
    "versions": users["model_version"].numpy().tolist() + recommended["model_version"].numpy().tolist(),
    "item_ids": [[text.decode() for text in row] for row in recommended["item_ids"].numpy()],
    "scores": recommended["scores"].numpy().tolist(),
    "loaded": sorted(name for name in sys.modules if name.startswith(("twotower_tf.", "tf_keras."))),
}))
"""


def raw_items(export_dir):
    import pyarrow.parquet as pq

    table = pq.read_table(export_dir / "7" / "items.parquet", columns=["item_id", "category", "price"]).to_pydict()
    return {
        "item_id": table["item_id"],
        "category": [text or "" for text in table["category"]],
        "price": [float("nan") if price is None else price for price in table["price"]],
    }


@pytest.fixture(scope="module")
def client(export_dir):
    """What a fresh process without this package says."""
    command = [sys.executable, "-I", "-c", CLIENT, str(export_dir / "7"), json.dumps(raw_items(export_dir))]
    done = subprocess.run(command, capture_output=True, text=True, env=QUIET, cwd="/", timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_no_code_of_ours_or_of_keras_is_needed(client):
    assert client["loaded"] == []


def test_item_tower_gives_the_lines_of_the_tsv(client):
    assert client["apart"] <= 1e-6


def test_vectors_are_unit_length_and_versioned(client):
    np.testing.assert_allclose(client["lengths"], 1, atol=1e-6)
    assert client["versions"] == [7] * 8


def test_recommend_ranks_as_the_dot_products_with_the_tsv(client):
    cosines = np.array(client["cosines"]).astype(np.float32)
    for row, (ids, scores) in enumerate(zip(client["item_ids"], client["scores"], strict=True)):
        best = np.argsort(-cosines[row], kind="stable")[:K]
        assert ids == [client["ids"][each] for each in best]
        np.testing.assert_allclose(scores, cosines[row][best], atol=1e-6)


COMMANDS = """
import json, sys
from absl import flags
from tensorflow.python.tools import saved_model_cli

for arguments in json.loads(sys.argv[1]):
    for name in flags.FLAGS:  # the command before has set them
        flags.FLAGS[name].unparse()
    sys.argv = ["saved_model_cli", *arguments]
    try:
        saved_model_cli.main()
    except SystemExit as end:
        assert not end.code, end.code
"""


def saved_model_cli(*commands):
    """What the tool prints for several commands, in one process: TensorFlow takes longer to start than they run."""
    command = [sys.executable, "-I", "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, env=QUIET, cwd="/", timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_saved_model_cli_shows_and_runs_both_towers(export_dir, tmp_path):
    bundle = export_dir / "7"
    items = raw_items(export_dir)
    rows = [0, 7, 149]
    np.savez(
        tmp_path / "items.npz",
        item_id=np.array([items["item_id"][row].encode() for row in rows]),
        category=np.array([items["category"][row].encode() for row in rows]),
        price=np.array([items["price"][row] for row in rows], np.float32),
    )
    inputs = ";".join(f"{name}={tmp_path}/items.npz[{name}]" for name in ("item_id", "category", "price"))
    user = (
        'user_id=["u000137"];country=["US"];age=[30.0];interests=[["cars"]];'
        'device_type=["tablet"];timestamp=[1736531435];history=[["i00114","i00140"]]'
    )
    common = ("--tag_set=serve", "--overwrite")
    shown = saved_model_cli(
        ["show", f"--dir={bundle}", "--all"],
        [
            "run", f"--dir={bundle}/item_tower", "--signature_def=serving_default", f"--inputs={inputs}",
            f"--outdir={tmp_path}/item", *common,
        ],
        [
            "run", f"--dir={bundle}", "--signature_def=recommend", f"--input_exprs={user}",
            f"--outdir={tmp_path}/user", *common,
        ],
    )  # fmt: skip
    for signature in ("serving_default", "from_examples", "recommend"):
        assert f"signature_def['{signature}']" in shown
    assert re.search(r"outputs\['user_vector'\] tensor_info:\s+dtype: DT_FLOAT\s+shape: \(-1, 8\)", shown)
    assert re.search(r"inputs\['history'\] tensor_info:\s+dtype: DT_STRING\s+shape: \(-1, -1\)", shown)
    tsv = [line.split("\t")[1].split(",") for line in (bundle / "item_embeddings.tsv").read_text().splitlines()]
    expected = np.array([tsv[row] for row in rows], np.float32)
    np.testing.assert_allclose(np.load(tmp_path / "item" / "ad_vector.npy"), expected, atol=1e-6)
    ids = np.load(tmp_path / "user" / "item_ids.npy", allow_pickle=True)
    assert ids.shape == (1, K) and len(set(ids[0])) == K


def test_our_own_client_ranks_as_the_fresh_process(client, export_dir):
    """The first user of the client above."""
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.retrieval.recommender import Recommender

    user = {
        "user_id": "u000137",
        "country": "US",
        "age": 30,
        "interests": ["cars"],
        "device_type": "tablet",
        "timestamp": 1736531435,
        "history": ["i00114", "i00140"],
    }
    (answer,) = Recommender(Bundle.open(export_dir)).recommend([user], K)
    assert answer["item_ids"] == client["item_ids"][0]
    np.testing.assert_allclose(answer["scores"], client["scores"][0], atol=1e-6)
