"""The configuration of an experiment: frozen dataclasses, validated as a whole.

`configs/NAME.py` defines `get_config() -> ExperimentConfig`. What is wrong in it is a `ConfigError` that names the
field, what came and what is accepted. `--set a.b=value` overrides any field; the resolved configuration is written to
the run directory as `config.json`, and every later stage reads that file.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import runpy
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import pydantic.dataclasses
from pydantic import Field
from typing_extensions import dataclass_transform

from twotower_tf import artifacts
from twotower_tf.errors import ConfigError, unknown_name

SCHEMA_VERSION = 1
MAX_BUCKETS = 2**31 - 1  # bucket ids are stored as int32

T = TypeVar("T")

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Buckets = Annotated[int, Field(gt=1, le=MAX_BUCKETS)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def _config(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are checked against their annotations; a misfit is a `ConfigError`."""
    checked = pydantic.dataclasses.dataclass(
        frozen=True, config=pydantic.ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=False)
    )(cls)
    construct = checked.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise ConfigError(_explain(cls.__name__, error)) from None

    checked.__init__ = __init__  # type: ignore[method-assign]
    return typing.cast("type[T]", checked)


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def _explain(where: str, error: pydantic.ValidationError) -> str:
    """One line for the first problem pydantic found: field, rule, what came."""
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] in _UNKNOWN), problems[0])
    path = [str(part) for part in first["loc"]]
    if path and path[0].isdigit() and where in _CLASSES:  # a positional argument
        fields = [field.name for field in dataclasses.fields(_CLASSES[where])]
        path[0] = fields[int(path[0])] if int(path[0]) < len(fields) else path[0]
    came = first["input"]
    if first["type"] in _UNKNOWN:
        owner, fields = _owner(where, path[:-1])
        return f"{'.'.join([where, *path[:-1]])}: {unknown_name(f'field of {owner}', path[-1], fields)}"
    if first["type"] == "missing" or first["type"] == "missing_argument":
        return f"{where}: the field '{'.'.join(path)}' is required and was not given"
    message = first["msg"]
    message = message[0].lower() + message[1:]
    return f"{'.'.join([where, *path])}: {message}; came {came!r}"


def _owner(where: str, path: Sequence[str]) -> tuple[str, list[str]]:
    """The configuration class that a path of an error ends in, and its field names."""
    name = next((part for part in reversed(path) if part in _CLASSES), where)
    cls = _CLASSES.get(name, ExperimentConfig)
    for part in path:
        hint = typing.get_type_hints(cls).get(part)
        if dataclasses.is_dataclass(hint):
            cls, name = typing.cast(type, hint), hint.__name__  # type: ignore[union-attr]
    return name, [field.name for field in dataclasses.fields(cls)]


# --- data ---------------------------------------------------------------------------------------------------------


@_config
class TimeSplit:
    """The last part of the log's rows by time is test, the part before it validation. Equal times stay together."""

    valid_fraction: Share = 0.1
    test_fraction: Share = 0.1
    type: Literal["TimeSplit"] = "TimeSplit"


@_config
class LeaveLastOut:
    """Each user's last positive is test, the one before it validation; users with fewer than three have neither."""

    type: Literal["LeaveLastOut"] = "LeaveLastOut"


@_config
class GivenSplit:
    """A column of the events says `train`, `valid` or `test`."""

    column: Name = "split"
    type: Literal["GivenSplit"] = "GivenSplit"


@_config
class RandomSplit:
    """Each row falls by chance, fixed by the experiment's seed and the row's place in the log."""

    valid_fraction: Share = 0.1
    test_fraction: Share = 0.1
    type: Literal["RandomSplit"] = "RandomSplit"


Split = Annotated[TimeSplit | LeaveLastOut | GivenSplit | RandomSplit, Field(discriminator="type")]


