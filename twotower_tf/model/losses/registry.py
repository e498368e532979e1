"""The loss of a configuration as the model's last layer.

Each configuration class of a loss has one layer, registered under it:

    @register_loss
    @config_class
    class SquaredHinge(LossConfig):
        margin: float = 0.5
        type: Literal["SquaredHinge"] = "SquaredHinge"

        shares_candidates: ClassVar[bool] = False  # a row's own negatives only

    @registers(SquaredHinge)
    class SquaredHingeLoss(CandidateLoss):
        def __init__(self, margin: float, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.margin = margin

        def compare(self, candidates: Candidates) -> tuple[tf.Tensor, tf.Tensor]:
            own, negatives = candidates.logits(1.0, correct=False)
            costs = tf.square(tf.nn.relu(self.margin - own[:, tf.newaxis] + negatives))
            mean = tf.math.divide_no_nan(
                tf.reduce_sum(candidates.negatives_weight * costs, axis=1), candidates.counts
            )
            return tf.reduce_sum(candidates.weights * mean), higher(negatives, own)

`mean_above` in `twotower_tf.model.losses.pairwise` and `SoftmaxLoss` in `twotower_tf.model.losses.softmax` show how
candidates that the batch shares (`Candidates.grid`) take part.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

from twotower_tf.config import ExperimentConfig, LossConfig
from twotower_tf.errors import ConfigError
from twotower_tf.model import losses
from twotower_tf.model.losses import candidates
from twotower_tf.model.losses.candidates import CandidateLoss
from twotower_tf.sampling import negatives_plan

LayerClass = TypeVar("LayerClass", bound=type[CandidateLoss])
_LAYERS: dict[str, type[CandidateLoss]] = {}


def registers(config_class: type[LossConfig]) -> Callable[[LayerClass], LayerClass]:
    """Makes a layer class the loss of a configuration class.

    The layer is created with the configuration's fields by name, and the arguments of `CandidateLoss`.

    Raises:
        ValueError: for a configuration class that has another layer.
    """

    def register(layer_class: LayerClass) -> LayerClass:
        name = config_class.__name__
        if _LAYERS.get(name, layer_class) is not layer_class:
            raise ValueError(f"{name}: invalid loss (already has the layer {_LAYERS[name].__name__})")
        _LAYERS[name] = layer_class
        return layer_class

    return register


def layer_class(loss: LossConfig) -> type[CandidateLoss]:
    """Returns the layer class of a loss.

    Raises:
        ConfigError: for a loss without a layer.
    """
    name = type(loss).__name__
    if name not in _LAYERS:  # a module of this package that nothing has imported
        for module in pkgutil.iter_modules(losses.__path__):
            importlib.import_module(f"{losses.__name__}.{module.name}")
    if name not in _LAYERS:
        raise ConfigError(
            f"loss: invalid loss {name} (expected one with a layer: {', '.join(sorted(_LAYERS))}); register its layer "
            "with twotower_tf.model.losses.registry.registers"
        )
    return _LAYERS[name]


def layer(config: ExperimentConfig) -> CandidateLoss:
    """Creates the layer of the configuration's loss."""
    loss, plan = config.loss, negatives_plan.plan_negatives(config)
    fields = {each.name: getattr(loss, each.name) for each in dataclasses.fields(loss) if each.name != "type"}  # type: ignore[arg-type]
    columns: dict[str, Any] = {"in_batch": plan.in_batch, "queue": plan.queue, "name": "loss"}
    columns["shared"] = bool(plan.for_all or plan.whole)
    if config.train.mixed:
        columns["products"] = "bfloat16"
    return layer_class(loss)(**fields, **columns)


def inputs(config: ExperimentConfig) -> tuple[str, ...]:
    """Names of what the layer needs next to vectors; `candidates.SPECS` has their shapes."""
    plan = negatives_plan.plan_negatives(config)
    names = [candidates.SAMPLE_WEIGHT, candidates.LABEL if config.loss.labelled else candidates.POSITIVE_LOG_Q]
    if plan.per_row:
        names += [candidates.NEGATIVE_WEIGHT, *([] if config.loss.labelled else [candidates.NEGATIVE_LOG_Q])]
    if plan.shares:
        names += [candidates.COLUMN_LOG_Q, candidates.HITS]
    if config.train.by_user:
        names.append(candidates.USER_PLACES)
    return tuple(names)
