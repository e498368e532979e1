"""Cross-field validation; errors name the field, the given and the accepted values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from twotower_tf.config.data import ALIGNED, DataConfig, DateSplit, RandomSplit, TextFormat, TimeSplit
from twotower_tf.config.features import KINDS, BaseFeature, Hash, History, feature_name
from twotower_tf.config.history_encoders import Attention, SelfAttention, encoder_name, is_causal
from twotower_tf.config.losses import LOSSES, LossConfig
from twotower_tf.config.sampling import Catalogue, InBatch, Queue, SamplingConfig
from twotower_tf.config.training import EvaluationConfig, ModelConfig, TrainConfig
from twotower_tf.errors import ConfigError, unknown_name


def check_data(data: DataConfig) -> None:
    """Checks id columns, the split, and the columns and tables that other fields depend on.

    Raises:
        ConfigError: naming the field.
    """
    if data.user_id == data.item_id:
        raise ConfigError(
            f"data.item_id: invalid column {data.item_id!r} (expected a column other than data.user_id); "
            "name the column of item ids"
        )
    split = data.split
    if isinstance(split, TimeSplit | RandomSplit) and split.valid_fraction + split.test_fraction >= 1.0:
        raise ConfigError(
            f"data.split: valid_fraction {split.valid_fraction} + test_fraction {split.test_fraction} leave no "
            "training rows (expected a sum below 1); lower one of them"
        )
    if isinstance(split, TimeSplit) and not data.timestamp:
        raise ConfigError("data.timestamp: TimeSplit needs event times; name their column or use RandomSplit()")
    if isinstance(split, DateSplit) and split.until:
        try:
            datetime.strptime(split.until.replace("-", ""), "%Y%m%d")
        except ValueError:
            raise ConfigError(f"data.split.until: invalid date {split.until!r} (expected e.g. 20260131)") from None
    if data.rejected and not (data.label or data.positive):
        raise ConfigError(
            "data.rejected: every row is a positive, so none can be a rejection; set data.label or data.positive"
        )
    for field, other in (("list_id", "position"), ("position", "list_id")):
        if getattr(data, field) and not getattr(data, other):
            raise ConfigError(f"data.{field}: needs data.{other}; set both or neither")
    for field, table in (("columns", "events"), ("item_columns", "items"), ("user_columns", "users")):
        _check_header(data, field, table)
    _check_text(data, "data")
    for field, table in (("item_format", "items"), ("user_format", "users")):
        form = getattr(data, field)
        if form is not None and not getattr(data, table):
            raise ConfigError(f"data.{field}: needs data.{table}; set it or remove data.{field}")
        if form is not None:
            _check_text(form, f"data.{field}")
    for field, table in (("items_id", "items"), ("users_id", "users")):
        if getattr(data, field) and not getattr(data, table):
            raise ConfigError(f"data.{field}: needs data.{table}; set it or remove data.{field}")
    for field, table in (("items_time", "items"), ("users_time", "users")):
        if getattr(data, field) and not (getattr(data, table) and data.timestamp):
            raise ConfigError(
                f"data.{field}: needs data.{table} and data.timestamp (as-of join at event time); set both"
            )


def _check_text(form: DataConfig | TextFormat, where: str) -> None:
    """Checks that delimiter, quote and escape of delimited text differ."""
    for name in ("quote", "escape"):
        mark = getattr(form, name)
        if mark and form.delimiter != ALIGNED and mark in form.delimiter.replace("\\t", "\t"):
            raise ConfigError(
                f"{where}.{name}: invalid value {mark!r} (expected a character that is not the delimiter)"
            )
    if form.escape and not form.quote:
        raise ConfigError(f"{where}.escape: needs {where}.quote; remove it for text without quoting")


def _check_header(data: DataConfig, field: str, table: str) -> None:
    """Checks column names given in place of a header line."""
    names = getattr(data, field)
    if names and not getattr(data, table):
        raise ConfigError(f"data.{field}: needs data.{table}; set it or remove data.{field}")
    duplicate = next((name for position, name in enumerate(names) if name in names[:position]), None)
    if duplicate is not None:
        raise ConfigError(f"data.{field}: duplicate column name {duplicate!r}")


def check_features(
    item_features: Sequence[BaseFeature], user_features: Sequence[BaseFeature], data: DataConfig, model: ModelConfig
) -> None:
    """Checks for duplicate feature names, columns of two types, and tables that cannot be shared.

    Raises:
        ConfigError: naming the feature.
    """
    sides = {"item_features": item_features, "user_features": user_features}
    tables: dict[str, dict[str, BaseFeature]] = {side: {} for side in sides}
    for side, features in sides.items():
        kinds: dict[str, str] = {}
        for position, feature in enumerate(features):
            where = f"{side}[{position}]"
            name = feature_name(feature)
            if name in tables[side]:
                raise ConfigError(f"{where}: duplicate feature name {name!r}; give one of the features name=...")
            tables[side][name] = feature
            _check_column_kinds(where, feature, kinds, data)
        _check_times_inputs(side, features)
    for side, features in sides.items():
        for position, feature in enumerate(features):
            _check_sharing(f"{side}[{position}]", feature, side, tables, model)


_CALLED = {"text": "text", "texts": "tags", "number": "a number", "time": "a time", "times": "times"}


def _check_column_kinds(where: str, feature: BaseFeature, kinds: dict[str, str], data: DataConfig) -> None:
    """Checks that a column has one type on each side, as it is one tensor of the signature."""
    for each in feature.inputs():
        if each.kind not in KINDS:
            raise ConfigError(
                f"{where}: {feature.type}: invalid kind of input {each.kind!r} (expected {', '.join(KINDS)}); "
                "correct the class attribute `kind` or the method `inputs` of this feature type"
            )
        if each.keep_last:  # the values of other events, not of a column
            continue
        column, kind = each.name, _CALLED[each.kind]
        if each.kind == "time" and column != data.timestamp:
            field = f"{where}.time_gaps" if isinstance(feature, History) else where
            raise ConfigError(
                f"{field}: invalid column {column!r} (expected data.timestamp={data.timestamp!r}, the event time that "
                f"{feature.type} reads)"
            )
        if kinds.setdefault(column, kind) != kind:
            raise ConfigError(
                f"{where}: column {column!r} is {kinds[column]} in one feature and {kind} in another "
                "(expected one type on each side); use Bucketized to make categories of a number"
            )


def _check_times_inputs(side: str, features: Sequence[BaseFeature]) -> None:
    """Checks that the input with the times of a history's items has a name of its own."""
    names = [each.name for feature in features for each in feature.inputs() if each.kind != "times"]
    for position, feature in enumerate(features):
        for each in feature.inputs():
            if each.kind == "times" and each.name in names:
                raise ConfigError(
                    f"{side}[{position}].time_gaps: the times of {each.times_of!r} are an input {each.name!r}, which "
                    "another feature has; give the history another name"
                )