@_config
class DataConfig:
    """Where the tables are and what their columns mean. Paths are relative to `root`.

    Attributes:
        root: directory of the tables, relative to the working directory.
        events: file, glob or directory of the event log; format by suffix.
        items: table with one row per item, or "": the catalogue is derived from the events (latest row per item).
        users: table with one row per user, or "".
        user_id: column of the user's id.
        item_id: column of the item's id.
        timestamp: column of the event's time, or "" where the log has no order.
        timestamp_format: strptime format of `timestamp`; "" recognises the formats documented in README.
        label: column with 1 for a positive and 0 otherwise; "" makes every event a positive.
        positive: SQL predicate over the event columns that a positive must satisfy as well.
        exclude: SQL predicate over the event columns; rows that satisfy it are dropped and counted.
        item_name: column of the item table (or the events) with a name to show to people.
        split: how events become training, validation and test.
    """

    root: str = "."
    events: Name = "events.csv"
    items: str = ""
    users: str = ""
    user_id: Name = "user_id"
    item_id: Name = "item_id"
    timestamp: str = "timestamp"
    timestamp_format: str = ""
    label: str = ""
    positive: str = ""
    exclude: str = ""
    item_name: str = ""
    split: Split = TimeSplit()


# --- features -----------------------------------------------------------------------------------------------------


@_config
class Hash:
    """A categorical column; its text is hashed into `buckets` (TensorFlow's `categorical_column_with_hash_bucket`)."""

    column: Name
    buckets: Buckets
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Hash"] = "Hash"


@_config
class Cross:
    """The combination of two or more categorical columns, hashed (TensorFlow's `crossed_column`)."""

    columns: Annotated[tuple[Name, ...], Field(min_length=2)]
    buckets: Buckets
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Cross"] = "Cross"


@_config
class Numeric:
    """A number as it is, after `transform` with statistics of the training split; no value is 0 after it.

    With `embedding_dim` the number scales a learned vector; without, it enters the tower as one input.
    """

    column: Name
    transform: Literal["standard", "log1p", "none"] = "standard"
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Numeric"] = "Numeric"


@_config
class Bucketized:
    """A number cut at training quantiles into at most `buckets` buckets (TensorFlow's `bucketized_column`)."""

    column: Name
    buckets: Buckets
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Bucketized"] = "Bucketized"


@_config
class Tags:
    """A text of several values joined by `separator`, each hashed; their embeddings are averaged.

    Attributes:
        max_length: values beyond this count are dropped.
    """

    column: Name
    buckets: Buckets
    separator: Name = "|"
    max_length: Positive = 32
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Tags"] = "Tags"


@_config
class Hour:
    """The hour of the day (UTC, 0 to 23) of the event's time. Only of `DataConfig.timestamp`."""

    column: Name
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Hour"] = "Hour"


@_config
class Weekday:
    """The day of the week (UTC, Monday 0 to Sunday 6) of the event's time. Only of `DataConfig.timestamp`."""

    column: Name
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Weekday"] = "Weekday"


@_config
class History:
    """The values of the item feature `of` for the user's positives strictly before the event, oldest first.

    It shares the embedding table of that feature. `length` most recent ones are kept.
    """

    of: Name
    length: Positive = 50
    encoder: Literal["mean"] = "mean"
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: Name = "history"
    type: Literal["History"] = "History"


Feature = Annotated[Hash | Cross | Numeric | Bucketized | Tags | Hour | Weekday | History, Field(discriminator="type")]
ItemFeature = Annotated[Hash | Cross | Numeric | Bucketized | Tags, Field(discriminator="type")]


def feature_name(feature: Any) -> str:
    """The feature's name: as given, or its column, or for a cross its columns joined by `_x_`."""
    if feature.name:
        return str(feature.name)
    if isinstance(feature, Cross):
        return "_x_".join(feature.columns)
    if isinstance(feature, Hour | Weekday):
        return f"{feature.column}_{feature.type.lower()}"
    return str(feature.column)


def feature_columns(feature: Any) -> tuple[str, ...]:
    """The source columns of a feature; a history has none."""
    if isinstance(feature, Cross):
        return feature.columns
    return () if isinstance(feature, History) else (feature.column,)


# --- model, sampling, loss, training ------------------------------------------------------------------------------


