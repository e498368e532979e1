"""Configuration of a hyper-parameter search: the fields that vary, and the values that they may have."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from twotower_tf.config.base import Positive, PositiveFloat, config_class
from twotower_tf.errors import ConfigError

_Float = Annotated[float, Field(allow_inf_nan=False)]


@config_class
class LogUniform:
    """A number between two positive ones, uniform on a logarithmic scale: for learning rates and temperatures.

    Attributes:
        low: smallest value.
        high: largest value.
    """

    low: PositiveFloat
    high: PositiveFloat
    type: Literal["LogUniform"] = "LogUniform"

    def __post_init__(self) -> None:
        """Checks the order."""
        _check_order("LogUniform", self.low, self.high)


@config_class
class FloatRange:
    """A number between two others, uniform.

    Attributes:
        low: smallest value.
        high: largest value.
    """

    low: _Float
    high: _Float
    type: Literal["FloatRange"] = "FloatRange"

    def __post_init__(self) -> None:
        """Checks the order."""
        _check_order("FloatRange", self.low, self.high)


@config_class
class IntRange:
    """A whole number between two others, both included.

    Attributes:
        low: smallest value.
        high: largest value.
        log: uniform on a logarithmic scale, from 1 on.
    """

    low: int
    high: int
    log: bool = False
    type: Literal["IntRange"] = "IntRange"

    def __post_init__(self) -> None:
        """Checks the order."""
        _check_order("IntRange", self.low, self.high)
        if self.log and self.low < 1:
            raise ConfigError(f"IntRange.low: invalid value {self.low} (expected at least 1 with log=True)")


@config_class
class Choice:
    """One of the given values, which have no order.

    Attributes:
        values: numbers, True, False, None, or texts as in `--set`: "(128, 64)", "InBatchSoftmax()".
    """

    values: Annotated[tuple[bool | int | float | str | None, ...], Field(min_length=2)]
    type: Literal["Choice"] = "Choice"


Space = Annotated[LogUniform | FloatRange | IntRange | Choice, Field(discriminator="type")]


@config_class
class TuneConfig:
    """The hyper-parameter search of `twotower tune`, on validation data.

    Attributes:
        trials: trainings, finished, pruned and failed ones together.
        space: values by field, whose names are those of `--set`, e.g. `{"loss.temperature": LogUniform(0.03, 0.3)}`. {}
            searches learning rates, the loss's temperature or margin, dropout and the embeddings' dimension.
        pruner: which trials end early by `train.monitor` after each validation: "median", those below the median of
            the earlier trials at that epoch; "hyperband", all but the best third at growing numbers of epochs (Li et
            al., 2018); "none".
    """

    trials: Positive = 40
    space: dict[str, Space] = dataclasses.field(default_factory=dict)
    pruner: Literal["median", "hyperband", "none"] = "median"


def _check_order(name: str, low: float, high: float) -> None:
    if not low < high:
        raise ConfigError(f"{name}.high: invalid value {high!r} (expected a number greater than low={low!r})")
