"""Edits a written SavedModel without its model: names of inputs, version, embedded catalogue.

`saved_model.pb` is edited as the protocol buffer that it is, and weights are never read or written again. So a version
can be made from another one without the code, or the framework, that trained it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from twotower_tf.bundle import signature_names
from twotower_tf.errors import ArtifactError
from twotower_tf.index.item_vectors import ItemVectors

FILE = "saved_model.pb"
VARIABLES = "variables/variables"
_FINGERPRINT = "fingerprint.pb"  # TensorFlow's own, of the file as it was first written
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def read(path: Path) -> Any:
    """Reads the SavedModel in directory `path` as a protocol buffer.

    Raises:
        ArtifactError: where it is missing or none.
    """
    file = path / FILE
    try:
        model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        model.meta_graphs[0]
    except FileNotFoundError:
        raise ArtifactError(f"{file}: missing") from None
    except (DecodeError, IndexError):
        raise ArtifactError(f"{file}: damaged: no SavedModel") from None
    return model


def write(path: Path, model: Any) -> None:
    """Replaces directory `path`'s SavedModel; the file may be a hard link, whose other names keep the old one."""
    (path / FILE).unlink(missing_ok=True)
    (path / FILE).write_bytes(model.SerializeToString(deterministic=True))
    (path / _FINGERPRINT).unlink(missing_ok=True)


def list_signatures(model: Any) -> dict[str, Any]:
    """Returns the signatures by name."""
    found = model.meta_graphs[0].signature_def
    return {name: found[name] for name in sorted(found) if not name.startswith("__")}


def rename_inputs(model: Any, names: Mapping[str, str]) -> None:
    """Gives the signatures' inputs the names of their columns, where these are not Python identifiers."""
    for signature in model.meta_graphs[0].signature_def.values():
        for alias, name in names.items():
            if alias in signature.inputs:
                signature.inputs[name].CopyFrom(signature.inputs[alias])
                del signature.inputs[alias]


def state_version(model: Any, version: int, where: Path) -> None:
    """Makes every signature answer as `version`.

    Raises:
        ArtifactError: where the graph does not say its version by that constant.
    """
    found = 0
    for function in model.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op == "Const" and node.name.rpartition("/")[2].startswith(signature_names.VERSION_NODE):
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(version, tf.int64))
                found += 1
    if not found:
        raise ArtifactError(
            f"{where / FILE}: its version cannot be changed: its graph has no constant {signature_names.VERSION_NODE!r}"
        )


def state_answers(model: Any, k: int) -> None:
    """Says how many items `recommend` answers with."""
    outputs = model.meta_graphs[0].signature_def[signature_names.RECOMMEND].outputs
    for name in (signature_names.ITEM_IDS, signature_names.SCORES):
        outputs[name].tensor_shape.dim[1].size = k


@contextlib.contextmanager
def open_variables(path: Path) -> Iterator[Any]:
    """Opens the variables of the SavedModel in directory `path`, as a reader of checkpoints.

    Raises:
        ArtifactError: where they cannot be read, inside the context too.
    """
    prefix = path / VARIABLES
    try:
        yield tf.train.load_checkpoint(str(prefix))
    except (tf.errors.OpError, RuntimeError) as error:
        raise ArtifactError(f"{prefix}.*: damaged: {str(error).splitlines()[0]}") from None


def copy_variables(source: Path, target: Path, items: ItemVectors) -> None:
    """Writes the variables of a user tower into another directory, with other items for `recommend`.

    Raises:
        ArtifactError: where they cannot be read.
    """
    with open_variables(source) as reader:
        types = reader.get_variable_to_dtype_map()
        read = tf.raw_ops.RestoreV2(  # as tensors: a NumPy array of a table would be copied to be written
            prefix=str(source / VARIABLES),
            tensor_names=list(types),
            shape_and_slices=[""] * len(types),
            dtypes=list(types.values()),
        )
        values = dict(zip(types, read, strict=True))
    values[signature_names.EMBEDDED_IDS + _VALUE] = items.ids.astype(str)
    values[signature_names.EMBEDDED_VECTORS + _VALUE] = items.vectors
    (target / VARIABLES).parent.mkdir(parents=True)
    keys = sorted(values)
    tf.raw_ops.SaveV2(
        prefix=str(target / VARIABLES),
        tensor_names=keys,
        shape_and_slices=[""] * len(keys),
        tensors=[values[key] for key in keys],
    )
