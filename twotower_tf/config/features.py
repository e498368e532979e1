"""The features: which columns enter a tower, and how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from twotower_tf.config.base import Buckets, Name, Positive, config_class
from twotower_tf.config.history_encoders import check_history_encoder


@config_class
class Hash:
    """A categorical column; its text is hashed into `buckets` (TensorFlow's `categorical_column_with_hash_bucket`)."""

    column: Name
    buckets: Buckets
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Hash"] = "Hash"


@config_class
class Cross:
    """The combination of two or more categorical columns, hashed (TensorFlow's `crossed_column`)."""

    columns: Annotated[tuple[Name, ...], Field(min_length=2)]
    buckets: Buckets
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Cross"] = "Cross"


@config_class
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


@config_class
class Bucketized:
    """A number cut at training quantiles into at most `buckets` buckets (TensorFlow's `bucketized_column`)."""

    column: Name
    buckets: Buckets
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Bucketized"] = "Bucketized"


@config_class
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


@config_class
class Hour:
    """The hour of the day (UTC, 0 to 23) of the event's time. Only of `DataConfig.timestamp`."""

    column: Name
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Hour"] = "Hour"


@config_class
class Weekday:
    """The day of the week (UTC, Monday 0 to Sunday 6) of the event's time. Only of `DataConfig.timestamp`."""

    column: Name
    embedding_dim: Positive | None = None
    shared_with: str = ""
    name: str = ""
    type: Literal["Weekday"] = "Weekday"


@config_class
class History:
    """The values of the item feature `of` for the user's positives strictly before the event, oldest first.

    It shares the embedding table of that feature.

    Attributes:
        of: item feature, a `Hash`.
        length: most recent values that are kept.
        encoder: how their embeddings become one: `mean`; `recency`, the mean weighted by 0.9 to the number of later
            values, so that the newest count most; `last`, the newest alone; or a name registered with
            `twotower_tf.model.history.registers`.
    """

    of: Name
    length: Positive = 50
    encoder: Annotated[str, AfterValidator(check_history_encoder)] = "mean"
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
