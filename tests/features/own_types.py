"""Two feature types defined outside the package, as someone who adds one writes them: the configuration's half."""

from typing import ClassVar

from twotower_tf.config.base import Positive, PositiveFloat
from twotower_tf.config.features import BucketedFeature, ColumnFeature, Kind, feature_type

ENCODERS = "tests.features.own_encoders"


@feature_type
class Prefix(BucketedFeature):
    """The first `length` bytes of a text, hashed into `buckets`."""

    encoder_module: ClassVar[str] = ENCODERS

    length: Positive = 3


@feature_type
class Capped(ColumnFeature):
    """A number, at most `cap`, divided by it; 0 where it is missing."""

    kind: ClassVar[Kind] = "number"
    numeric: ClassVar[bool] = True
    own_table: ClassVar[bool] = False
    encoder_module: ClassVar[str] = ENCODERS

    cap: PositiveFloat
