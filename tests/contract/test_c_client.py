"""The towers run by a program in C: no Python, no Keras, only TensorFlow's C library and the bundle's files."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

SOURCE = Path(__file__).with_name("client.c")
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"}
USER = {
    "user_id": ("string", "u000137"),
    "country": ("string", "US"),
    "age": ("float", "30"),
    "interests": ("strings", "cars"),
    "device_type": ("string", "tablet"),
    "timestamp": ("int64", "1736531435"),
    "history": ("strings", "i00114"),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (Debian: apt-get install gcc libc6-dev)")
    package = Path(importlib.util.find_spec("tensorflow").origin).parent
    if not (package / "libtensorflow_cc.so.2").exists():
        pytest.skip("this tensorflow package brings no C library")
    place = tmp_path_factory.mktemp("c")
    # Linking with a library of a gigabyte takes long: a stand-in of the same name has the functions' names.
    functions = sorted(set(re.findall(r"\b(TF_\w+)\(", SOURCE.read_text())))
    (place / "names.c").write_text("".join(f"void {name}(void) {{}}\n" for name in functions))
    library, program = place / "libtensorflow_cc.so.2", place / "client"
    for command in (
        ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", str(place / "names.c"), "-o", str(library)],
        ["-O1", f"-I{package}/include", str(SOURCE), str(library), f"-Wl,-rpath,{package}", "-o", str(program)],
    ):
        subprocess.run([compiler, "-Wall", "-Werror", *command], check=True, timeout=120)
    library.unlink()
    return program


def signature(path, name="serving_default"):
    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    return model.meta_graphs[0].signature_def[name]


def arguments(path, values, output):
    found = signature(path)
    words = [str(path)]
    for name, (kind, value) in values.items():
        words += [kind, found.inputs[name].name, value]
    return [*words, "output", found.outputs[output].name]


def start(program, words):
    return subprocess.Popen(
        [str(program), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=QUIET
    )


def numbers(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-2000:]
    return np.array(out.split(), np.float32)


def test_both_towers_give_the_same_vectors(client, export_dir):
    bundle = export_dir / "7"
    row = pq.read_table(bundle / "items.parquet").slice(17, 1).to_pylist()[0]
    item = {
        "item_id": ("string", row["item_id"]),
        "category": ("string", row["category"] or ""),
        "price": ("float", "nan" if row["price"] is None else repr(row["price"])),
    }
    running = [
        start(client, arguments(bundle / "item_tower", item, "ad_vector")),
        start(client, arguments(bundle, USER, "user_vector")),
    ]
    item_vector, user_vector = map(numbers, running)
    lines = (line.split("\t") for line in (bundle / "item_embeddings.tsv").read_text().splitlines())
    expected = next(np.array(text.split(","), np.float32) for name, text in lines if name == row["item_id"])
    np.testing.assert_allclose(item_vector, expected, atol=1e-5)
    tower = tf.saved_model.load(str(bundle)).signatures["serving_default"]
    kinds = {"string": tf.string, "float": tf.float32, "int64": tf.int64}
    feeds = {
        name: tf.constant([[value]]) if kind == "strings" else
        tf.constant([value if kind == "string" else float(value) if kind == "float" else int(value)], kinds[kind])
        for name, (kind, value) in USER.items()
    }  # fmt: skip
    np.testing.assert_allclose(user_vector, tower(**feeds)["user_vector"][0], atol=1e-5)


def test_a_wrong_shape_is_an_invalid_argument_that_names_the_input(client, export_dir):
    wrong = USER | {"country": ("strings", "US")}
    process = start(client, arguments(export_dir / "7", wrong, "user_vector"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert (
        "run: Shape of tensor" in err and "country" in err and "[1,1] is not compatible with expected shape [?]" in err
    )