def _check_sharing(
    where: str, feature: BaseFeature, side: str, tables: dict[str, dict[str, BaseFeature]], model: ModelConfig
) -> None:
    """Checks that a shared embedding table exists and fits."""
    if isinstance(feature, History):
        target = tables["item_features"].get(feature.of)
        if target is None:
            raise ConfigError(f"{where}: {unknown_name('item feature in of=', feature.of, tables['item_features'])}")
        if not isinstance(target, Hash):
            raise ConfigError(f"{where}: invalid of={feature.of!r} (expected a Hash item feature, got {target.type})")
        if feature.shared_with:
            raise ConfigError(f"{where}: a History always shares the table of {feature.of!r}; remove shared_with")
        own, others = feature.embedding_dim, target.embedding_dim or model.embedding_dim
        if own not in (None, others):
            raise ConfigError(f"{where}: invalid embedding_dim {own} (expected {others}, that of the shared table)")
        return
    if not feature.shared_with:
        return
    other = "user_features" if side == "item_features" else "item_features"
    target = tables[side].get(feature.shared_with) or tables[other].get(feature.shared_with)
    if target is None or target is feature:
        known = (set(tables[side]) | set(tables[other])) - {feature_name(feature)}
        raise ConfigError(f"{where}: {unknown_name('feature in shared_with=', feature.shared_with, known)}")
    if not target.own_table or not feature.own_table or target.shared_with:
        raise ConfigError(f"{where}: {feature.shared_with!r} has no embedding table that could be shared")
    for field, mine, theirs in (
        ("buckets", feature.table_rows(), target.table_rows()),
        ("hashes", getattr(feature, "hashes", 1), getattr(target, "hashes", 1)),
        ("embedding_dim", feature.embedding_dim, target.embedding_dim),
    ):
        if mine != theirs:
            raise ConfigError(f"{where}: invalid {field} {mine} (expected {theirs}, that of {feature.shared_with!r})")