@_config
class ModelConfig:
    """The towers: embeddings, hidden layers, and the unit-length vectors they end in."""

    embedding_dim: Positive = 16
    vector_dim: Positive = 32
    item_hidden: tuple[Positive, ...] = (128, 64)
    user_hidden: tuple[Positive, ...] = (128, 64)
    residual: bool = False
    activation: Literal["relu", "gelu", "tanh", "selu", "swish"] = "relu"
    dropout: Share = 0.0


@_config
class Uniform:
    """Negatives drawn from the whole catalogue, every item alike; never one of the user's training positives."""

    per_positive: Positive = 4
    type: Literal["Uniform"] = "Uniform"


@_config
class Labelled:
    """The log's own rows with label 0."""

    type: Literal["Labelled"] = "Labelled"


@_config
class InBatch:
    """The other positives of the batch."""

    type: Literal["InBatch"] = "InBatch"


Negatives = Annotated[Uniform | Labelled | InBatch, Field(discriminator="type")]


@_config
class SamplingConfig:
    """Which negatives a positive meets."""

    negatives: Annotated[tuple[Negatives, ...], Field(min_length=1)] = (Uniform(),)


@_config
class CosineLogitBCE:
    """Binary cross-entropy on a sigmoid unit over the bounded logit 2·atanh(cosine)."""

    type: Literal["CosineLogitBCE"] = "CosineLogitBCE"


@_config
class InBatchSoftmax:
    """Softmax cross-entropy over the batch's items.

    Attributes:
        temperature: divides the cosine.
        learn_temperature: trains it, starting from `temperature`.
        correct: subtracts the log of each item's sampling probability from its logit.
    """

    temperature: PositiveFloat = 0.05
    learn_temperature: bool = False
    correct: bool = True
    type: Literal["InBatchSoftmax"] = "InBatchSoftmax"


Loss = Annotated[CosineLogitBCE | InBatchSoftmax, Field(discriminator="type")]


@_config
class Adam:
    """Adam (Kingma and Ba, 2015) on every weight."""

    beta_1: Share = 0.9
    beta_2: Share = 0.999
    epsilon: PositiveFloat = 1e-7
    type: Literal["Adam"] = "Adam"


@_config
class TrainConfig:
    """The training loop.

    Attributes:
        batch_size: training rows per step.
        epochs: passes over the training rows at most.
        initial_lr: learning rate of the first epoch.
        lr_decay_rate: factor applied every `lr_decay_epochs` epochs, as a staircase.
        monitor: validation metric that chooses the best epoch, "NAME@K"; "" keeps the last epoch.
        patience: epochs without a better `monitor` before training stops; 0 never stops early.
        evaluate_every: epochs between two validations.
    """

    batch_size: Positive = 4096
    epochs: Positive = 10
    optimizer: Adam = Adam()
    initial_lr: PositiveFloat = 1e-3
    lr_decay_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    lr_decay_epochs: Positive = 1
    monitor: Annotated[str, Field(pattern=r"^((recall|hit_rate|ndcg|mrr)@[1-9][0-9]*)?$")] = "recall@20"
    patience: NonNegative = 0
    evaluate_every: Positive = 1


@_config
class EvaluationConfig:
    """How the model is judged.

    Attributes:
        ks: cut-offs of the ranking metrics.
        exclude_seen: leaves the user's training (and, on test, validation) positives out of the ranking.
        query: "user": one query per user, as of the first held-out event, relevant are all held-out positives;
            "event": one query per held-out positive, relevant is its item.
    """

    ks: Annotated[tuple[Positive, ...], Field(min_length=1)] = (10, 20, 50, 100)
    exclude_seen: bool = True
    query: Literal["user", "event"] = "user"


@_config
class IndexConfig:
    """The index in the bundle.

    Attributes:
        k: answers of the in-graph `recommend` signature, and the k at which recall is measured.
        target_recall: recall@k against exact search that the index must reach.
        kind: "auto" is exact search up to `exact_below` items and ScaNN above.
        recommend_below: catalogues up to this size get the in-graph `recommend` signature.
    """

    k: Positive = 100
    target_recall: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    kind: Literal["auto", "exact", "scann"] = "auto"
    exact_below: NonNegative = 20_000
    recommend_below: NonNegative = 100_000


