"""Writes the two towers as SavedModels: plain `tf.Module`s whose signatures any TensorFlow runtime serves.

A module tracks what its signatures read and nothing else: one tower's weights, for `recommend` the items. No Keras
object, no optimizer slot and no custom operation is in it.

A time is int64 epoch seconds, UTC, and 0 means no value, whatever form the log has: clients of this package convert
(`data.time_form`). Every int64 is a time to the graph; an assertion on its range would fail a whole batch of requests
for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.bundle import saved_model_edits
from twotower_tf.bundle.signature_names import (
    FROM_EXAMPLES,
    ITEM_IDS,
    MODEL_VERSION,
    RECOMMEND,
    SCORES,
    SERVING_DEFAULT,
    VERSION_NODE,
)
from twotower_tf.config.features import Input
from twotower_tf.export import tf_examples
from twotower_tf.features.argument_names import argument_names
from twotower_tf.features.inputs import KINDS
from twotower_tf.features.layout import VECTOR_LAYERS
from twotower_tf.features.tower_encoder import FROM_ENCODED, TowerEncoder, tensor_specs
from twotower_tf.index.item_vectors import ItemVectors

_SPARE = 64  # candidates beyond k that are re-scored in double precision

Raw = Mapping[str, tf.Tensor]


@dataclass(frozen=True)
class Catalogue:
    """What `recommend` answers from: the items in index row order, and k, fewer only where the items are fewer."""

    items: ItemVectors
    k: int


def save(
    path: Path,
    side: TowerEncoder,
    tower: keras.Model,
    names: Mapping[str, str],
    version: int,
    catalogue: Catalogue | None = None,
) -> None:
    """Writes one tower's SavedModel.

    `names` has the sub-model's input by the key of an encoded tensor. With a catalogue the user tower gets `recommend`.
    """
    module = tf.Module()
    module.weights = {_key(variable.name): variable for variable in tower.variables}
    kind = side.layout.side
    aliases = argument_names([each.name for each in side.inputs])

    def answer(encoded: Raw) -> dict[str, tf.Tensor]:
        vector = tower({names[key]: value for key, value in encoded.items()}, training=False)
        return {
            VECTOR_LAYERS[kind]: vector,
            MODEL_VERSION: tf.fill([tf.shape(vector)[0]], tf.constant(version, tf.int64, name=VERSION_NODE)),
        }

    def embed(raw: Raw) -> dict[str, tf.Tensor]:
        return answer(side.encode(_texts(side.inputs, _checked(side.inputs, raw))))

    def serving_default(**arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        return embed({name: arguments[alias] for name, alias in aliases.items()})

    def from_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return embed(_parse(side.inputs, examples))

    def from_encoded(**arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(arguments)

    by_name = {
        aliases[name]: tf.TensorSpec(spec.shape, spec.dtype, aliases[name]) for name, spec in side.signature().items()
    }
    signatures = {
        SERVING_DEFAULT: _trace(serving_default, **by_name),
        FROM_EXAMPLES: _trace(from_examples, tf.TensorSpec([None], tf.string, "examples")),
    }
    if kind == "user":  # for batch scoring, which encodes each distinct value once
        signatures[FROM_ENCODED] = _trace(from_encoded, **tensor_specs(side.layout))
    if catalogue is not None:
        recommend = _recommend(module, catalogue, serving_default)
        signatures[RECOMMEND] = _trace(recommend, **by_name)
    tf.saved_model.save(module, str(path), signatures=signatures)
    written = saved_model_edits.read(path)
    saved_model_edits.rename_inputs(written, {alias: name for name, alias in aliases.items() if alias != name})
    if catalogue is not None:
        saved_model_edits.state_answers(written, min(catalogue.k, len(catalogue.items)))
    saved_model_edits.write(path, written)


def _recommend(
    module: tf.Module, catalogue: Catalogue, serving_default: Callable[..., dict[str, tf.Tensor]]
) -> Callable[..., dict[str, tf.Tensor]]:
    """Gives the module the items, of any number, so that a refreshed catalogue fits the same graph; the signature."""
    module.item_ids = tf.Variable(
        catalogue.items.ids.astype(str), trainable=False, dtype=tf.string, name="item_ids", shape=[None]
    )
    module.item_vectors = tf.Variable(
        catalogue.items.vectors, trainable=False, name="item_vectors", shape=[None, catalogue.items.dim]
    )

    def recommend(**arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = serving_default(**arguments)
        rows, scores = nearest(answer[VECTOR_LAYERS["user"]], module.item_vectors, catalogue.k)
        ids = tf.gather(module.item_ids, rows)
        return {ITEM_IDS: ids, SCORES: scores, MODEL_VERSION: answer[MODEL_VERSION]}

    return recommend


def _trace(function: Callable[..., Any], *args: tf.TensorSpec, **kwargs: tf.TensorSpec) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(*args, **kwargs)


def _key(name: str) -> str:
    """Returns a variable's name as a checkpoint key: "layer-kernel", without the slash and the output's number."""
    return name.partition(":")[0].replace("/", "-")


def _checked(inputs: Sequence[Input], raw: Raw) -> dict[str, tf.Tensor]:
    """Checks ranks and batch sizes, which servers do not: an INVALID_ARGUMENT names the input."""
    checked = {each.name: tf.ensure_shape(raw[each.name], [None] * KINDS[each.kind].rank) for each in inputs}
    rows = {name: tf.shape(tensor)[0] for name, tensor in checked.items()}
    said: list[Any] = ["invalid batch sizes (expected the same for all inputs of a request); got"]
    for name, size in rows.items():
        said += [name, size]
    sizes = tf.stack(list(rows.values()))
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(tf.equal(sizes, sizes[0])), said, summarize=1)]):
        return {name: tf.identity(tensor) for name, tensor in checked.items()}


def _texts(inputs: Sequence[Input], raw: Raw) -> dict[str, tf.Tensor]:
    """Returns raw inputs of several values as training has them: split, without empty ones, cut to the length.

    Those with times stay as they are: a value that is missing keeps its place until the gaps are known.
    """
    lists = [each.name for each in inputs if each.kind == "texts" and not each.timed]
    by_name = {each.name: each for each in inputs}
    return {name: _list(by_name[name], raw[name]) if name in lists else raw[name] for name in by_name}


def _list(spec: Input, values: tf.Tensor) -> tf.Tensor:
    """Converts `[batch, any]` texts to `[batch, at most max_length + 1]`: values first, then padding."""
    if spec.separator:
        ragged = tf.strings.split(tf.strings.reduce_join(values, axis=1, separator=spec.separator), spec.separator)
        ragged = ragged.with_flat_values(tf.strings.strip(ragged.flat_values))
    else:
        ragged = tf.RaggedTensor.from_tensor(values)
    ragged = tf.ragged.boolean_mask(ragged, tf.not_equal(ragged, ""))
    ragged = ragged[:, -spec.max_length :] if spec.keep_last else ragged[:, : spec.max_length]
    return tf.pad(ragged.to_tensor(""), [[0, 0], [0, 1]], constant_values="")


def _parse(inputs: Sequence[Input], serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    return tf_examples.decode(inputs, tf.ensure_shape(serialized, [None]))


def nearest(queries: tf.Tensor, vectors: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the exact top-k by cosine, in plain operations, ranked as in `index.exact`.

    A float32 matrix product finds the candidates; their scores are recomputed in double precision and rounded once,
    so that equal vectors score equally; equal scores are ranked by row.

    Args:
        queries: `[batch, dim]` float32, unit length.
        vectors: `[items, dim]` float32, unit length.
        k: answers wanted; all items where there are fewer.

    Returns:
        rows int32 `[batch, k]` and scores float32 `[batch, k]`, descending.
    """
    items = tf.shape(vectors)[0]
    candidates = tf.minimum(k + _SPARE, items)
    rough = tf.matmul(queries, vectors, transpose_b=True)
    rows = tf.sort(tf.math.top_k(rough, candidates).indices, axis=1)
    held = tf.cast(tf.gather(vectors, rows), tf.float64)
    scores = tf.cast(tf.linalg.matvec(held, tf.cast(queries, tf.float64)), tf.float32)
    best = tf.math.top_k(scores, tf.minimum(k, items))  # equal scores: the earlier candidate, which is the lower row
    return tf.gather(rows, best.indices, batch_dims=1), best.values