def list_causal_histories(user_features: Sequence[BaseFeature]) -> list[History]:
    """Lists the histories whose encoder gives a vector at each position of a sequence."""
    return [each for each in user_features if isinstance(each, History) and is_causal(each.encoder)]


def choose_rows(user_features: Sequence[BaseFeature]) -> Literal["event", "sequence"]:
    """Returns what `train.rows=None` stands for."""
    return "sequence" if list_causal_histories(user_features) else "event"


def check_histories(
    user_features: Sequence[BaseFeature], item_features: Sequence[BaseFeature], data: DataConfig, model: ModelConfig
) -> None:
    """Checks that the histories' encoders fit the data, the other features and the embeddings.

    Raises:
        ConfigError: naming the feature.
    """
    dims = {feature_name(each): each.embedding_dim or model.embedding_dim for each in item_features}
    for position, feature in enumerate(user_features):
        if not isinstance(feature, History):
            continue
        where, encoder = f"user_features[{position}].encoder", feature.encoder
        if is_causal(encoder) and not data.ordered:
            raise ConfigError(
                f"{where}: {encoder_name(encoder)} reads the order of events, and the log has no times; name their "
                "column in data.timestamp, use data.split=LeaveLastOut() for a log whose rows are in order, or use "
                "encoder='mean'"
            )
        if isinstance(encoder, SelfAttention) and dims[feature.of] % encoder.heads:
            raise ConfigError(
                f"{where}.heads: invalid value {encoder.heads} (expected a divisor of {dims[feature.of]}, the "
                f"embedding_dim of {feature.of!r})"
            )
        if isinstance(encoder, Attention) and encoder.query == "user" and not _others(user_features):
            raise ConfigError(
                f"{where}.query: invalid value 'user' for a user tower without a feature other than histories; add "
                "one, or use query='learned'"
            )


def _others(user_features: Sequence[BaseFeature]) -> list[BaseFeature]:
    return [each for each in user_features if not isinstance(each, History)]


def check_rows(train: TrainConfig, user_features: Sequence[BaseFeature], loss: LossConfig) -> None:
    """Checks that sequences can be trained on.

    Raises:
        ConfigError: for "sequence" without a causal encoder, with histories of different lengths, or with time gaps
            and rows of label 0.
    """
    if not train.sequences:
        return
    histories = list_causal_histories(user_features)
    if loss.labelled and any(each.time_gaps for each in histories):
        raise ConfigError(
            "train.rows: 'sequence' takes the time after an item until the user's next positive, and the rows of "
            f"label 0 that {type(loss).__name__} trains on are at other times; set train.rows to 'event', or "
            "History.time_gaps to ''"
        )
    lengths = {each.name: each.length for each in histories}
    if not lengths:
        raise ConfigError(
            "train.rows: invalid value 'sequence' without a causal history encoder (expected a History with "
            "encoder='self_attention' or 'gru'); use one, or set train.rows to 'event'"
        )
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise ConfigError(
            f"train.rows: 'sequence' cuts all histories with a causal encoder into the same windows; {listed}; give "
            "them one length, or set train.rows to 'event'"
        )


