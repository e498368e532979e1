"""One side's network: embeddings, hidden layers, a unit-length vector."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import ExperimentConfig, History, feature_name
from twotower_tf.config.checks import list_causal_histories
from twotower_tf.config.features import SideName
from twotower_tf.features.layout import IDS, NUMERIC, VECTOR_LAYERS, Layout
from twotower_tf.features.tower_encoder import tensor_specs
from twotower_tf.model import history
from twotower_tf.model.embeddings import EmbeddingTable, Key, Placement
from twotower_tf.model.layers import (
    AddEmbeddings,
    Dense,
    Dropout,
    InputKernel,
    ProjectionKernel,
    UnitLength,
    ValueDropout,
)

# Ends the keys of int32 [rows, 2]: by training row the place of its sequence, and how many of its values it has seen.
PLACES = "_places"
_NORM_EPSILON = 1e-6  # added to the variance


def input_name(side: SideName, key: str) -> str:
    """Returns the name of the Keras input of an encoded tensor."""
    return f"{side}_{key}"


def inputs(config: ExperimentConfig, side: SideName) -> dict[str, keras.KerasTensor]:
    """Keras inputs of one tower, by key of the encoded tensor; of sequences also their rows' places, see `PLACES`."""
    specs = tensor_specs(Layout(config, side))
    specs |= {key + PLACES: tf.TensorSpec([None, 2], tf.int32) for key in sequence_keys(config, side)}
    return {key: keras.Input(type_spec=spec, name=input_name(side, key)) for key, spec in specs.items()}


def sequence_keys(config: ExperimentConfig, side: SideName) -> list[str]:
    """Lists the keys of the encoded tensors that training gives as sequences, `[sequences, length]`."""
    if side != "user" or not config.train.sequences:
        return []
    values = Layout(config, side).values
    return [values[each.name] for each in list_causal_histories(config.user_features)]


def tower(
    config: ExperimentConfig,
    side: SideName,
    encoded: Mapping[str, Any],
    tables: Mapping[str, EmbeddingTable],
    placed: Mapping[Key, Placement],
) -> Any:
    """Builds one tower onto its inputs.

    Args:
        config: the experiment.
        side: whose tower.
        encoded: Keras tensors by key, of `inputs`.
        tables: the embedding layers by name.
        placed: where each feature's embeddings lie.

    Returns:
        The Keras tensor float32 `[batch, vector_dim]` of the layer named `user_vector` or `ad_vector`.
    """
    hidden = config.model.user_hidden if side == "user" else config.model.item_hidden
    parts, numbers = _embedded(config, side, encoded, tables, placed)
    x = parts[0] if len(parts) == 1 else keras.layers.Concatenate(name=f"{side}_features")(parts)
    if added := config.model.combine == "add":
        dims = [place.dim for (owner, _), place in placed.items() if owner == side]
        dims += [each.embedding_dim or 1 for each in Layout(config, side).numeric]  # all alike, as was checked
        x, numbers = AddEmbeddings(dims[0], name=f"{side}_sum")(x), []
    for depth, units in enumerate(hidden, 1):
        x = _block(config, x, units, f"{side}_hidden_{depth}", numbers)
        numbers = []
    if added and not hidden:
        return UnitLength(name=VECTOR_LAYERS[side])(x)
    width = config.model.vector_dim
    kernel = {} if hidden or numbers or x.shape[-1] != width else {"kernel_initializer": ProjectionKernel()}
    x = _dense(config, width, f"{side}_projection", numbers, **kernel)(x)
    return UnitLength(name=VECTOR_LAYERS[side])(x)