@_config
class ExperimentConfig:
    """Everything that decides an experiment's outcome."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    data: DataConfig
    item_features: Annotated[tuple[ItemFeature, ...], Field(min_length=1)]
    user_features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    seed: NonNegative = 17
    model: ModelConfig = ModelConfig()
    sampling: SamplingConfig = SamplingConfig()
    loss: Loss = CosineLogitBCE()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    index: IndexConfig = IndexConfig()

    def __post_init__(self) -> None:
        """Refuses combinations that no field can see alone.

        Raises:
            ConfigError: naming the field, what came and what is accepted.
        """
        _check_data(self.data)
        _check_features(self)
        _check_training(self)


# --- checks across fields -----------------------------------------------------------------------------------------


def _check_data(data: DataConfig) -> None:
    if data.user_id == data.item_id:
        raise ConfigError(f"data.item_id: {data.item_id!r} is data.user_id too; name the item's own column")
    split = data.split
    if isinstance(split, TimeSplit | RandomSplit) and split.valid_fraction + split.test_fraction >= 1.0:
        raise ConfigError(
            f"data.split: valid_fraction {split.valid_fraction} + test_fraction {split.test_fraction} leave nothing "
            "to train on; their sum must be below 1"
        )
    if isinstance(split, TimeSplit | LeaveLastOut) and not data.timestamp:
        raise ConfigError(f"data.timestamp: {split.type} needs the event's time; name its column or use RandomSplit()")


def _check_features(config: ExperimentConfig) -> None:
    sides = {"item_features": config.item_features, "user_features": config.user_features}
    tables: dict[str, dict[str, Any]] = {side: {} for side in sides}
    for side, features in sides.items():
        kinds: dict[str, str] = {}
        for position, feature in enumerate(features):
            where = f"{side}[{position}]"
            name = feature_name(feature)
            if name in tables[side]:
                raise ConfigError(f"{where}: two features are named {name!r}; give one of them name=...")
            tables[side][name] = feature
            _check_column_kinds(where, feature, kinds, config.data)
    for side, features in sides.items():
        for position, feature in enumerate(features):
            _check_sharing(f"{side}[{position}]", feature, side, tables, config)


_TEXT, _NUMBER, _TIME = "text", "a number", "a time"
_KINDS = {"Hash": _TEXT, "Cross": _TEXT, "Tags": "tags", "Numeric": _NUMBER, "Bucketized": _NUMBER}


def _check_column_kinds(where: str, feature: Any, kinds: dict[str, str], data: DataConfig) -> None:
    """A column is one tensor of the signature, so it has one type on each side."""
    for column in feature_columns(feature):
        kind = _KINDS.get(feature.type, _TIME)
        if kind == _TIME and column != data.timestamp:
            raise ConfigError(
                f"{where}: {feature.type} reads the event's time, data.timestamp={data.timestamp!r}; came {column!r}"
            )
        if kinds.setdefault(column, kind) != kind:
            raise ConfigError(
                f"{where}: column {column!r} is {kinds[column]} in one feature and {kind} here; "
                "a column has one type on each side (Bucketized makes categories of a number)"
            )


def _check_sharing(where: str, feature: Any, side: str, tables: dict[str, dict[str, Any]], config: Any) -> None:
    if isinstance(feature, History):
        target = tables["item_features"].get(feature.of)
        if target is None:
            raise ConfigError(f"{where}: {unknown_name('item feature in of=', feature.of, tables['item_features'])}")
        if not isinstance(target, Hash):
            raise ConfigError(f"{where}: a history is of a Hash item feature; {feature.of!r} is {target.type}")
        if feature.shared_with:
            raise ConfigError(f"{where}: a history shares the table of {feature.of!r}; remove shared_with")
        own, others = feature.embedding_dim, target.embedding_dim or config.model.embedding_dim
        if own not in (None, others):
            raise ConfigError(f"{where}: embedding_dim {own} differs from the shared table's {others}")
        return
    if not feature.shared_with:
        return
    other = "user_features" if side == "item_features" else "item_features"
    target = tables[side].get(feature.shared_with) or tables[other].get(feature.shared_with)
    if target is None or target is feature:
        known = (set(tables[side]) | set(tables[other])) - {feature_name(feature)}
        raise ConfigError(f"{where}: {unknown_name('feature in shared_with=', feature.shared_with, known)}")
    if isinstance(target, History | Numeric) or isinstance(feature, Numeric) or target.shared_with:
        raise ConfigError(f"{where}: {feature.shared_with!r} has no table of its own to share")
    for field in ("buckets", "embedding_dim"):
        mine, theirs = getattr(feature, field, None), getattr(target, field, None)
        if mine != theirs:
            raise ConfigError(f"{where}: {field} {mine} differs from {theirs} of {feature.shared_with!r}; they share")


def _check_training(config: ExperimentConfig) -> None:
    kinds = [negatives.type for negatives in config.sampling.negatives]
    if len(set(kinds)) != len(kinds):
        raise ConfigError(f"sampling.negatives: each kind may stand once; came {', '.join(kinds)}")
    if isinstance(config.loss, InBatchSoftmax) and kinds != ["InBatch"]:
        raise ConfigError(
            f"sampling.negatives: InBatchSoftmax takes its negatives from the batch, (InBatch(),); came {kinds}"
        )
    if isinstance(config.loss, CosineLogitBCE) and "InBatch" in kinds:
        raise ConfigError("sampling.negatives: CosineLogitBCE takes Uniform() and Labelled(); came InBatch")
    if "Labelled" in kinds and not config.data.label:
        raise ConfigError("sampling.negatives: Labelled() needs data.label, the column with 0 and 1")
    if config.train.monitor:
        k = int(config.train.monitor.partition("@")[2])
        if k not in config.evaluation.ks:
            raise ConfigError(
                f"train.monitor: {config.train.monitor!r} is at a k outside evaluation.ks {config.evaluation.ks}"
            )


_CLASSES: dict[str, type] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and dataclasses.is_dataclass(value)
}
_ADAPTER = pydantic.TypeAdapter(ExperimentConfig)


# --- loading ------------------------------------------------------------------------------------------------------


def load(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Runs `get_config()` of a configuration file and applies `--set` overrides in order.

    Raises:
        ConfigError: for a missing file, a file without `get_config`, an error in it, or an unusable override.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"--config: no such file: {path}")
    if path.suffix == ".json":
        return override(from_json(path.read_text(encoding="utf-8"), str(path)), overrides)
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is None:
            raise ConfigError(f"{path}: defines no get_config()")
        config = get_config()
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}".replace("\n", " ")) from error
    if not isinstance(config, ExperimentConfig):
        raise ConfigError(f"{path}: get_config() must return an ExperimentConfig; came {type(config).__name__}")
    return override(config, overrides)


def override(config: ExperimentConfig, overrides: Iterable[str]) -> ExperimentConfig:
    """Applies `a.b=value` texts. Values are typed by the field: numbers, text, `(1, 2)`, or `Class(field=value)`.

    Raises:
        ConfigError: for an unknown field (with the nearest one), or a value the field does not take.
    """
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    hints = typing.get_type_hints(ExperimentConfig, include_extras=True)
    texts = list(overrides)
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write it as field=value, e.g. --set train.epochs=3")
        head, *rest = path.strip().split(".")
        try:
            if head not in fields:
                raise ConfigError(unknown_name("field of ExperimentConfig", head, fields))
            fields[head] = _replace(fields[head], hints[head], rest, value, path)
        except ConfigError as error:
            raise ConfigError(f"--set {text}: {error}") from None
    try:
        return ExperimentConfig(**fields)  # once, at the end: two overrides may be possible only together
    except ConfigError as error:
        raise ConfigError(f"--set {' '.join(texts)}: {error}") from None


def _replace(node: Any, hint: Any, path: Sequence[str], text: str, whole: str) -> Any:
    """`node` with the field at `path` replaced by `text` read as that field's type."""
    if not path:
        try:
            value = text if isinstance(node, str) else _literal(text)  # a predicate may stand in brackets
            return pydantic.TypeAdapter(hint).validate_python(value, strict=False)
        except pydantic.ValidationError as error:
            return _replace_error(whole, error)
    head, rest = path[0], path[1:]
    if isinstance(node, tuple):
        if not head.isdigit() or int(head) >= len(node):
            raise ConfigError(f"{whole}: {head!r} is no position; there are {len(node)}, counted from 0")
        element = typing.get_args(typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint)[0]
        changed = _replace(node[int(head)], element, rest, text, whole)
        return (*node[: int(head)], changed, *node[int(head) + 1 :])
    if not dataclasses.is_dataclass(node):
        raise ConfigError(f"{whole}: {head!r} is asked of a plain value")
    hints = typing.get_type_hints(type(node), include_extras=True)
    if head not in hints or head == "type":
        raise ConfigError(unknown_name(f"field of {type(node).__name__}", head, set(hints) - {"type"}))
    changed = _replace(getattr(node, head), hints[head], rest, text, whole)
    return dataclasses.replace(node, **{head: changed})  # type: ignore[type-var]


