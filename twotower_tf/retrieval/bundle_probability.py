"""Finds the click probability of a bundle, where its model was trained to give one."""

from __future__ import annotations

from twotower_tf.bundle.bundle import Bundle
from twotower_tf.config import CosineLogitBCE, ExperimentConfig
from twotower_tf.errors import ArtifactError, ConfigError
from twotower_tf.index.click_probability import ClickProbability


def require_probability(bundle: Bundle) -> ClickProbability:
    """Returns the function from a cosine to the probability of a label 1 among rows like the log's.

    Raises:
        ConfigError: where loss, negatives or sampling of the model make its sigmoid something else.
        ArtifactError: where an earlier version of twotower_tf exported the bundle.
    """
    reason = explain_no_probability(bundle.config)
    if reason:
        raise ConfigError(f"probability: invalid for this model ({reason})")
    parameters = bundle.manifest.get("click_probability")
    if parameters is None:
        raise ArtifactError(f"{bundle.path}: holds no click probability (exported by an earlier version); export again")
    return ClickProbability(**parameters)


def explain_no_probability(config: ExperimentConfig) -> str:
    """Returns why a model's scores are not probabilities, and what would make them so; "" where they are."""
    if not isinstance(config.loss, CosineLogitBCE):
        needed = "CosineLogitBCE() with sampling.negatives=(Labelled(),)"
        return f"loss is {type(config.loss).__name__}; a probability needs {needed}"
    sampling = config.sampling
    others = [each.type for each in sampling.negatives or () if each.type != "Labelled"]
    if others:
        return (
            f"its negatives are {', '.join(others)}, so it is that of a positive among drawn items; train with "
            "sampling.negatives=(Labelled(),) alone"
        )
    changed = {
        "downsample": sampling.downsample is not None,
        "per_user": bool(sampling.per_user),
        "recency_half_life": bool(sampling.recency_half_life),
    }
    for name, given in changed.items():
        if given:
            return f"sampling.{name} changes the share of positives; train without it"
    return ""