def _embedded(
    config: ExperimentConfig,
    side: SideName,
    encoded: Mapping[str, Any],
    tables: Mapping[str, EmbeddingTable],
    placed: Mapping[Key, Placement],
) -> tuple[list[Any], list[int]]:
    """Embeds one side's features, with one gather per physical table.

    Returns:
        Keras tensors `[batch, width]`, and which columns of their concatenation are numbers.
    """
    layout = Layout(config, side)
    encoded = _leave_out(config, side, encoded, layout)
    parts = []
    groups: dict[str, list[int]] = {}
    places = [placed[side, feature_name(each)] for each in layout.single]
    for column, place in enumerate(places):
        groups.setdefault(place.table, []).append(column)
    for table, columns in groups.items():
        ids = encoded[IDS] if len(columns) == len(places) else tf.gather(encoded[IDS], columns, axis=1)
        chosen = [places[column] for column in columns]
        embedded = tables[table](
            ids, offsets=[place.offset for place in chosen], paired=[place.paired for place in chosen]
        )
        parts.append(keras.layers.Reshape((len(columns) * tables[table].dim,), name=f"{side}_{table}")(embedded))
    numbers = []
    for column, each in enumerate(layout.numeric):
        value = encoded[NUMERIC][:, column : column + 1]
        if each.embedding_dim:
            label = f"{side}_numeric_{column}_embedding"
            kernel = InputKernel([0])
            value = keras.layers.Dense(each.embedding_dim, use_bias=False, kernel_initializer=kernel, name=label)(value)
        numbers.append(value)

    def encode_list(number: int, context: Sequence[Any]) -> Any:
        each = layout.multivalued[number]
        name = feature_name(each)
        place, key = placed[side, name], layout.values[name]
        label, rows = f"{side}_history_{number}", encoded.get(key + PLACES)
        gaps = encoded.get(layout.gaps.get(name, ""))
        return history.encode(each, tables[place.table], encoded[key], place, label, config, context, rows, gaps)

    past = [number for number, each in enumerate(layout.multivalued) if isinstance(each, History)]
    lists = {number: encode_list(number, ()) for number in range(len(layout.multivalued)) if number not in past}
    context = [*parts, *lists.values(), *numbers]
    lists |= {number: encode_list(number, context) for number in past}
    joined = [*parts, *(lists[number] for number in range(len(layout.multivalued)))]
    columns = []
    for each, value in zip(layout.numeric, numbers, strict=True):
        if not each.embedding_dim:
            columns.append(sum(part.shape[-1] for part in joined))
        joined.append(value)
    return joined, columns


def _leave_out(config: ExperimentConfig, side: SideName, encoded: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Drops values in training, by the features' `dropout`."""
    rates = {IDS: [each.dropout for each in layout.single], NUMERIC: [each.dropout for each in layout.numeric]}
    rates |= {layout.values[feature_name(each)]: [each.dropout] for each in layout.multivalued}
    found = dict(encoded)
    for key, chances in rates.items():
        if any(chances):
            name = f"{side}_{key}_dropout"
            found[key] = ValueDropout(chances, config.seed + zlib.crc32(name.encode()), name=name)(found[key])
    return found


def _dense(config: ExperimentConfig, units: int, name: str, numbers: Sequence[int], **options: Any) -> Dense:
    options = {"kernel_initializer": InputKernel(numbers), **options}
    return Dense(units, mixed=config.train.mixed, name=name, **options)


def _block(config: ExperimentConfig, x: Any, units: int, name: str, numbers: Sequence[int]) -> Any:
    """Applies a hidden layer; with `residual`, its input is added, through a projection where the widths differ."""
    y = x
    if config.model.layer_norm:
        y = keras.layers.LayerNormalization(epsilon=_NORM_EPSILON, name=f"{name}_norm")(x)
    y = _dense(config, units, name, numbers, activation=config.model.activation)(y)
    if config.model.residual:
        fits = x.shape[-1] == units
        shortcut = x if fits else _dense(config, units, f"{name}_shortcut", numbers, use_bias=False)(x)
        y = keras.layers.Add(name=f"{name}_residual")([y, shortcut])
    if config.model.dropout:
        seed = config.seed + zlib.crc32(name.encode())
        y = Dropout(config.model.dropout, seed, name=f"{name}_dropout")(y)
    return y
