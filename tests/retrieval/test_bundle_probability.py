"""Which models give a click probability, and what is said of the others."""

import dataclasses
from types import SimpleNamespace

import pytest

from twotower_tf.config import (
    CosineLogitBCE,
    DataConfig,
    Downsample,
    ExperimentConfig,
    Hash,
    InBatchSoftmax,
    Labelled,
    SamplingConfig,
    Uniform,
)
from twotower_tf.errors import ArtifactError, ConfigError
from twotower_tf.retrieval.bundle_probability import require_probability

CONFIG = ExperimentConfig(
    name="clicks",
    data=DataConfig(label="click"),
    item_features=(Hash("item_id", buckets=50),),
    user_features=(Hash("user_id", buckets=50),),
    sampling=SamplingConfig(negatives=(Labelled(),)),
    loss=CosineLogitBCE(),
)
PARAMETERS = {"cosine_scale": 0.999, "weight": 1.0, "bias": 0.0}


def bundle(config, manifest):
    return SimpleNamespace(config=config, manifest=manifest, path="export/3")


def test_a_model_of_shown_items_gives_a_probability():
    """With weight 1 and bias 0 it is (1 + 0.999 cosine) / 2."""
    clicks = require_probability(bundle(CONFIG, {"click_probability": PARAMETERS}))
    assert clicks.of_cosines([-1.0, 0.0, 0.5]).tolist() == pytest.approx([0.0005, 0.5, 0.74975])


def test_an_earlier_bundle_is_exported_again():
    with pytest.raises(ArtifactError, match="^export/3: holds no click probability .*; export again$"):
        require_probability(bundle(CONFIG, {}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"loss": InBatchSoftmax(), "sampling": SamplingConfig()},
            "loss is InBatchSoftmax; a probability needs CosineLogitBCE() with sampling.negatives=(Labelled(),)",
        ),
        (
            {"sampling": SamplingConfig(negatives=(Labelled(), Uniform()))},
            "its negatives are Uniform, so it is that of a positive among drawn items; train with "
            "sampling.negatives=(Labelled(),) alone",
        ),
        (
            {"sampling": SamplingConfig(negatives=(Labelled(),), downsample=Downsample())},
            "sampling.downsample changes the share of positives; train without it",
        ),
        (
            {"sampling": SamplingConfig(negatives=(Labelled(),), per_user=3)},
            "sampling.per_user changes the share of positives; train without it",
        ),
    ],
)
def test_models_without_a_probability(changes, reason):
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(ConfigError) as raised:
        require_probability(bundle(config, {"click_probability": PARAMETERS}))
    assert str(raised.value) == f"probability: invalid for this model ({reason})"
