"""Combinations that no field can see alone; each refusal names the field, what came and what is accepted."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from twotower_tf.config.data import DataConfig, DateSplit, LeaveLastOut, RandomSplit, TimeSplit
from twotower_tf.config.features import Hash, History, Numeric, feature_columns, feature_name
from twotower_tf.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from twotower_tf.config.experiment import ExperimentConfig


def check_data(data: DataConfig) -> None:
    """Refuses ids in one column and splits without what they need."""
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
    if isinstance(split, DateSplit) and split.until:
        try:
            datetime.strptime(split.until.replace("-", ""), "%Y%m%d")
        except ValueError:
            raise ConfigError(f"data.split.until: {split.until!r} is no day; write it as 20260131") from None
    if data.rejected and not (data.label or data.positive):
        raise ConfigError(
            "data.rejected: every row is a positive, and none of them a rejection; name data.label or data.positive"
        )
    for field, other in (("list_id", "position"), ("position", "list_id")):
        if getattr(data, field) and not getattr(data, other):
            raise ConfigError(f"data.{field}: a place is one in a list; name data.{other} too")
    for field, table in (("columns", "events"), ("item_columns", "items"), ("user_columns", "users")):
        _check_header(data, field, table)
    for field, table in (("items_time", "items"), ("users_time", "users")):
        if getattr(data, field) and not (getattr(data, table) and data.timestamp):
            raise ConfigError(f"data.{field}: joins data.{table} at the event's time; it needs both and data.timestamp")


def _check_header(data: DataConfig, field: str, table: str) -> None:
    """Column names given in place of a header line."""
    names = getattr(data, field)
    if names and not getattr(data, table):
        raise ConfigError(f"data.{field}: there is no data.{table} whose columns it could name")
    twice = next((name for position, name in enumerate(names) if name in names[:position]), None)
    if twice is not None:
        raise ConfigError(f"data.{field}: two columns are named {twice!r}")


def check_features(config: ExperimentConfig) -> None:
    """Refuses names that stand twice, columns of two types, and tables that cannot be shared."""
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


def check_training(config: ExperimentConfig) -> None:
    """Refuses a monitor that is not measured."""
    if config.train.monitor:
        k = int(config.train.monitor.partition("@")[2])
        if k not in config.evaluation.ks:
            raise ConfigError(
                f"train.monitor: {config.train.monitor!r} is at a k outside evaluation.ks {config.evaluation.ks}"
            )
