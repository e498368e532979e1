"""Fields that a search varies: which ones by default, whether they can, and a configuration with their values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from twotower_tf import config as configuration
from twotower_tf.config import Choice, ExperimentConfig, FloatRange, IntRange, LogUniform, Space, TuneConfig
from twotower_tf.config.overrides import parse_literal
from twotower_tf.errors import ConfigError

Value = bool | int | float | str | None

# What decides on which rows, and by which metric, trials are compared, and what has no effect on them.
_FIXED = ("name", "data", "seed", "evaluation", "index", "tune", "train.monitor", "train.checkpoint_minutes")
_DECADE = 10.0  # default range of a learning rate, either way


def with_search(config: ExperimentConfig, trials: int | None, spaces: Mapping[str, Space]) -> ExperimentConfig:
    """Returns the configuration with the search of a command: more spaces, another number of trials.

    Args:
        config: the experiment; its `tune.space` {} becomes the default space, unless `spaces` are given.
        trials: in place of `tune.trials`; None keeps it.
        spaces: by field, in addition to or in place of those of `tune.space`.

    Raises:
        ConfigError: where a field of the space does not exist, cannot be searched, or cannot have one of its values;
            where there is no metric to search by.
    """
    if not config.train.monitor:
        raise ConfigError('train.monitor: invalid value "" for a search (expected a metric, such as "recall@20")')
    space = {**config.tune.space, **spaces} or default_space(config)
    for field, values in space.items():
        check_space(config, field, values)
    tune = TuneConfig(trials=trials or config.tune.trials, space=space, pruner=config.tune.pruner)
    return dataclasses.replace(config, tune=tune)


def parse_spaces(texts: Sequence[str]) -> dict[str, Space]:
    """Parses `FIELD=SPACE` texts, such as `loss.temperature=LogUniform(0.03, 0.3)`.

    Raises:
        ConfigError: for a text of another form, or an invalid space.
    """
    found: dict[str, Space] = {}
    for text in texts:
        field, equals, value = text.partition("=")
        try:
            space = parse_literal(value) if equals else None
        except ConfigError as error:
            raise ConfigError(f"--space {text}: {error}") from None
        if not isinstance(space, LogUniform | FloatRange | IntRange | Choice):
            raise ConfigError(
                f"--space: invalid value {text!r} (expected FIELD=SPACE, a space being LogUniform(low, high), "
                "FloatRange(low, high), IntRange(low, high) or Choice((value, ...)))"
            )
        found[field.strip()] = space
    return found


def default_space(config: ExperimentConfig) -> dict[str, Space]:
    """Returns the space of a search that names none: what most decides how good a model becomes."""
    towers, tables = config.train.initial_lr, config.train.table_optimizer.initial_lr
    space: dict[str, Space] = {
        "train.initial_lr": LogUniform(towers / _DECADE, towers * _DECADE),
        "train.table_optimizer.initial_lr": LogUniform(tables / _DECADE, tables * _DECADE),
    }
    if hasattr(config.loss, "temperature"):
        space["loss.temperature"] = LogUniform(0.03, 0.3)
    elif hasattr(config.loss, "margin"):
        space["loss.margin"] = FloatRange(0.1, 0.9)
    if config.model.user_hidden or config.model.item_hidden:
        space["model.dropout"] = FloatRange(0.0, 0.4)
    dim = config.model.embedding_dim
    if config.model.combine == "concatenate":  # otherwise embeddings have the dimension of the vectors
        space["model.embedding_dim"] = Choice((max(1, dim // 2), dim, 2 * dim))
    return space


def check_space(config: ExperimentConfig, field: str, space: Space) -> None:
    """Checks that a field exists, may vary in a search, and may have the smallest, the largest and every given value.

    Raises:
        ConfigError: naming the field.
    """
    fixed = next((name for name in _FIXED if field == name or field.startswith(f"{name}.")), None)
    if fixed:
        raise ConfigError(
            f"tune.space: invalid field {field!r} (expected one that changes the model, not what models are compared "
            f"by: {', '.join(_FIXED)}); leave it out"
        )
    tried: Sequence[Value] = space.values if isinstance(space, Choice) else (space.low, space.high)
    for value in tried:
        try:
            with_values(config, {field: value})
        except ConfigError as error:
            raise ConfigError(f"tune.space: {str(error).removeprefix('--set ')}") from None


def with_values(config: ExperimentConfig, values: Mapping[str, Value]) -> ExperimentConfig:
    """Returns the configuration with fields set to values, by the rules of `--set`.

    Raises:
        ConfigError: where a field does not exist or cannot have its value, alone or together with the others.
    """
    return configuration.override(config, [f"{field}={format_value(value)}" for field, value in values.items()])


def format_value(value: Value) -> str:
    """Formats a value as `--set` takes it."""
    return value if isinstance(value, str) else repr(value)


def current_values(config: ExperimentConfig) -> dict[str, Value]:
    """Returns those of the searched fields whose present value is in their space."""
    found: dict[str, Value] = {}
    for field, space in config.tune.space.items():
        if isinstance(space, Choice):
            for value in space.values:
                if with_values(config, {field: value}) == config:
                    found[field] = value
                    break
        else:
            value = _read(config, field)
            if isinstance(value, int | float) and not isinstance(value, bool) and space.low <= value <= space.high:
                found[field] = value
    return found


def _read(config: ExperimentConfig, field: str) -> Any:
    node: Any = config
    for part in field.split("."):
        node = node[int(part)] if isinstance(node, tuple) else getattr(node, part)
    return node
