"""`--set FIELD=VALUE`: typed by the field, checked together, refused with the nearest name."""

import pytest

from tests.test_config import experiment
from twotower_tf import config as configuration
from twotower_tf.config import (
    Adam,
    CosineLogitBCE,
    DateSplit,
    Hash,
    InBatch,
    InBatchSoftmax,
    LeaveLastOut,
    TimeSplit,
    Uniform,
)
from twotower_tf.errors import ConfigError

BAD_OVERRIDES = {
    "train.epochs=x": "train.epochs: invalid value 'x' (expected a whole number)",
    "train.epochs=1.5": "train.epochs: invalid value '1.5' (expected a whole number)",
    "train.epochs=0": "train.epochs: invalid value '0' (expected a number greater than 0)",
    "train.epoch=3": "unknown field of TrainConfig 'epoch'; did you mean 'epochs'?",
    "modl.residual=true": "unknown field of ExperimentConfig 'modl'; did you mean 'model'?",
    "train.epochs": "write it as field=value, e.g. --set train.epochs=3",
    "loss=InBatchSoftmx()": "unknown configuration class 'InBatchSoftmx'; did you mean 'InBatchSoftmax'?",
    "item_features.5.buckets=3": "item_features.5.buckets: invalid index '5' (expected 0 to 1)",
    "item_features.0.bucket=3": "unknown field of Hash 'bucket'; did you mean 'buckets'?",
    "data.split=LeaveLastOut(x=1)": "LeaveLastOut: unknown field of LeaveLastOut 'x'; known: type",
    "data.split.type=GivenSplit": "unknown field of TimeSplit 'type'; known: test_fraction, valid_fraction",
    "data.label.x=3": "data.label.x: the value has no field 'x'; remove .x",
    "model.residual=maybe": "model.residual: invalid value 'maybe' (expected True or False)",
    "evaluation.ks=10": "evaluation.ks: invalid value '10' (expected a tuple, such as (10, 20) or (10,))",
    "data=DataConfig(label=foo)": "invalid value 'foo' (expected a number, a string, a list or a configuration class)",
    "loss=SampledSoftmax(negatives=3)": "SampledSoftmax: unknown field of SampledSoftmax 'negatives'; "
    "known: correct, growing, learn_temperature, temperature, type, user_temperature",
    "loss.default_negatives=3": "unknown field of CosineLogitBCE 'default_negatives'; known: none",
}


@pytest.mark.parametrize("text", BAD_OVERRIDES)
def test_refuses_an_override(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.override(experiment(), [text])
    assert str(caught.value) == f"--set {text}: {BAD_OVERRIDES[text]}"


OVERRIDES = {
    "train.epochs=3": lambda config: config.train.epochs == 3,
    "train.initial_lr=1": lambda config: config.train.initial_lr == 1.0 and isinstance(config.train.initial_lr, float),
    "train.initial_lr=1e-2": lambda config: config.train.initial_lr == 0.01,
    "train.monitor=": lambda config: config.train.monitor == "",
    "model.item_hidden=(8, 4)": lambda config: config.model.item_hidden == (8, 4),
    "model.item_hidden=()": lambda config: config.model.item_hidden == (),
    "evaluation.ks=[5, 20]": lambda config: config.evaluation.ks == (5, 20),
    "model.residual=true": lambda config: config.model.residual is True,
    "item_features.0.buckets=7": lambda config: config.item_features[0].buckets == 7,
    "item_features.0.embedding_dim=None": lambda config: config.item_features[0].embedding_dim is None,
    "data.root=None": lambda config: config.data.root == "None",
    "data.split=LeaveLastOut()": lambda config: config.data.split == LeaveLastOut(),
    "data.split=DateSplit(train_days=3)": lambda config: config.data.split == DateSplit(3, 1, 1),
    "data.columns=('user_id', 'item_id')": lambda config: config.data.columns == ("user_id", "item_id"),
    "data.delimiter=;": lambda config: config.data.delimiter == ";",
    "data.split.valid_fraction=0.25": lambda config: config.data.split == TimeSplit(valid_fraction=0.25),
    "data.positive=(dwell > 5) and click = 1": lambda config: config.data.positive == "(dwell > 5) and click = 1",
    "data.positive=(dwell > 5)": lambda config: config.data.positive == "(dwell > 5)",
    "data.exclude=is_bot(agent)": lambda config: config.data.exclude == "is_bot(agent)",
    "loss=CosineLogitBCE()": lambda config: config.loss == CosineLogitBCE(),
    "train.optimizer=Adam(beta_1=0.5)": lambda config: config.train.optimizer == Adam(beta_1=0.5),
    "item_features=(Hash('item_id', buckets=3),)": lambda config: config.item_features == (Hash("item_id", buckets=3),),
}


@pytest.mark.parametrize("text", OVERRIDES)
def test_override_is_typed_by_the_field(text: str) -> None:
    assert OVERRIDES[text](configuration.override(experiment(), [text]))


def test_overrides_may_be_possible_only_together() -> None:
    changed = configuration.override(
        experiment(), ["loss=InBatchSoftmax()", "sampling.negatives=(InBatch(), Uniform())"]
    )
    assert changed.loss == InBatchSoftmax() and changed.sampling.negatives == (InBatch(), Uniform())


def test_later_overrides_win() -> None:
    assert configuration.override(experiment(), ["train.epochs=3", "train.epochs=4"]).train.epochs == 4