def check_rows_of_users(train: TrainConfig, data: DataConfig, sampling: SamplingConfig, loss: LossConfig) -> None:
    """Checks that a training row can be a user with all positives.

    Raises:
        ConfigError: where the log has times, so that a history would have positives after the event; for a loss or
            negatives whose rows of one user differ in more than the positive.
    """
    if not train.by_user:
        return
    where = "train.rows: invalid value 'user'"
    if data.timestamp:
        raise ConfigError(
            f"{where} with data.timestamp={data.timestamp!r} (expected a log without times, as the history has all "
            "positives of the user); set train.rows to 'event', or data.timestamp to '' to ignore the times"
        )
    if not loss.by_user:
        fit = ", ".join(name for name, each in LOSSES.items() if each.by_user)
        raise ConfigError(f"{where} with {type(loss).__name__} (expected {fit}); choose one, or set it to 'event'")
    kinds = [each for each in sampling.negatives or () if not isinstance(each, Catalogue | InBatch | Queue)]
    own = [each.type for each in kinds if not getattr(each, "shared", False)]
    if own:
        raise ConfigError(
            f"{where} with sampling.negatives {own[0]}, drawn for each event (expected negatives that a batch shares: "
            "InBatch(), Queue(), Catalogue(), Uniform(shared=True), Popularity(shared=True)); use these, or "
            "set it to 'event'"
        )
    if sampling.masked != "user":
        raise ConfigError(
            f"sampling.masked: invalid value {sampling.masked!r} with train.rows='user' (expected 'user', as a row has "
            "all positives); set it to 'user', or train.rows to 'event'"
        )


def check_added_features(
    model: ModelConfig, item_features: Sequence[BaseFeature], user_features: Sequence[BaseFeature]
) -> None:
    """Checks that the embeddings that `model.combine="add"` sums have one dimension.

    Raises:
        ConfigError: naming the feature, or the dimension of the vectors.
    """
    if model.combine != "add":
        return
    dims = {feature_name(each): each.embedding_dim or model.embedding_dim for each in item_features}
    for side, features, hidden in (
        ("item_features", item_features, model.item_hidden),
        ("user_features", user_features, model.user_hidden),
    ):
        found = [
            0
            if each.numeric and not each.embedding_dim
            else dims[each.of]
            if isinstance(each, History)
            else each.embedding_dim or model.embedding_dim
            for each in features
        ]
        for position, dim in enumerate(found):
            if dim != (wanted := max(found)):
                raise ConfigError(
                    f"{side}[{position}]: invalid embedding_dim {dim or None} (expected {wanted}, that of the other "
                    "features, with model.combine='add'); give all one, or set model.combine to 'concatenate'"
                )
        if not hidden and found[0] != model.vector_dim:
            raise ConfigError(
                f"model.vector_dim: invalid value {model.vector_dim} (expected {found[0]}, the embedding_dim of "
                f"{side}, with model.combine='add' and no hidden layers); set it to {found[0]}"
            )


def check_batch_size(size: int, rows: int, kind: str = "training rows") -> None:
    """Checks that an epoch has a batch.

    Raises:
        ConfigError: for a batch larger than the `rows` of an epoch, which are of `kind`.
    """
    if size > rows:
        raise ConfigError(
            f"train.batch_size: invalid value {size} (expected at most {rows}, the {kind}); "
            f"lower it, e.g. --set train.batch_size={max(1, rows // 4)}"
        )


def check_slices(
    evaluation: EvaluationConfig, item_features: Sequence[BaseFeature], user_features: Sequence[BaseFeature]
) -> None:
    """Checks that columns of slices have values that divide users or items.

    Raises:
        ConfigError: for a column of no feature, or of the event's time or a history alone; or one twice.
    """
    inputs = [each for feature in (*user_features, *item_features) for each in feature.inputs()]
    known = {each.name for each in inputs if each.is_column}
    for position, name in enumerate(evaluation.slices):
        if name not in known:
            raise ConfigError(f"evaluation.slices: {unknown_name('column of a feature', name, known)}")
        if name in evaluation.slices[:position]:
            raise ConfigError(f"evaluation.slices: duplicate column {name!r}; name it once")


def check_training(train: TrainConfig, evaluation: EvaluationConfig) -> None:
    """Checks that the monitored metric is measured.

    Raises:
        ConfigError: for a k outside `evaluation.ks`.
    """
    if train.monitor:
        k = int(train.monitor.partition("@")[2])
        if k not in evaluation.ks:
            raise ConfigError(
                f"train.monitor: invalid k in {train.monitor!r} (expected one of evaluation.ks "
                f"{evaluation.ks}); add it there or choose another"
            )
