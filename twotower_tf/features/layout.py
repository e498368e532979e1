"""Layout of a tower's features in its encoded tensors. Imports no TensorFlow."""

from __future__ import annotations

from twotower_tf.config import ExperimentConfig, History, feature_name
from twotower_tf.config.features import SideName
from twotower_tf.features.inputs import side_features

IDS, NUMERIC = "ids", "numeric"  # keys of the encoded tensors with a column per feature
VECTOR_LAYERS: dict[SideName, str] = {"user": "user_vector", "item": "ad_vector"}  # of unit length: a tower's output
_GAPS = "_gaps"  # ends the keys of gaps
NO_VALUE = -1  # the bucket id of a missing value; its embedding is zero


class Layout:
    """The features of one tower by the encoded tensors that hold them.

    Attributes:
        side: the tower.
        single: categorical features with one value, in the order of the columns of `ids`.
        numeric: numeric features, in the order of the columns of `numeric`.
        multivalued: features with several values; each is a tensor of its own.
        values: names of the multivalued features to the keys of their tensors: `values0`, `values1`, ... in the order
            of the features. A key never contains a feature's name: keys are names of files and of a signature's
            arguments, and a feature may have any name.
        gaps: names of the histories with `time_gaps` to the keys of the buckets of their items' gaps.
    """

    def __init__(self, config: ExperimentConfig, side: SideName) -> None:
        features = side_features(config, side)
        self.side = side
        self.numeric = [each for each in features if each.numeric]
        self.multivalued = [each for each in features if each.kind == "texts"]
        self.single = [each for each in features if not each.numeric and each.kind != "texts"]
        self.values = {feature_name(each): f"values{number}" for number, each in enumerate(self.multivalued)}
        timed = [each.name for each in self.multivalued if isinstance(each, History) and each.time_gaps]
        self.gaps = {name: f"{self.values[name]}{_GAPS}" for name in timed}

    def keys(self) -> list[str]:
        """Lists the keys of the encoded tensors that the side has: `ids`, `numeric`, `values0`, `values1`, ..."""
        lists = [*self.values.values(), *self.gaps.values()]
        return [IDS] * bool(self.single) + [NUMERIC] * bool(self.numeric) + lists
