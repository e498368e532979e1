"""Spaces of a search: what may be searched, and one line for what may not."""

import dataclasses

import pytest

from tests.tune.test_search_run import experiment
from twotower_tf import config as configuration
from twotower_tf.config import (
    Choice,
    FloatRange,
    History,
    InBatchSoftmax,
    IntRange,
    LogUniform,
    TrainConfig,
    TuneConfig,
)
from twotower_tf.errors import ConfigError
from twotower_tf.tune import field_values


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("loss.temperature=LogUniform(0.03, 0.3)", LogUniform(0.03, 0.3)),
        ("model.dropout = FloatRange(low=0.0, high=0.5)", FloatRange(0.0, 0.5)),
        ("train.warmup_steps=IntRange(1, 1000, log=True)", IntRange(1, 1000, log=True)),
        ("model.user_hidden=Choice(('()', '(64, 32)'))", Choice(("()", "(64, 32)"))),
    ],
)
def test_spaces_are_parsed(text, space):
    assert field_values.parse_spaces([text]) == {text.split("=")[0].strip(): space}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "loss.temperature",
            "--space: invalid value 'loss.temperature' (expected FIELD=SPACE, a space being LogUniform",
        ),
        ("loss.temperature=0.1", "--space: invalid value 'loss.temperature=0.1' (expected FIELD=SPACE"),
        (
            "a=LogUniform(0.3, 0.03)",
            "--space a=LogUniform(0.3, 0.03): LogUniform.high: invalid value 0.03 (expected a ",
        ),
        (
            "a=LogUniform(0, 1)",
            "--space a=LogUniform(0, 1): LogUniform.low: invalid value 0 (expected a number greater",
        ),
        ("a=Choice((1,))", "--space a=Choice((1,)): Choice.values: invalid value (1,)"),
        ("a=LogUnifrom(1, 2)", "--space a=LogUnifrom(1, 2): unknown configuration class 'LogUnifrom'; did you mean"),
        (
            "a=IntRange(0, 9, log=True)",
            "--space a=IntRange(0, 9, log=True): IntRange.low: invalid value 0 (expected at",
        ),
    ],
)
def test_a_text_that_is_not_a_space_is_one_line(text, message):
    with pytest.raises(ConfigError) as caught:
        field_values.parse_spaces([text])
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "space", "message"),
    [
        ("loss.heat", FloatRange(0.1, 0.2), "tune.space: loss.heat=0.1: unknown field of CosineLogitBCE"),
        ("model.dropout", FloatRange(0.0, 1.5), "tune.space: model.dropout=1.5: model.dropout: invalid value"),
        ("model.vector_dim", Choice((32, 0)), "tune.space: model.vector_dim=0: model.vector_dim: invalid value '0'"),
        ("item_features.3.buckets", IntRange(5, 9), "tune.space: item_features.3.buckets=5: item_features.3.buckets: "),
        (
            "data.split",
            Choice(("LeaveLastOut()", "TimeSplit()")),
            "tune.space: invalid field 'data.split' (expected one",
        ),
        ("seed", IntRange(1, 9), "tune.space: invalid field 'seed' (expected one that changes the model, not what"),
        ("train.monitor", Choice(("recall@10", "ndcg@10")), "tune.space: invalid field 'train.monitor'"),
    ],
)
def test_a_field_that_cannot_be_searched_is_one_line(field, space, message):
    with pytest.raises(ConfigError) as caught:
        field_values.with_search(experiment(), None, {field: space})
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_without_a_metric_there_is_no_search():
    config = dataclasses.replace(experiment(), train=TrainConfig(monitor=""))
    with pytest.raises(ConfigError, match='train.monitor: invalid value "" for a search'):
        field_values.with_search(config, None, {})


def test_the_default_space_follows_the_configuration():
    config = dataclasses.replace(experiment(), tune=TuneConfig(), train=TrainConfig(initial_lr=0.002))
    found = field_values.with_search(config, 7, {}).tune
    assert found.trials == 7 and found.space == {
        "train.initial_lr": LogUniform(0.0002, 0.02),
        "train.table_optimizer.initial_lr": LogUniform(0.005, 0.5),
        "model.dropout": FloatRange(0.0, 0.4),
        "model.embedding_dim": Choice((8, 16, 32)),
    }
    flat = configuration.override(config, ["loss=InBatchSoftmax()", "model.item_hidden=()", "model.user_hidden=()"])
    assert {"loss.temperature"} == set(field_values.default_space(flat)) - set(found.space)
    assert "model.dropout" not in field_values.default_space(flat)
    added = configuration.override(flat, ["model.combine=add", "model.vector_dim=16"])  # whose dimensions are equal
    assert "model.embedding_dim" not in field_values.with_search(added, None, {}).tune.space
    assert "loss.margin" in field_values.default_space(configuration.override(config, ["loss=CosineContrastive()"]))


def test_values_are_set_by_the_rules_of_set():
    config = dataclasses.replace(
        experiment(), user_features=(*experiment().user_features, History(of="item_id", length=50))
    )
    values = {"user_features.1.length": 9, "model.user_hidden": "(64, 32)", "loss": "InBatchSoftmax(temperature=0.2)"}
    found = field_values.with_values(config, values)
    assert found.user_features[1].length == 9 and found.model.user_hidden == (64, 32)
    assert found.loss == InBatchSoftmax(temperature=0.2)
    assert found.sampling.negatives == InBatchSoftmax().default_negatives  # as --set does


def test_the_present_values_come_first_where_the_space_has_them():
    space = {
        "train.initial_lr": LogUniform(1e-4, 1e-2),
        "train.warmup_steps": IntRange(5, 9),
        "model.user_hidden": Choice(("(64,)", "(128, 64)")),
        "model.residual": Choice((True, False)),
    }
    config = dataclasses.replace(experiment(), tune=TuneConfig(space=space))
    assert field_values.current_values(config) == {
        "train.initial_lr": 1e-3, "model.user_hidden": "(128, 64)", "model.residual": False,
    }  # fmt: skip


def test_a_space_survives_json():
    config = field_values.with_search(experiment(), None, {"model.user_hidden": Choice(("()", "(8,)"))})
    assert configuration.from_json(configuration.to_json(config), "here") == config
