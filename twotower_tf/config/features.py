"""Feature types: which columns enter a tower, and what is known of each type without TensorFlow.

A type is a class under `@feature_type`. What it computes is registered with `twotower_tf.features.types.encodes`. A
type of your own, from any module, is accepted in configuration files, in JSON and by `--set` once that module is
imported:

    @feature_type
    class Prefix(BucketedFeature):
        "The first `length` bytes of a text, hashed into `buckets`."

        encoder_module: ClassVar[str] = "my_package.prefix_encoder"

        length: Positive = 3

Set TWOTOWER_EXTENSIONS=my_package.prefix for the commands, so that each of their processes imports it.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field
from typing_extensions import dataclass_transform

from twotower_tf.config.base import MAX_BUCKETS, Buckets, Name, Positive, Share, config_class
from twotower_tf.config.history_encoders import Encoder, HistoryEncoder
from twotower_tf.config.open_union import OpenUnion

SideName = Literal["user", "item"]
Kind = Literal["text", "texts", "number", "time", "times"]
Statistics = Literal["", "moments", "log_moments", "boundaries"]

KINDS: tuple[Kind, ...] = typing.get_args(Kind)
HOURS, WEEKDAYS = 24, 7
TIMES = "_times"  # ends the name of the input with the times of a history's items


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a tower's signature.

    Attributes:
        name: of the source column, or of the history.
        kind: "text" is a `[batch]` string, "texts" a `[batch, length]` string padded on the right with "",
            "number" a `[batch]` float32 where NaN means no value, "time" a `[batch]` int64 of epoch seconds, UTC,
            where 0 means no value, "times" a `[batch, length]` int64 of such times, padded on the right with 0.
        separator: of a "texts" input whose source is one text; "" where the source is a list.
        max_length: of a "texts" or "times" input: how many values are kept, the last ones of a history, the first ones
            of tags.
        keep_last: whether the last values are kept. Only histories do.
        form: how the log writes booleans and whole numbers, of `data.text_forms`; "" is the usual form.
        null_values: texts that mean a missing value, of `DataConfig.null_values`.
        timed: of a history: another input has its values' times, so that a missing value keeps its place.
        times_of: of a "times" input: the input whose values have these times, place by place.
    """

    name: str
    kind: Kind
    separator: str = ""
    max_length: int = 0
    keep_last: bool = False
    form: str = ""
    null_values: tuple[str, ...] = ()
    timed: bool = False
    times_of: str = ""

    @property
    def is_column(self) -> bool:
        """Whether it has the values of its source column: it is neither the event's time nor of a history."""
        return self.kind != "time" and not self.keep_last


T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _common_fields(cls: type[T]) -> type[T]:
    """Marks fields that come after a type's own."""
    return cls


@dataclass_transform(frozen_default=True)
def _leading_fields(cls: type[T]) -> type[T]:
    """Marks fields that come before a type's own."""
    return cls


@_common_fields
class BaseFeature:
    """Base class of all feature types. The class attributes are facts of a type, the fields belong to one feature.

    Attributes:
        embedding_dim: width of the feature's embeddings; None takes `model.embedding_dim`.
        shared_with: name of the feature whose embedding table this one uses too.
        name: of the feature, distinct within its tower; by default that of its source columns.
        dropout: chance that a value is left out in a step of training, as if it were missing; of a history or of tags
            each value by itself. On an item's id it makes the other features carry items that were never seen.
        kind: of its inputs, see `Input.kind`. Time is the event's own, `data.timestamp`.
        sides: the towers that may have it.
        numeric: whether it is encoded as one float32 per row, instead of as bucket ids.
        own_table: whether it has an embedding table, which other features may share.
        encoder_module: the module that registers the type's encoder (`twotower_tf.features.types.encodes`); it is
            imported when an encoder is needed, so that reading a configuration does not import TensorFlow. "" where the
            encoder is registered already.
        statistics: what `prepare` computes of its column: "moments" or "log_moments" (mean and deviation of the number,
            or of its signed log1p), "boundaries" (quantiles that cut it into `table_rows` buckets), "" nothing.
    """

    kind: ClassVar[Kind] = "text"
    sides: ClassVar[tuple[SideName, ...]] = ("user", "item")
    numeric: ClassVar[bool] = False
    own_table: ClassVar[bool] = True
    statistics: ClassVar[Statistics] = ""
    encoder_module: ClassVar[str] = ""

    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    dropout: Share = 0.0
    type: str = ""  # the name of the class, set by `feature_type`

    def source_columns(self) -> tuple[str, ...]:
        """Returns the columns that it reads, at least one."""
        raise NotImplementedError(f"{type(self).__name__}.source_columns")

    def inputs(self) -> tuple[Input, ...]:
        """Returns the tower's inputs that it reads, one per source column."""
        return tuple(Input(column, self.kind) for column in self.source_columns())

    def default_name(self) -> str:
        """Returns the name of a feature that is given none."""
        return "_x_".join(self.source_columns())

    def table_rows(self) -> int:
        """Returns the number of its bucket ids, which are 0 and up; 0 where it has no table of its own."""
        return 0

    def id_range(self) -> int:
        """Returns the number of ids that it is encoded as: its rows, unless rows are computed from the ids."""
        return self.table_rows()

    def sequence_encoder(self) -> str | HistoryEncoder:
        """Returns the encoder that makes one vector of several values: a name, or a configuration class."""
        return "mean"


