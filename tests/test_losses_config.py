"""The losses' part of a configuration: default negatives, losses from outside the package, files of version 1."""

import dataclasses
import json
from typing import ClassVar, Literal

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from twotower_tf import config as configuration
from twotower_tf.config import (
    GBCE,
    BilateralSoftmax,
    Catalogue,
    CosineContrastive,
    CosineLogitBCE,
    DataConfig,
    ExperimentConfig,
    FullSoftmax,
    Hash,
    InBatch,
    InBatchSoftmax,
    LossConfig,
    ModelConfig,
    PairwiseLogistic,
    Popularity,
    Queue,
    Rejections,
    SampledSoftmax,
    SamplingConfig,
    TripletHinge,
    Uniform,
    config_class,
    register_loss,
)
from twotower_tf.errors import ConfigError
from twotower_tf.model import two_tower
from twotower_tf.model.losses import registry
from twotower_tf.model.losses.candidates import CandidateLoss

DEFAULTS = {
    CosineLogitBCE(): (Uniform(per_positive=4),),
    InBatchSoftmax(): (InBatch(),),
    SampledSoftmax(): (Uniform(per_positive=800, shared=True),),
    FullSoftmax(): (Catalogue(),),
    GBCE(): (Uniform(per_positive=256, shared=True),),
    BilateralSoftmax(): (Uniform(per_positive=800, shared=True),),
    CosineContrastive(): (Uniform(per_positive=800, shared=True),),
    PairwiseLogistic(): (Uniform(per_positive=4),),
    TripletHinge(): (Uniform(per_positive=4),),
}


def experiment(**changes):
    fields = {
        "name": "small",
        "data": DataConfig(label="click"),
        "item_features": (Hash("item_id", buckets=100),),
        "user_features": (Hash("user_id", buckets=100),),
        "model": ModelConfig(embedding_dim=4, vector_dim=4, item_hidden=(), user_hidden=()),
        "loss": CosineLogitBCE(),
    }
    return ExperimentConfig(**(fields | changes))


@pytest.mark.parametrize("loss", DEFAULTS, ids=lambda loss: type(loss).__name__)
def test_a_loss_brings_its_negatives_and_the_resolved_configuration_shows_them(loss):
    config = experiment(loss=loss, sampling=SamplingConfig(per_user=3))
    assert config.sampling == SamplingConfig(negatives=DEFAULTS[loss], masked="user", per_user=3)
    name = type(loss).__name__
    assert configuration.override(experiment(), [f"loss={name}()"]).sampling.negatives == DEFAULTS[loss]
    resolved = json.loads(configuration.to_json(config))
    assert [each["type"] for each in resolved["sampling"]["negatives"]] == [each.type for each in DEFAULTS[loss]]
    # A run's config.json, too: what it shows are defaults as before.
    read = configuration.from_json(configuration.to_json(config), "here")
    assert configuration.override(read, ["loss=TripletHinge()"]).sampling.negatives == (Uniform(),)


def test_negatives_that_were_chosen_stay():
    config = experiment(loss=PairwiseLogistic(), sampling=SamplingConfig(negatives=(InBatch(), Uniform(2))))
    changed = configuration.override(config, ["loss=TripletHinge()"])
    assert changed.sampling.negatives == (InBatch(), Uniform(2))
    defaults = configuration.override(config, ["loss=TripletHinge()", "sampling.negatives=None"])
    assert defaults.sampling.negatives == (Uniform(),)
    number = configuration.override(experiment(), ["loss=SampledSoftmax()", "sampling.negatives.0.per_positive=9"])
    assert number.sampling.negatives == (Uniform(per_positive=9, shared=True),)


def version_1(loss, *kinds):
    document = json.loads(configuration.to_json(experiment(loss=SampledSoftmax())))
    kinds = [{field.name: getattr(each, field.name) for field in dataclasses.fields(each)} for each in kinds]
    document |= {"schema_version": 1, "loss": loss, "sampling": document["sampling"] | {"negatives": kinds}}
    return configuration.from_json(json.dumps(document), "here")


def test_numbers_of_a_file_of_version_1_move_to_sampling():
    sampled = {
        "type": "SampledSoftmax",
        "negatives": 100,
        "temperature": 0.1,
        "learn_temperature": False,
        "correct": True,
    }
    got = version_1(sampled, Uniform(2), Popularity(1, alpha=0.5), Rejections())
    assert got.loss == SampledSoftmax(temperature=0.1)
    # 100 shared out 2 to 1: 66.67 and 33.33.
    uniform, popular = Uniform(67, shared=True), Popularity(33, alpha=0.5, shared=True)
    assert got.sampling.negatives == (uniform, popular, Rejections())
    got = version_1(sampled | {"negatives": 1}, Uniform(3), Popularity(1))
    assert got.sampling.negatives == (Uniform(1, shared=True),)  # 0.75 and 0.25: the other draws nothing
    got = version_1(sampled | {"negatives": 0}, Uniform(3), Popularity(9, shared=True))
    assert got.sampling.negatives == (Uniform(3), Popularity(9, shared=True))
    bilateral = {"type": "BilateralSoftmax", "negatives": 800}
    assert version_1(bilateral, InBatch(), Uniform(4)).sampling.negatives == (InBatch(), Uniform(800, shared=True))
    bce = {"type": "CosineLogitBCE"}
    assert version_1(bce, Uniform(4)) == experiment()


