"""TensorBoard itself, started on a run's logs: scalars, histograms, the graph, and items by name in the projector."""

import dataclasses
import json
import shutil
import time
import urllib.parse
import urllib.request

import numpy as np
import pyarrow as pa
import pytest
from tensorboard import default, program

from twotower_tf.artifacts import RunPaths
from twotower_tf.config import TrainConfig
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import training_loop
from twotower_tf.train.callbacks import write_projector

WAIT = 60.0  # seconds for TensorBoard to have read the logs


@pytest.fixture(scope="module")
def board(trained, tmp_path_factory):
    """The base address of a TensorBoard on loopback, and the run it shows."""
    source, config = trained
    run_dir = tmp_path_factory.mktemp("board")
    shutil.copytree(source / "prepared", run_dir / "prepared")
    train = TrainConfig(batch_size=256, epochs=2, monitor="recall@20")
    config = dataclasses.replace(config, train=train)
    training_loop.train(config, run_dir, validate=lambda model: {"recall@20": 0.25})
    server = program.TensorBoard(default.get_plugins())
    server.configure(argv=[None, "--logdir", str(RunPaths(run_dir).logs), "--host", "127.0.0.1", "--port", "0"])
    return server.launch(), run_dir


def ask(board, path, **query):
    address = f"{board[0]}data/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.read().decode()


def until(question, true):
    """What `question` answers once `true` of it; TensorBoard reads its logs in the background."""
    deadline = time.monotonic() + WAIT
    while not true(answer := question()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer


def test_scalars_show_loss_validation_and_speed(board):
    def tags():
        return json.loads(ask(board, "plugin/scalars/tags"))

    found = until(tags, lambda tags: "epoch_recall@20" in json.dumps(tags))
    shown = {tag for run in found.values() for tag in run}
    expected = {"epoch_loss", "epoch_in_batch_top_10", "epoch_examples_per_second", "epoch_input_bound_fraction"}
    expected.add("epoch_masked_share")
    expected |= {"sampling/cold_share/InBatch", "sampling/popularity_50/positives", "sampling/cosine_mean/InBatch"}
    assert expected | {"epoch_recall@20"} <= shown


def test_histograms_show_every_weight(board):
    def tags():
        return json.loads(ask(board, "plugin/histograms/tags"))

    found = until(tags, lambda tags: "shared_embedding_4" in json.dumps(tags))
    shown = {tag for run in found.values() for tag in run}
    assert {"shared_embedding_4/table", "user_projection/kernel", "item_hidden_1/bias"} <= shown
    assert {"sampling/popularity/InBatch", "sampling/cosine/positives"} <= shown


def test_the_graph_names_both_vector_layers(board):
    info = until(lambda: json.loads(ask(board, "plugin/graphs/info")), bool)
    run = next(name for name, each in info.items() if each["run_graph"])
    graph = ask(board, "plugin/graphs/graph", run=run, limit_attr_size=1024, large_attrs_key="_too_large_attrs")
    assert "user_vector" in graph and "ad_vector" in graph


def test_the_projector_shows_items_by_name(board):
    runs = json.loads(ask(board, "plugin/projector/runs"))
    assert runs
    metadata = ask(board, "plugin/projector/metadata", run=runs[0], name="item vectors").splitlines()
    items = Prepared.open(board[1]).items().to_pylist()
    assert metadata[0] == "item_name\titem_id\ttrain_count"
    assert metadata[1].split("\t") == [items[0]["item_name"], items[0]["item_id"], str(items[0]["train_count"])]
    assert len(metadata) == 1 + len(items)


def test_the_projectors_table_has_one_line_per_item_whatever_the_names(tmp_path):
    names = ["line\nend", "tab\there", 'quote"d', "\x1b[2J", None]
    items = pa.table({"item_name": names, "item_id": list("abcde"), "train_count": [5, 4, 3, 2, 1]})
    write_projector(tmp_path, np.eye(5, dtype=np.float32), items)
    lines = (tmp_path / "items.tsv").read_bytes().decode().split("\n")
    assert lines == [
        "item_name\titem_id\ttrain_count",
        "line\\u000aend\ta\t5",
        "tab\\u0009here\tb\t4",
        'quote"d\tc\t3',
        "\\u001b[2J\td\t2",
        "\te\t1",
        "",
    ]
