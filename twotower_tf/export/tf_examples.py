"""Decodes serialized `tf.Example`s to a tower's raw inputs, in stock operations, for any type of value list.

`tf.io.parse_example` refuses an int64_list where text is expected; yet logs hold 3 here and "3" there. So the message
is taken apart by `tf.io.decode_proto`, and the rule of `data.values` (3 and 3.0 are the text "3") is applied in the
graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from google.protobuf import descriptor_pb2
from tensorflow.core.example import example_pb2, feature_pb2

from twotower_tf.config.features import Input

_LISTS = (
    ("bytes_list", "BytesList", tf.string),
    ("float_list", "FloatList", tf.float32),
    ("int64_list", "Int64List", tf.int64),
)
_DIGITS = (9, 8, 7, 6)  # nine significant digits distinguish any two float32; six and fewer are one format
_EXACT = 2.0**63  # as in data.values


def decode(inputs: Sequence[Input], examples: tf.Tensor) -> dict[str, tf.Tensor]:
    """Takes the inputs' features out of examples, `[batch]` string, serialized `tf.Example`.

    Returns:
        Input name to raw tensor as in the tower's signature; an absent or empty feature means no value. The graph
        raises InvalidArgumentError for bytes that are not an Example, several values for an input of one value, and
        text that is not a number.
    """
    # One more example: decode_proto takes no empty tensor, be it a batch without rows or rows without features.
    filler = tf.train.Example(features=tf.train.Features(feature={"": tf.train.Feature()})).SerializeToString()
    features = _features([each.name for each in inputs], tf.concat([_checked(examples), [filler]], axis=0))
    return {each.name: _values(each, features[:, position])[:-1] for position, each in enumerate(inputs)}


def _checked(examples: tf.Tensor) -> tf.Tensor:
    """Fails with parse_example's InvalidArgumentError where decode_proto's would be a DataLossError."""
    parsed = tf.io.parse_example(examples, {"": tf.io.VarLenFeature(tf.string)})[""]
    # The result has to be used: optimizers remove what only a control dependency asks for.
    return tf.gather(examples, tf.range(parsed.dense_shape[0]))


def _descriptors() -> bytes:
    """Returns the message types, so that the graph does not depend on those that a server has linked."""
    files = descriptor_pb2.FileDescriptorSet()
    for module in (feature_pb2, example_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
        files.file[-1].ClearField("options")
    return b"bytes://" + bytes(files.SerializeToString(deterministic=True))


def _decoded(message: str, fields: dict[str, tf.DType], serialized: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
    sizes, values = tf.io.decode_proto(
        serialized, f"tensorflow.{message}", list(fields), list(fields.values()), descriptor_source=_descriptors()
    )
    return sizes, values


def _features(names: Sequence[str], examples: tf.Tensor) -> tf.Tensor:
    """Returns serialized `tensorflow.Feature` `[batch, names]`; "" for a name that the example lacks."""
    _, (features,) = _decoded("Example", {"features": tf.string}, examples)
    _, (entries,) = _decoded("Features", {"feature": tf.string}, features[:, 0])
    _, (keys, values) = _decoded("Features.FeatureEntry", {"key": tf.string, "value": tf.string}, entries)
    same = tf.equal(keys, tf.constant(names, tf.string))  # [batch, entries, names]
    place = tf.reduce_max(tf.where(same, tf.range(1, tf.shape(keys)[1] + 1)[:, tf.newaxis], 0), axis=1)
    values = tf.pad(values[:, :, 0], [[0, 0], [1, 0]], constant_values="")
    return tf.gather(values, place, batch_dims=1)


def _values(spec: Input, feature: tf.Tensor) -> tf.Tensor:
    """Returns one input's raw tensor from its serialized features `[batch]`."""
    _, lists = _decoded("Feature", {name: tf.string for name, _, _ in _LISTS}, feature)
    parts, counts = [], []
    for (_, message, dtype), serialized in zip(_LISTS, lists, strict=True):
        sizes, (values,) = _decoded(message, {"value": dtype}, serialized[:, 0])
        present = tf.sequence_mask(sizes[:, 0], tf.shape(values)[1])
        parts.append(_CONVERTED[spec.kind](values, present))
        counts.append(sizes[:, 0])
    # A feature is one of the lists: at most one part of a row holds values.
    if spec.timed or spec.kind == "times":
        return _overlay(parts)
    joined = tf.concat(parts, axis=1)
    if spec.kind == "texts":
        return joined
    count = tf.add_n(counts)
    message = f"feature {spec.name}: invalid number of values (expected at most one per example); got"
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(count <= 1), [message, count])]):
        return _single(spec.kind, tf.identity(joined))


def _overlay(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Joins lists `[batch, places]` of texts or times, of which one of a row has values, place by place."""
    width = tf.reduce_max([tf.shape(part)[1] for part in parts])
    text = parts[0].dtype == tf.string
    filler: Any = "" if text else 0
    wide = [
        tf.pad(part, [[0, 0], [0, width - tf.shape(part)[1]]], constant_values=tf.constant(filler, part.dtype))
        for part in parts
    ]
    return tf.strings.join(wide) if text else tf.add_n(wide)


def _single(kind: str, values: tf.Tensor) -> tf.Tensor:
    """Returns the one value of each row of `[batch, places]`; the other places hold no value."""
    if kind == "text":
        return tf.strings.reduce_join(values, axis=1)
    if kind == "time":
        return tf.reduce_sum(values, axis=1)
    present = tf.logical_not(tf.math.is_nan(values))
    value = tf.reduce_sum(tf.where(present, values, 0.0), axis=1)
    return tf.where(tf.reduce_any(present, axis=1), value, float("nan"))


def _text(values: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
    if values.dtype == tf.float32:
        values = _float_text(values)
    elif values.dtype == tf.int64:
        values = tf.strings.as_string(values)
    return tf.where(present, values, "")


def _float_text(values: tf.Tensor) -> tf.Tensor:
    """Formats float32 as `tables.values.as_text` does: an integer's text, else the shortest; "" for NaN."""
    text = tf.strings.as_string(values, precision=_DIGITS[0], shortest=True)
    for digits in _DIGITS[1:]:
        shorter = tf.strings.as_string(values, precision=digits, shortest=True)
        text = tf.where(tf.equal(tf.strings.to_number(shorter), values), shorter, text)
    integral = tf.equal(values, tf.floor(values)) & (tf.abs(values) < _EXACT)
    whole = tf.strings.as_string(tf.cast(tf.where(integral, values, 0.0), tf.int64))
    return tf.where(tf.math.is_nan(values), "", tf.where(integral, whole, text))


def _number(values: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
    if values.dtype == tf.string:
        values = tf.strings.to_number(tf.where(tf.equal(values, ""), "nan", values))
    return tf.where(present, tf.cast(values, tf.float32), float("nan"))


def _time(values: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
    if values.dtype == tf.string:
        values = tf.strings.to_number(tf.where(tf.equal(values, ""), "0", values), tf.int64)
    elif values.dtype == tf.float32:
        values = tf.where(tf.math.is_finite(values), values, 0.0)
    return tf.where(present, tf.cast(values, tf.int64), tf.zeros([], tf.int64))


_CONVERTED = {"text": _text, "texts": _text, "number": _number, "time": _time, "times": _time}