_TYPES: list[type[BaseFeature]] = []


@dataclass_transform(frozen_default=True)
def feature_type(cls: type[T]) -> type[T]:
    """Makes a subclass of `BaseFeature` a configuration class, and registers it under its name.

    Its fields are those of its base classes, its own, and last those of `BaseFeature`.

    Raises:
        ValueError: for a name that another feature type has.
    """
    name = cls.__name__
    if any(each.__name__ == name for each in _TYPES):
        raise ValueError(f"feature type: invalid name {name!r} (already registered); choose another name")
    hints = typing.get_type_hints(cls, include_extras=True)
    declared = [field for each in reversed(cls.__mro__) for field in each.__dict__.get("__annotations__", {})]
    common = BaseFeature.__annotations__
    ordered = [*(field for field in declared if field not in common), *common]
    fields = {field: hints[field] for field in ordered if typing.get_origin(hints[field]) is not ClassVar}
    cls.__annotations__ = {**fields, "type": Literal[name]}
    cls.type = name  # type: ignore[attr-defined]
    checked = config_class(cls)
    _TYPES.append(typing.cast("type[BaseFeature]", checked))
    return checked


def list_feature_types(side: SideName | None = None) -> Sequence[type[BaseFeature]]:
    """Lists the registered classes: all of them, or those that a tower may have."""
    return [each for each in _TYPES if side is None or side in each.sides]


@_leading_fields
class ColumnFeature(BaseFeature):
    """Base class of the types that read one column.

    Attributes:
        column: of the log, or of the item or user table.
    """

    column: Name

    def source_columns(self) -> tuple[str, ...]:
        """Returns the column."""
        return (self.column,)


@_leading_fields
class BucketedFeature(ColumnFeature):
    """Base class of the types that turn one column into bucket ids.

    Attributes:
        buckets: number of bucket ids, and of rows of the embedding table.
    """

    buckets: Buckets

    def table_rows(self) -> int:
        """Returns `buckets`."""
        return self.buckets


@feature_type
class Hash(BucketedFeature):
    """A categorical column; its text is hashed into `buckets` (TensorFlow's `categorical_column_with_hash_bucket`).

    With one hash, values that share a bucket are one value to the model: an item then stands in the lists of another.
    With two, a value has two rows of the table, whose embeddings are added (Svenstrup et al., "Hash Embeddings for
    Efficient Word Representations", 2017), and next to none shares both. The text is hashed once, into the 2^31 - 1 ids
    of a TensorFlow column, and both rows follow from that id.

    Attributes:
        hashes: rows of a value. Use 2 for ids.
    """

    hashes: Literal[1, 2] = dataclasses.field(default=1, kw_only=True)  # positions of the other fields stay

    def id_range(self) -> int:
        """Returns `buckets`, or with two hashes the ids from which both rows follow."""
        return self.buckets if self.hashes == 1 else MAX_BUCKETS


@feature_type
class Cross(BaseFeature):
    """The combination of two or more categorical columns, hashed (TensorFlow's `crossed_column`).

    Attributes:
        columns: whose values are combined.
        buckets: number of bucket ids, and of rows of the embedding table.
    """

    columns: Annotated[tuple[Name, ...], Field(min_length=2)]
    buckets: Buckets

    def source_columns(self) -> tuple[str, ...]:
        """Returns `columns`."""
        return self.columns

    def table_rows(self) -> int:
        """Returns `buckets`."""
        return self.buckets


@feature_type
class Numeric(ColumnFeature):
    """A number, after `transform` with statistics of the training split; a missing value becomes 0 after it.

    With `embedding_dim` the number scales a learned vector; without, it enters the tower as one input.

    Attributes:
        transform: `standard` subtracts the mean and divides by the standard deviation; `log1p` does so after
            sign(x)·log1p(|x|); `none` takes the number as it is.
    """

    kind: ClassVar[Kind] = "number"
    numeric: ClassVar[bool] = True
    own_table: ClassVar[bool] = False

    transform: Literal["standard", "log1p", "none"] = "standard"

    @property
    def statistics(self) -> Statistics:  # type: ignore[override]
        """What `transform` needs."""
        return "log_moments" if self.transform == "log1p" else "moments"


