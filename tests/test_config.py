"""The configuration: every refusal in its own words, typed overrides, and a JSON round trip that loses nothing."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower_tf import config as configuration
from twotower_tf.config import (
    Adam,
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
    Weekday,
)
from twotower_tf.errors import ArtifactError, ConfigError


def experiment(**changes: Any) -> ExperimentConfig:
    """A small valid experiment with some fields replaced."""
    fields: dict[str, Any] = {
        "name": "small",
        "data": DataConfig(label="click"),
        "item_features": (Hash("item_id", buckets=100), Numeric("price")),
        "user_features": (Hash("user_id", buckets=100), History(of="item_id"), Tags("interests", buckets=50)),
    }
    return ExperimentConfig(**(fields | changes))


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
        "ModelConfig.embedding_dim: invalid value '16' (expected a valid integer)",
    ),
    "number for a text": (
        lambda: DataConfig(root=3),
        "DataConfig.root: invalid value 3 (expected a valid string)",
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
        "user_features[0]: invalid embedding_dim 3 (expected 16, that of the shared table)",
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
        "known: correct, learn_temperature, temperature, type",
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
        lambda: experiment(
            data=DataConfig(timestamp="", split=RandomSplit()), sampling=SamplingConfig(recency_half_life=7.0)
        ),
        "sampling.recency_half_life: needs the event's time; name its column in data.timestamp",
    ),
    "monitor outside ks": (
        lambda: experiment(train=TrainConfig(monitor="recall@7")),
        "train.monitor: invalid k in 'recall@7' (expected one of evaluation.ks (10, 20, 50, 100)); add it there or "
        "choose another",
    ),
    "monitor of another metric": (
        lambda: TrainConfig(monitor="auc"),
        "TrainConfig.monitor: invalid value 'auc' "
        "(expected a string matching pattern '^((recall|hit_rate|ndcg|mrr)@[1-9][0-9]*)?$')",
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


BAD_OVERRIDES = {
    "train.epochs=x": "train.epochs: invalid value 'x' (expected a valid integer)",
    "train.epochs=1.5": "train.epochs: invalid value '1.5' (expected a valid integer)",
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
    "model.residual=maybe": "model.residual: invalid value 'maybe' (expected a valid boolean)",
    "evaluation.ks=10": "evaluation.ks: invalid value '10' (expected a valid tuple)",
    "data=DataConfig(label=foo)": "invalid value 'foo' (expected a number, a string, a list or a configuration class)",
    "loss=SampledSoftmax(negatives=3)": "SampledSoftmax: unknown field of SampledSoftmax 'negatives'; "
    "known: correct, learn_temperature, temperature, type",
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


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment().seed = 3  # type: ignore[misc]


# --- files --------------------------------------------------------------------------------------------------------

GOOD = """
from twotower_tf.config import DataConfig, ExperimentConfig, Hash
def get_config():
    return ExperimentConfig(
        name="file", data=DataConfig(), item_features=(Hash("item_id", buckets=10),),
        user_features=(Hash("user_id", buckets=10),))
