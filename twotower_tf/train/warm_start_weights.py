"""Initializes a model with the weights of an earlier one, e.g. for daily retraining."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.config.features import SideName
from twotower_tf.errors import ArtifactError, ConfigError
from twotower_tf.model import two_tower
from twotower_tf.model.row_shards import Rows
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.train import weights_io
from twotower_tf.train.checkpoints import Checkpoints

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_NOT_WEIGHTS = ("dropout",)  # fields of the model that no weight depends on


def start(config: ExperimentConfig, model: TwoTower, source: Path) -> None:
    """Reads the weights of the towers, and from a run directory with an equal loss those of the loss.

    The optimizer state is not read.

    Args:
        config: of the training that begins.
        model: of `two_tower.build`; receives the weights.
        source: a trained run directory, or the directory of a bundle's version.

    Raises:
        ArtifactError: where `source` is neither, is damaged, or lacks a weight.
        ConfigError: where its features or its model are others.
    """
    source = Path(source)
    bundle = (source / "saved_model.pb").is_file()
    if not bundle and not RunPaths(source).checkpoints.is_dir():
        raise ArtifactError(
            f"--warm_start: invalid directory '{source}' (expected a trained run directory or a bundle)"
        )
    other = configuration.load_run(source)  # a bundle's version has the file under the same name
    _require_same(config, other, source)
    user, item = _tower(model, "user"), _tower(model, "item")
    if bundle:
        _read_bundle(source, user)
        _read_bundle(source / "item_tower", item)
        return
    towers = user | item
    weights = Checkpoints(other, source).best_weights()
    weights_io.read(weights, towers)
    rest = {name: weight for name, weight in weights_io.names(model.trainable_weights).items() if name not in towers}
    if other.loss == config.loss:
        weights_io.read(weights, rest)


def _tower(model: TwoTower, side: SideName) -> dict[str, Rows]:
    return weights_io.names(two_tower.tower(model, side).trainable_weights)


def _require_same(config: ExperimentConfig, other: ExperimentConfig, source: Path) -> None:
    for part in ("item_features", "user_features"):
        before, now = ([dataclasses.replace(each, dropout=0.0) for each in getattr(of, part)] for of in (other, config))
        if before != now:
            pairs = itertools.zip_longest(before, now)
            was, got = next(pair for pair in pairs if pair[0] != pair[1])
            raise ConfigError(f"--warm_start: {source} has other {part}: {was} there, {got} here; train without it")
    for field in dataclasses.fields(config.model):
        was, got = getattr(other.model, field.name), getattr(config.model, field.name)
        if was != got and field.name not in _NOT_WEIGHTS:
            raise ConfigError(
                f"--warm_start: {source} has another model: model.{field.name} is {was!r} there and {got!r} here; "
                "train without it"
            )


def _read_bundle(path: Path, weights: Mapping[str, Rows]) -> None:
    """Reads a SavedModel's variables, which its table of objects lists by their full names."""
    prefix = path / "variables" / "variables"
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_GRAPH))
        keys = {each.full_name: each.checkpoint_key for node in graph.nodes for each in node.attributes}
        for weight in weights.values():
            full_name = weight.name.partition(":")[0]
            if full_name not in keys:
                raise ArtifactError(f"{path}: has no weight {full_name}; it is of another model")
            value = reader.get_tensor(keys[full_name])
            if value.shape != tuple(weight.shape):
                raise ArtifactError(
                    f"{path}: {full_name} is {list(value.shape)} there and {list(weight.shape)} here; "
                    "it is of another model"
                )
            weights_io.assign(weight, value)
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise ArtifactError(f"{prefix}.*: damaged: {str(error).splitlines()[0]}") from None
