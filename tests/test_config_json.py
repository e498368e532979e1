"""Names of features, and any configuration through JSON and back."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twotower_tf import config as configuration
from twotower_tf.config import (
    BilateralSoftmax,
    Bucketized,
    CosineContrastive,
    CosineLogitBCE,
    Cross,
    DataConfig,
    DateSplit,
    EvaluationConfig,
    ExperimentConfig,
    GivenSplit,
    Hash,
    History,
    Hour,
    InBatch,
    InBatchSoftmax,
    IndexConfig,
    Labelled,
    LeaveLastOut,
    Mined,
    ModelConfig,
    Numeric,
    PairwiseLogistic,
    Popularity,
    Queue,
    RandomSplit,
    SampledSoftmax,
    SamplingConfig,
    Tags,
    TimeSplit,
    TrainConfig,
    TripletHinge,
    Uniform,
    Weekday,
)
from twotower_tf.errors import ConfigError

# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "name", "columns"),
    [
        (Hash("a", buckets=3), "a", ("a",)),
        (Hash("a", buckets=3, name="b"), "b", ("a",)),
        (Cross(("a", "b"), buckets=3), "a_x_b", ("a", "b")),
        (Hour("t"), "t_hour", ("t",)),
        (Weekday("t"), "t_weekday", ("t",)),
        (History(of="a"), "history", ()),
    ],
)
def test_names_and_columns(feature: Any, name: str, columns: tuple[str, ...]) -> None:
    assert configuration.feature_name(feature) == name
    assert configuration.feature_columns(feature) == columns


# --- any configuration survives JSON ------------------------------------------------------------------------------

names = st.text("abcdefghijklmnop_Äß ", min_size=1, max_size=8)
dims = st.none() | st.integers(1, 64)
buckets = st.integers(2, 2**31 - 1)


def side(*more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Features with names of their own and columns that no other feature has."""
    features = st.one_of(
        st.builds(Hash, names, buckets, dims),
        st.builds(Numeric, names, st.sampled_from(["standard", "log1p", "none"]), dims),
        st.builds(Bucketized, names, buckets, dims),
        st.builds(Tags, names, buckets, st.sampled_from(["|", ",", " "]), st.integers(1, 50), dims),
        *more,
    )
    return st.lists(features, min_size=1, max_size=4, unique_by=lambda feature: feature.column).map(tuple)


splits = st.one_of(
    st.builds(TimeSplit, st.floats(0, 0.4), st.floats(0, 0.4)),
    st.builds(LeaveLastOut),
    st.builds(DateSplit, st.integers(1, 99), st.integers(0, 9), st.integers(0, 9), st.sampled_from(["", "20260131"])),
    st.builds(GivenSplit, names),
    st.builds(RandomSplit, st.floats(0, 0.4), st.floats(0, 0.4)),
)
losses = st.one_of(
    st.just((CosineLogitBCE(), (Uniform(2), Labelled()))),
    st.builds(
        lambda temperature, learn: (InBatchSoftmax(temperature, learn), (InBatch(),)),
        st.floats(1e-6, 10),
        st.booleans(),
    ),
    st.sampled_from(
        [
            (SampledSoftmax(), (Uniform(2), Popularity(shared=True))),
            (BilateralSoftmax(temperature_positive=0.2), (InBatch(), Uniform(2), Queue(size=7))),
            (CosineContrastive(margin=-0.5, negative_weight=3.0), (InBatch(), Queue(size=7))),
            (PairwiseLogistic(temperature=0.3, learn_temperature=True), (Uniform(shared=True),)),
            (TripletHinge(margin=1.5), (Mined(ranks=(5, 9)), InBatch())),
        ]
    ),
)
experiments = st.builds(
    lambda data_split, items, users, loss, hidden, lr, ks, residual: ExperimentConfig(
        name="any",
        data=DataConfig(label="Klick – 点击", split=data_split),
        item_features=items,
        user_features=users,
        loss=loss[0],
        sampling=SamplingConfig(negatives=loss[1]),
        model=ModelConfig(item_hidden=tuple(hidden), residual=residual),
        train=TrainConfig(initial_lr=lr, monitor=f"ndcg@{ks[0]}"),
        evaluation=EvaluationConfig(ks=tuple(ks)),
        index=IndexConfig(target_recall=0.5),
    ),
    splits,
    side(),
    side(st.just(Hour("timestamp"))),
    losses,
    st.lists(st.integers(1, 1000), max_size=3),
    st.floats(1e-12, 1e3),
    st.lists(st.integers(1, 1000), min_size=1, max_size=4),
    st.booleans(),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(experiments)
def test_json_round_trip(config: ExperimentConfig) -> None:
    text = configuration.to_json(config)
    again = configuration.from_json(text, "here")
    assert again == config
    assert configuration.to_json(again) == text
    assert configuration.fingerprint(again) == configuration.fingerprint(config)


def test_a_configuration_nested_without_end_is_one_line():
    with pytest.raises(ConfigError, match="^config.json: JSON nested too deeply for a configuration$"):
        configuration.from_json("[" * 200_000 + "]" * 200_000, "config.json")