def _replace_error(whole: str, error: pydantic.ValidationError) -> typing.NoReturn:
    raise ConfigError(_explain(whole, error)) from None


def _literal(text: str) -> Any:
    """`(1, 2)` and `[1, 2]` as sequences, `Class(field=value)` as that configuration class, all else as text."""
    stripped = text.strip()
    if stripped == "None":
        return None
    if not (stripped.startswith(("(", "[")) or stripped.endswith(")")):
        return text
    try:
        return _construct(ast.parse(stripped, mode="eval").body)
    except SyntaxError:
        return text


def _construct(node: ast.expr) -> Any:
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_construct(element) for element in node.elts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id not in _CLASSES:
            raise ConfigError(unknown_name("configuration class", node.func.id, _CLASSES))
        arguments = [_construct(argument) for argument in node.args]
        keywords = {keyword.arg or "": _construct(keyword.value) for keyword in node.keywords}
        return _CLASSES[node.func.id](*arguments, **keywords)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ConfigError(
            f"{ast.unparse(node)!r} is neither a number, a text, a list nor a configuration class"
        ) from None


# --- JSON ---------------------------------------------------------------------------------------------------------


def to_json(config: ExperimentConfig) -> str:
    """The resolved configuration as JSON text; `from_json` gives it back equal."""
    document = {"schema_version": SCHEMA_VERSION, **_ADAPTER.dump_python(config, mode="json")}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, where: str) -> ExperimentConfig:
    """Reads what `to_json` wrote.

    Raises:
        ConfigError: for another schema version, or content that is no configuration. `where` names the source.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None
    artifacts.check_schema(document, SCHEMA_VERSION, where)
    document.pop("schema_version")
    try:
        return _ADAPTER.validate_json(json.dumps(document))
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: {_explain('ExperimentConfig', error)}") from None


def load_run(run_dir: str | Path) -> ExperimentConfig:
    """Reads `config.json` of a run directory.

    Raises:
        ArtifactError: where there is none, or it is of another version.
        ConfigError: where its content is no configuration.
    """
    path = artifacts.RunPaths(Path(run_dir)).config
    return from_json(artifacts.read_text(path, "run directory"), str(path))


# The fields that prepared data depends on, and those that a trained model depends on besides its schedule, `train`.
PREPARED = ("seed", "data", "item_features", "user_features")
TRAINED = (*PREPARED, "model", "sampling", "loss")


def fingerprint(config: ExperimentConfig, fields: Sequence[str] = ()) -> str:
    """A digest of the named fields, by default of all, except where the files lie."""
    document: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    document["data"].pop("root")
    return artifacts.fingerprint({name: document[name] for name in fields or document})


GetConfig = Callable[[], ExperimentConfig]
