"""The configuration: every refusal in its own words."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from twotower_tf.config import (
    BilateralSoftmax,
    CosineContrastive,
    CosineLogitBCE,
    Cross,
    DataConfig,
    DateSplit,
    EvaluationConfig,
    ExperimentConfig,
    Hash,
    History,
    Hour,
    InBatch,
    InBatchSoftmax,
    Labelled,
    LeaveLastOut,
    Mined,
    ModelConfig,
    Numeric,
    PairwiseLogistic,
    Popularity,
    Queue,
    RandomSplit,
    Rejections,
    SameAttribute,
    SampledSoftmax,
    SamplingConfig,
    SkipAbove,
    Tags,
    TextFormat,
    TimeSplit,
    TrainConfig,
    TripletHinge,
    Uniform,
)
from twotower_tf.errors import ConfigError


def experiment(**changes: Any) -> ExperimentConfig:
    """A small valid experiment with some fields replaced."""
    fields: dict[str, Any] = {
        "name": "small",
        "data": DataConfig(label="click"),
        "item_features": (Hash("item_id", buckets=100), Numeric("price")),
        "user_features": (Hash("user_id", buckets=100), History(of="item_id"), Tags("interests", buckets=50)),
        "loss": CosineLogitBCE(),
    }
    return ExperimentConfig(**(fields | changes))


TIMELESS = DataConfig(timestamp="", split=RandomSplit())
REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown field": (
        lambda: experiment(item_feature=()),
        "ExperimentConfig: unknown field of ExperimentConfig 'item_feature'; did you mean 'item_features'?",
    ),
    "unknown field of a part": (
        lambda: ModelConfig(embeding_dim=3),
        "ModelConfig: unknown field of ModelConfig 'embeding_dim'; did you mean 'embedding_dim'?",
    ),
    "unknown field, none near": (
        lambda: LeaveLastOut(fraction=3),
        "LeaveLastOut: unknown field of LeaveLastOut 'fraction'; known: type",
    ),
    "text for a number": (
        lambda: ModelConfig(embedding_dim="16"),
        "ModelConfig.embedding_dim: invalid value '16' (expected a whole number)",
    ),
    "number for a text": (
        lambda: DataConfig(root=3),
        "DataConfig.root: invalid value 3 (expected text)",
    ),
    "too small": (
        lambda: ModelConfig(embedding_dim=0),
        "ModelConfig.embedding_dim: invalid value 0 (expected a number greater than 0)",
    ),
    "one bucket": (lambda: Hash("a", buckets=1), "Hash.buckets: invalid value 1 (expected a number greater than 1)"),
    "more buckets than int32": (
        lambda: Hash("a", buckets=2**31),
        "Hash.buckets: invalid value 2147483648 (expected a number less than or equal to 2147483647)",
    ),
    "buckets missing": (lambda: Hash("a"), "Hash: missing field 'buckets'"),
    "a column without a name": (
        lambda: Hash("", buckets=3),
        "Hash.column: invalid value '' (expected a string with at least 1 character)",
    ),
    "cross of one": (
        lambda: Cross(("a",), buckets=3),
        "Cross.columns: invalid value ('a',) (expected a tuple with at least 2 items)",
    ),
    "infinite rate": (
        lambda: TrainConfig(initial_lr=float("inf")),
        "TrainConfig.initial_lr: invalid value inf (expected a finite number)",
    ),
    "fraction above one": (
        lambda: TimeSplit(valid_fraction=1.5),
        "TimeSplit.valid_fraction: invalid value 1.5 (expected a number less than 1)",
    ),
    "no feature": (
        lambda: experiment(item_features=()),
        "ExperimentConfig.item_features: invalid value () (expected a tuple with at least 1 item)",
    ),
    "history of an item": (
        lambda: experiment(item_features=(History(of="item_id"),)),
        "ExperimentConfig.item_features.0: invalid class History (expected one of 'Hash', 'Cross', 'Numeric', "
        "'Bucketized', 'Tags')",
    ),
    "one column for both ids": (
        lambda: experiment(data=DataConfig(label="click", item_id="user_id")),
        "data.item_id: invalid column 'user_id' (expected a column other than data.user_id); "
        "name the column of item ids",
    ),
    "nothing left to train on": (
        lambda: experiment(data=DataConfig(label="click", split=TimeSplit(valid_fraction=0.5, test_fraction=0.5))),
        "data.split: valid_fraction 0.5 + test_fraction 0.5 leave no training rows "
        "(expected a sum below 1); lower one of them",
    ),
    "nothing left at random": (
        lambda: experiment(data=DataConfig(label="click", split=RandomSplit(valid_fraction=0.4, test_fraction=0.7))),
        "data.split: valid_fraction 0.4 + test_fraction 0.7 leave no training rows "
        "(expected a sum below 1); lower one of them",
    ),
    "a split by time without time": (
        lambda: experiment(data=DataConfig(label="click", timestamp="")),
        "data.timestamp: TimeSplit needs event times; name their column or use RandomSplit()",
    ),
    "no training day": (
        lambda: DateSplit(train_days=0),
        "DateSplit.train_days: invalid value 0 (expected a number greater than 0)",
    ),
    "days missing": (lambda: DateSplit(), "DateSplit: missing field 'train_days'"),
    "a day in another form": (
        lambda: DateSplit(train_days=3, until="31.1.2026"),
        r"DateSplit.until: invalid value '31.1.2026' "
        r"(expected a string matching pattern '^(\d{8}|\d{4}-\d{2}-\d{2})?$')",
    ),
    "a day that is none": (
        lambda: experiment(data=DataConfig(label="click", split=DateSplit(train_days=3, until="2026-02-30"))),
        "data.split.until: invalid date '2026-02-30' (expected e.g. 20260131)",
    ),
    "a delimiter of five characters": (
        lambda: DataConfig(delimiter="<--->"),
        """DataConfig.delimiter: invalid value '<--->' (expected a string matching pattern '^([^"\\r\\n]{1,4}|""",
    ),
    "a quote that is the delimiter": (
        lambda: experiment(data=DataConfig(label="click", quote="'", delimiter="'")),
        'data.quote: invalid value "\'" (expected a character that is not the delimiter)',
    ),
    "an escape without a quote": (
        lambda: experiment(data=DataConfig(label="click", quote="", escape="\\")),
        "data.escape: needs data.quote; remove it for text without quoting",
    ),
    "a format of no table": (
        lambda: experiment(data=DataConfig(label="click", item_format=TextFormat(quote=""))),
        "data.item_format: needs data.items; set it or remove data.item_format",
    ),
    "a quote as delimiter": (
        lambda: DataConfig(delimiter='"'),
        """DataConfig.delimiter: invalid value '"' (expected a string matching pattern '^([^"\\r\\n]{1,4}|\\\\t)?$')""",
    ),
    "a list without places": (
        lambda: experiment(data=DataConfig(label="click", list_id="request")),
        "data.list_id: needs data.position; set both or neither",
    ),
    "places without a list": (
        lambda: experiment(data=DataConfig(label="click", position="slot")),
        "data.position: needs data.list_id; set both or neither",
    ),
    "rejections among nothing but positives": (
        lambda: experiment(data=DataConfig(rejected="action = 'hide'")),
        "data.rejected: every row is a positive, so none can be a rejection; set data.label or data.positive",
    ),
    "two columns of one name": (
        lambda: experiment(data=DataConfig(label="click", columns=("user_id", "item_id", "user_id"))),
        "data.columns: duplicate column name 'user_id'",
    ),
    "names for a table that is not there": (
        lambda: experiment(data=DataConfig(label="click", item_columns=("item_id", "price"))),
        "data.item_columns: needs data.items; set it or remove data.item_columns",
    ),
    "one name twice": (
        lambda: experiment(user_features=(Hash("user_id", buckets=10), Hash("user_id", buckets=20))),
        "user_features[1]: duplicate feature name 'user_id'; give one of the features name=...",
    ),
    "one column of two types": (
        lambda: experiment(user_features=(Hash("age", buckets=10), Numeric("age", name="years"))),
        "user_features[1]: column 'age' is text in one feature and a number in another (expected one type on each "
        "side); use Bucketized to make categories of a number",
    ),
    "an hour that is not the event's": (
        lambda: experiment(user_features=(Hour("born"),)),
        "user_features[0]: invalid column 'born' (expected data.timestamp='timestamp', the event time that Hour reads)",
    ),
    "history of nothing": (
        lambda: experiment(user_features=(History(of="itm_id"),)),
        "user_features[0]: unknown item feature in of= 'itm_id'; did you mean 'item_id'?",
    ),
    "history of a number": (
        lambda: experiment(user_features=(History(of="price"),)),
        "user_features[0]: invalid of='price' (expected a Hash item feature, got Numeric)",
    ),
    "history shared twice": (
        lambda: experiment(user_features=(Hash("user_id", buckets=9), History(of="item_id", shared_with="user_id"))),
        "user_features[1]: a History always shares the table of 'item_id'; remove shared_with",
    ),
    "history of another width": (
        lambda: experiment(user_features=(History(of="item_id", embedding_dim=3),)),
        "user_features[0]: invalid embedding_dim 3 (expected 64, that of the shared table)",
    ),
    "shared with nothing": (
        lambda: experiment(user_features=(Hash("user_id", buckets=100, shared_with="item"),)),
        "user_features[0]: unknown feature in shared_with= 'item'; did you mean 'item_id'?",
    ),
    "shared with a number": (
        lambda: experiment(user_features=(Hash("user_id", buckets=100, shared_with="price"),)),
        "user_features[0]: 'price' has no embedding table that could be shared",
    ),
    "shared, other buckets": (
        lambda: experiment(user_features=(Hash("user_id", buckets=101, shared_with="item_id"),)),
        "user_features[0]: invalid buckets 101 (expected 100, that of 'item_id')",
    ),
    "negatives of a kind twice": (
        lambda: experiment(sampling=SamplingConfig(negatives=(Uniform(), Uniform(per_positive=2)))),
        "sampling.negatives: invalid kinds Uniform, Uniform (expected each kind once)",
    ),
    "softmax without the batch": (
        lambda: experiment(loss=InBatchSoftmax(), sampling=SamplingConfig(negatives=(Uniform(),))),
        "sampling.negatives: invalid kinds ['Uniform'] (expected InBatch(), which InBatchSoftmax needs)",
    ),
    "cross-entropy with the batch": (
        lambda: experiment(sampling=SamplingConfig(negatives=(InBatch(),))),
        "sampling.negatives: invalid kind InBatch() for CosineLogitBCE (expected a row's own negatives or Labelled() "
        "rows, not candidates that the batch shares)",
    ),
    "labelled rows without a label": (
        lambda: experiment(data=DataConfig(), sampling=SamplingConfig(negatives=(Labelled(),))),
        "sampling.negatives: Labelled() needs rows that are not positive: set data.label, the column with 0 and 1, or "
        "data.positive",
    ),
    "no negatives": (
        lambda: experiment(sampling=SamplingConfig(negatives=())),
        "sampling.negatives: invalid value () (expected at least one kind); use e.g. (Uniform(),)",
    ),
    "cross-entropy with shared negatives": (
        lambda: experiment(sampling=SamplingConfig((Uniform(shared=True),))),
        "sampling.negatives: invalid kind Uniform(shared=True) for CosineLogitBCE (expected a row's own negatives or "
        "Labelled() rows, not candidates that the batch shares)",
    ),
    "a queue for cross-entropy": (
        lambda: experiment(sampling=SamplingConfig((Uniform(), Queue(size=10)))),
        "sampling.negatives: invalid kind Queue() for CosineLogitBCE (expected a row's own negatives or Labelled() "
        "rows, not candidates that the batch shares)",
    ),
    "a queue without the batch": (
        lambda: experiment(loss=PairwiseLogistic(), sampling=SamplingConfig((Uniform(), Queue(size=10)))),
        "sampling.negatives: invalid kinds ['Uniform', 'Queue'] (expected InBatch() together with Queue(), whose items "
        "have no gradient); add it",
    ),
    "labelled rows for a softmax": (
        lambda: experiment(loss=InBatchSoftmax(), sampling=SamplingConfig((InBatch(), Labelled()))),
        "sampling.negatives: invalid kind Labelled() for InBatchSoftmax, which compares a positive with its negatives; "
        "use Rejections() instead",
    ),
    "a number that moved to sampling": (
        lambda: SampledSoftmax(negatives=800),
        "SampledSoftmax: unknown field of SampledSoftmax 'negatives'; "
        "known: correct, growing, learn_temperature, temperature, type, user_temperature",
    ),
    "rejections without a label": (
        lambda: experiment(data=DataConfig(), sampling=SamplingConfig((Rejections(),))),
        "sampling.negatives: Rejections() needs rows that are not positive: set data.label, the column with 0 and 1, "
        "or data.positive",
    ),
    "explicit rejections without their predicate": (
        lambda: experiment(sampling=SamplingConfig((Rejections(explicit=True),))),
        "sampling.negatives: Rejections(explicit=True) needs data.rejected, the column of refused items",
    ),
    "skip-above without lists": (
        lambda: experiment(sampling=SamplingConfig((SkipAbove(),))),
        "sampling.negatives: SkipAbove() needs data.list_id and data.position, the columns of list and place",
    ),
    "mined ranks reversed": (
        lambda: experiment(sampling=SamplingConfig((Mined(ranks=(500, 101)),))),
        "sampling.negatives: Mined: invalid ranks (500, 101) (expected the smaller rank first)",
    ),
    "an attribute that no item has": (
        lambda: experiment(sampling=SamplingConfig((SameAttribute(columns=("item_if",)),))),
        "sampling.negatives: SameAttribute: unknown column of the catalogue 'item_if'; did you mean 'item_id'? "
        "(without data.items it has the columns of item_features)",
    ),
    "an attribute of no name": (
        lambda: SameAttribute(columns=()),
        "SameAttribute.columns: invalid value () (expected a tuple with at least 1 item)",
    ),
    "a negative power of popularity": (
        lambda: Popularity(alpha=-0.5),
        "Popularity.alpha: invalid value -0.5 (expected a number greater than or equal to 0)",
    ),
    "a queue of nothing": (
        lambda: Queue(size=0),
        "Queue.size: invalid value 0 (expected a number greater than 0)",
    ),
    "a temperature of 0": (
        lambda: InBatchSoftmax(temperature=0.0),
        "InBatchSoftmax.temperature: invalid value 0.0 (expected a number greater than 0)",
    ),
    "a temperature below 0": (
        lambda: SampledSoftmax(temperature=-0.1),
        "SampledSoftmax.temperature: invalid value -0.1 (expected a number greater than 0)",
    ),
    "a positives' temperature of 0": (
        lambda: BilateralSoftmax(temperature_positive=0.0),
        "BilateralSoftmax.temperature_positive: invalid value 0.0 (expected a number greater than 0)",
    ),
    "a negatives' temperature of 0": (
        lambda: BilateralSoftmax(temperature_negative=0.0),
        "BilateralSoftmax.temperature_negative: invalid value 0.0 (expected a number greater than 0)",
    ),
    "a pairwise temperature that is not a number": (
        lambda: PairwiseLogistic(temperature=float("nan")),
        "PairwiseLogistic.temperature: invalid value nan (expected a finite number)",
    ),
    "a margin that no cosine reaches": (
        lambda: CosineContrastive(margin=1.5),
        "CosineContrastive.margin: invalid value 1.5 (expected a number less than or equal to 1)",
    ),
    "negatives that attract": (
        lambda: CosineContrastive(negative_weight=-1.0),
        "CosineContrastive.negative_weight: invalid value -1.0 (expected a number greater than or equal to 0)",
    ),
    "a triplet without a margin": (
        lambda: TripletHinge(margin=0.0),
        "TripletHinge.margin: invalid value 0.0 (expected a number greater than 0)",
    ),
    "recency without time": (
        lambda: experiment(data=TIMELESS, sampling=SamplingConfig(recency_half_life=7.0)),
        "sampling.recency_half_life: needs the event's time; name its column in data.timestamp",
    ),
    "growing without time": (
        lambda: experiment(data=TIMELESS, loss=InBatchSoftmax(growing=True), sampling=SamplingConfig((InBatch(),))),
        "loss.growing: needs the events' times; name their column in data.timestamp",
    ),
    "growing uncorrected": (
        lambda: experiment(loss=InBatchSoftmax(growing=True, correct=False), sampling=SamplingConfig((InBatch(),))),
        "loss.growing: needs the correction that it is part of; set loss.correct=True",
    ),
    "monitor outside ks": (
        lambda: experiment(train=TrainConfig(monitor="recall@7")),
        "train.monitor: invalid k in 'recall@7' (expected one of evaluation.ks (10, 20, 50, 100)); add it there or "
        "choose another",
    ),
    "slices by an unknown column": (
        lambda: experiment(evaluation=EvaluationConfig(slices=("user_ids",))),
        "evaluation.slices: unknown column of a feature 'user_ids'; did you mean 'user_id'?",
    ),
    "slices by a history": (
        lambda: experiment(
            user_features=(Hash("user_id", 10), History(of="item_id", length=5)),
            evaluation=EvaluationConfig(slices=("history",)),
        ),
        "evaluation.slices: unknown column of a feature 'history'; known: item_id, price, user_id",
    ),
    "slices by a column twice": (
        lambda: experiment(evaluation=EvaluationConfig(slices=("user_id", "user_id"))),
        "evaluation.slices: duplicate column 'user_id'; name it once",
    ),
    "monitor of another metric": (
        lambda: TrainConfig(monitor="auc"),
        "TrainConfig.monitor: invalid value 'auc' "
        "(expected a string matching pattern '^((recall|hit_rate|ndcg|mrr|map)@[1-9][0-9]*)?$')",
    ),
    "a name that is not a file name": (
        lambda: experiment(name="a b"),
        "ExperimentConfig.name: invalid value 'a b' (expected a string matching pattern '^[A-Za-z0-9_.-]+$')",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    build, message = REFUSALS[case]
    with pytest.raises(ConfigError) as caught:
        build()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment().seed = 3  # type: ignore[misc]