@register_loss
@config_class
class SquaredForATest(LossConfig):
    """(target - cosine⁺)², and the mean of what negatives are above 0."""

    target: float = 1.0
    widths: tuple[int, ...] = (1, 2)
    type: Literal["SquaredForATest"] = "SquaredForATest"

    default_negatives: ClassVar = (Uniform(2), Rejections())


@registry.registers(SquaredForATest)
class SquaredLoss(CandidateLoss):
    def __init__(self, target, widths, **kwargs):
        super().__init__(**kwargs)
        self.target = target

    def compare(self, candidates):
        above = tf.reduce_mean(tf.nn.relu(candidates.negatives), axis=1)
        cost = tf.square(self.target - candidates.positive) + above
        ranks = tf.math.count_nonzero(candidates.negatives > candidates.positive[:, tf.newaxis], axis=1)
        return tf.reduce_sum(candidates.weights * cost), tf.cast(ranks, tf.int32)


def test_a_loss_from_outside_is_read_written_and_overridden():
    config = experiment(loss=SquaredForATest(target=0.5))
    assert config.sampling.negatives == (Uniform(2), Rejections())
    read = configuration.from_json(configuration.to_json(config), "here")
    assert read == config and configuration.fingerprint(read) == configuration.fingerprint(config)
    changed = configuration.override(experiment(), ["loss=SquaredForATest(target=0.25)", "loss.widths=(7,)"])
    assert changed.loss == SquaredForATest(target=0.25, widths=(7,))
    document = json.loads(configuration.to_json(config))
    document["loss"]["target"] = "near"
    with pytest.raises(ConfigError) as error:
        configuration.from_json(json.dumps(document), "here")
    assert str(error.value) == (
        "here: ExperimentConfig.loss.SquaredForATest.target: invalid value 'near' (expected a number)"
    )
    document["loss"]["type"] = "Squared"
    with pytest.raises(ConfigError, match=r"ExperimentConfig.loss: invalid class Squared .*'SquaredForATest'"):
        configuration.from_json(json.dumps(document), "here")


def test_a_loss_from_outside_trains_a_step():
    config = experiment(loss=SquaredForATest(target=0.5))
    keras.utils.set_random_seed(3)
    model = two_tower.build(config)
    for layer in model.layers:
        if hasattr(layer, "table"):
            layer.table.assign(np.random.default_rng(layer.rows).normal(size=layer.table.shape))
    model.compile(keras.optimizers.SGD(0.1), weighted_metrics=registry.layer_class(config.loss).training_metrics())
    rng = np.random.default_rng(4)
    x = {
        "user_ids": rng.integers(0, 100, (4, 1)).astype(np.int32),
        "item_ids": rng.integers(0, 100, (4 + 4 * 3, 1)).astype(np.int32),
        "positive_log_q": np.zeros((4, 1), np.float32),
        "negative_log_q": np.zeros((4, 3), np.float32),
        "negative_weight": np.ones((4, 3), np.float32),
        "sample_weight": np.ones((4, 1), np.float32),
    }
    ones = np.ones((4, 1), np.float32)
    users = two_tower.tower(model, "user")({"user_ids": x["user_ids"]}).numpy()
    items = two_tower.tower(model, "item")({"item_ids": x["item_ids"]}).numpy()
    positive = np.einsum("bd,bd->b", users, items[:4])
    negatives = np.einsum("bd,bnd->bn", users, items[4:].reshape(4, 3, -1))
    expected = np.mean((0.5 - positive) ** 2 + np.maximum(negatives, 0).mean(axis=1))
    batch = tf.data.Dataset.from_tensors((x, ones, ones)).repeat()
    history = model.fit(batch, steps_per_epoch=1, epochs=3, verbose=0).history
    assert abs(history["loss"][0] - expected) < 1e-5 and history["loss"][2] < history["loss"][0]
    assert history["in_batch_top_1"][0] == np.mean((negatives > positive[:, np.newaxis]).sum(axis=1) < 1)


def test_what_a_class_declares_is_kept():
    @config_class
    class Without(LossConfig):
        margin: float = 0.0

    with pytest.raises(ValueError, match=r"^Without.type: missing .expected type: Literal"):
        register_loss(Without)
    with pytest.raises(ValueError, match=r"^TripletHinge: invalid name of a loss .already registered."):
        register_loss(TripletHinge)
    with pytest.raises(ValueError, match=r"^TripletHinge: invalid loss .already has the layer TripletHingeLoss"):
        registry.layer_class(TripletHinge())
        registry.registers(TripletHinge)(SquaredLoss)
    with pytest.raises(ConfigError, match=r"^sampling.negatives: invalid kind Queue\(\)"):
        experiment(sampling=SamplingConfig((Uniform(), Queue(size=3))))


@pytest.mark.parametrize(
    ("loss", "negatives", "message"),
    [
        (
            FullSoftmax(),
            (Catalogue(), Uniform()),
            r"invalid kinds \['Catalogue', .*\] \(expected Catalogue\(\) alone",
        ),
        (FullSoftmax(), (Uniform(),), r"invalid kinds \['Uniform'\] \(expected Catalogue\(\), which FullSoftmax needs"),
        (CosineLogitBCE(), (Catalogue(),), r"invalid kind Catalogue\(\) for CosineLogitBCE"),
    ],
)
def test_the_whole_catalogue_goes_alone_with_losses_that_share_candidates(loss, negatives, message):
    with pytest.raises(ConfigError, match=r"^sampling.negatives: " + message):
        experiment(loss=loss, sampling=SamplingConfig(negatives))