@feature_type
class Bucketized(BucketedFeature):
    """A number cut at training quantiles into at most `buckets` buckets (TensorFlow's `bucketized_column`)."""

    kind: ClassVar[Kind] = "number"
    statistics: ClassVar[Statistics] = "boundaries"


@feature_type
class Tags(BucketedFeature):
    """A text of several values joined by `separator`, each hashed; their embeddings are averaged.

    Attributes:
        separator: between the values of one text.
        max_length: values beyond this count are dropped.
    """

    kind: ClassVar[Kind] = "texts"

    separator: Name = "|"
    max_length: Positive = 32

    def inputs(self) -> tuple[Input, ...]:
        """Returns the column's input."""
        return (Input(self.column, self.kind, self.separator, self.max_length),)


@feature_type
class Hour(ColumnFeature):
    """The hour of the day (UTC, 0 to 23) of the event's time. Only of `DataConfig.timestamp`."""

    kind: ClassVar[Kind] = "time"
    sides: ClassVar[tuple[SideName, ...]] = ("user",)

    def default_name(self) -> str:
        """Returns the column's name and `_hour`."""
        return f"{self.column}_hour"

    def table_rows(self) -> int:
        """Returns 24."""
        return HOURS


@feature_type
class Weekday(ColumnFeature):
    """The day of the week (UTC, Monday 0 to Sunday 6) of the event's time. Only of `DataConfig.timestamp`."""

    kind: ClassVar[Kind] = "time"
    sides: ClassVar[tuple[SideName, ...]] = ("user",)

    def default_name(self) -> str:
        """Returns the column's name and `_weekday`."""
        return f"{self.column}_weekday"

    def table_rows(self) -> int:
        """Returns 7."""
        return WEEKDAYS


@feature_type
class History(BaseFeature):
    """The values of the item feature `of` for the user's positives strictly before the event, oldest first.

    It shares the embedding table of that feature.

    Attributes:
        of: item feature, a `Hash`.
        length: most recent values that are kept.
        encoder: how their embeddings become one: the name of an encoder, or its class with options. `mean`; `recency`,
            the mean weighted by 0.9 to the number of later values, so that the newest count most; `last`, the newest
            alone; `attention` (`Attention`), a mean with learned weights; `self_attention` (`SelfAttention`), a causal
            transformer; `gru` (`GRU`); or a name registered with `twotower_tf.model.history.registers`.
        time_gaps: name of the events' time, `data.timestamp`: adds to each item's embedding a learned one of the time
            that passed after it, in powers of two of a second (`features.time_gaps`). With a causal encoder it passed
            until the user's next item, and after the newest one until the event, as in HSTU (Zhai et al., "Actions
            Speak Louder than Words", 2024); with another encoder until the event. The tower then has two more inputs:
            `NAME_times`, the items' times, and the event's time. "" takes the order alone.
        name: of the feature and of the tower's input.
    """

    kind: ClassVar[Kind] = "texts"
    sides: ClassVar[tuple[SideName, ...]] = ("user",)
    own_table: ClassVar[bool] = False

    of: Name  # type: ignore[misc]  # the default of a base class comes first
    length: Positive = 50
    encoder: Encoder = "mean"
    time_gaps: str = dataclasses.field(default="", kw_only=True)  # positions of the other fields stay
    name: Name = "history"

    def source_columns(self) -> tuple[str, ...]:
        """Returns no column: the values are those of other events."""
        return ()

    def inputs(self) -> tuple[Input, ...]:
        """Returns the input with the values, which is named as the feature, and with `time_gaps` those of times."""
        values = Input(self.name, self.kind, "", self.length, keep_last=True, timed=bool(self.time_gaps))
        if not self.time_gaps:
            return (values,)
        times = Input(self.times_name, "times", "", self.length, keep_last=True, times_of=self.name)
        return values, times, Input(self.time_gaps, "time")

    @property
    def times_name(self) -> str:
        """The name of the input with the items' times."""
        return f"{self.name}{TIMES}"

    def sequence_encoder(self) -> str | HistoryEncoder:
        """Returns `encoder`."""
        return self.encoder


Feature = Annotated[BaseFeature, OpenUnion(lambda: list_feature_types("user"))]
ItemFeature = Annotated[BaseFeature, OpenUnion(lambda: list_feature_types("item"))]


def feature_name(feature: BaseFeature) -> str:
    """Returns the feature's name: as given, or that of its type and source columns."""
    return feature.name or feature.default_name()


def feature_columns(feature: BaseFeature) -> tuple[str, ...]:
    """Returns the source columns of a feature; a history has none."""
    return feature.source_columns()