"""
BAD_FILES = {
    "def get_confg(): pass": "defines no get_config()",
    "def get_config(): return 3": "get_config() must return an ExperimentConfig; got int",
    "def get_config(): return 1 / 0": "ZeroDivisionError: division by zero",
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "def get_config(:": "SyntaxError: invalid syntax",
    GOOD.replace("buckets=10", "bucket=10", 1): "Hash: unknown field of Hash 'bucket'; did you mean 'buckets'?",
}


def test_loads_a_file_and_applies_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    config = configuration.load(path, ["train.epochs=2"])
    assert (config.name, config.train.epochs) == ("file", 2)


IMPOSSIBLE = GOOD.replace("DataConfig()", "DataConfig(timestamp='')")  # its TimeSplit needs times


def test_overrides_repair_a_file_that_is_impossible_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(IMPOSSIBLE)
    assert configuration.load(path, ["data.split=RandomSplit()"]).data.split == RandomSplit()
    resolved = json.loads(configuration.to_json(configuration.load(path, ["data.timestamp=timestamp"])))
    resolved["data"]["timestamp"] = ""
    path.with_suffix(".json").write_text(json.dumps(resolved))
    for file in (path, path.with_suffix(".json")):
        with pytest.raises(ConfigError) as alone:
            configuration.load(file)
        with pytest.raises(ConfigError) as unrepaired:
            configuration.load(file, ["train.epochs=2"])
        assert str(alone.value) == str(unrepaired.value)
        assert str(alone.value).startswith(f"{file}: data.timestamp: TimeSplit needs event times")
        assert configuration.load(file, ["data.timestamp=when"]).data == DataConfig(timestamp="when")
        with pytest.raises(ConfigError, match=r"^--set data.split=RandomSplit\(\) evaluation.ks=\(5,\): train.monitor"):
            configuration.load(file, ["data.split=RandomSplit()", "evaluation.ks=(5,)"])


@pytest.mark.parametrize("text", BAD_FILES)
def test_refuses_a_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        configuration.load(path)
    assert str(caught.value).startswith(f"{path}: {BAD_FILES[text]}")
    assert "\n" not in str(caught.value)


def test_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^--config: no such file: .*/none.py$"):
        configuration.load(tmp_path / "none.py")


def test_loads_a_resolved_configuration_too(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(configuration.to_json(experiment(seed=4)))
    assert configuration.load(path, ["train.epochs=2"]) == experiment(seed=4, train=TrainConfig(epochs=2))


def test_a_run_directory_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(configuration.to_json(experiment()))
    assert configuration.load_run(tmp_path) == experiment()


def test_refuses_a_directory_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        configuration.load_run(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/config.json: no such file; {tmp_path} is not a twotower run directory, or its command did not "
        "finish"
    )


def document(**changes: Any) -> str:
    return json.dumps(json.loads(configuration.to_json(experiment())) | changes)


def test_refuses_another_version() -> None:
    with pytest.raises(ArtifactError) as caught:
        configuration.from_json(document(schema_version=3), "runs/a/config.json")
    assert str(caught.value) == (
        "runs/a/config.json: invalid schema_version 3 (expected 2, which this version of twotower_tf reads); "
        "write it again with this version"
    )


BAD_DOCUMENTS = {
    "{": "here: not JSON: Expecting property name enclosed in double quotes",
    '{"schema_version": 2}': "here: ExperimentConfig: missing field 'name'",
    document(train={"epoch": 3}): "here: ExperimentConfig.train: unknown field of TrainConfig 'epoch'; "
    "did you mean 'epochs'?",
    document(item_features=[{"type": "Hash", "column": "a", "buckets": -1}]): (
        "here: ExperimentConfig.item_features.0.Hash.buckets: invalid value -1 (expected a number greater than 1)"
    ),
    document(user_features=[{"type": "History", "of": "x"}]): (
        "user_features[0]: unknown item feature in of= 'x'; known: item_id, price"
    ),
}


@pytest.mark.parametrize("text", BAD_DOCUMENTS)
def test_refuses_a_document(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.from_json(text, "here")
    assert str(caught.value).startswith(BAD_DOCUMENTS[text])


def test_where_the_files_lie_is_not_part_of_the_fingerprint() -> None:
    moved = configuration.override(experiment(), ["data.root=/elsewhere"])
    changed = configuration.override(experiment(), ["seed=18"])
    assert configuration.fingerprint(moved) == configuration.fingerprint(experiment())
    assert configuration.fingerprint(changed) != configuration.fingerprint(experiment())


def test_a_fingerprint_of_some_fields_sees_only_these() -> None:
    longer = configuration.override(experiment(), ["train.epochs=99"])
    wider = configuration.override(experiment(), ["model.vector_dim=64"])
    same = [configuration.fingerprint(config, configuration.PREPARED) for config in (experiment(), longer, wider)]
    assert len(set(same)) == 1
    trained = [configuration.fingerprint(config, configuration.TRAINED) for config in (experiment(), longer, wider)]
    assert trained[0] == trained[1] != trained[2]


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
