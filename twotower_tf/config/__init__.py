"""The configuration of an experiment: frozen dataclasses, validated as a whole.

`configs/NAME.py` defines `get_config() -> ExperimentConfig`. What is wrong in it is a `ConfigError` that names the
field, what came and what is accepted. `--set a.b=value` overrides any field; the resolved configuration is written to
the run directory as `config.json`, and every later stage reads that file.
"""

from twotower_tf.config.base import MAX_BUCKETS
from twotower_tf.config.data import (
    DataConfig,
    DateSplit,
    GivenSplit,
    LeaveLastOut,
    RandomSplit,
    Split,
    TimeSplit,
)
from twotower_tf.config.experiment import ExperimentConfig
from twotower_tf.config.features import (
    Bucketized,
    Cross,
    Feature,
    Hash,
    History,
    Hour,
    ItemFeature,
    Numeric,
    Tags,
    Weekday,
    feature_columns,
    feature_name,
)
from twotower_tf.config.loading import (
    PREPARED,
    SCHEMA_VERSION,
    TRAINED,
    fingerprint,
    from_json,
    load,
    load_run,
    to_json,
)
from twotower_tf.config.overrides import override
from twotower_tf.config.training import (
    Adam,
    CosineLogitBCE,
    EvaluationConfig,
    InBatch,
    InBatchSoftmax,
    IndexConfig,
    Labelled,
    Loss,
    ModelConfig,
    Negatives,
    SamplingConfig,
    TrainConfig,
    Uniform,
)

__all__ = [
    "Adam",
    "Bucketized",
    "CosineLogitBCE",
    "Cross",
    "DataConfig",
    "DateSplit",
    "EvaluationConfig",
    "ExperimentConfig",
    "Feature",
    "GivenSplit",
    "Hash",
    "History",
    "Hour",
    "InBatch",
    "InBatchSoftmax",
    "IndexConfig",
    "ItemFeature",
    "Labelled",
    "LeaveLastOut",
    "Loss",
    "MAX_BUCKETS",
    "ModelConfig",
    "Negatives",
    "Numeric",
    "PREPARED",
    "RandomSplit",
    "SCHEMA_VERSION",
    "SamplingConfig",
    "Split",
    "TRAINED",
    "Tags",
    "TimeSplit",
    "TrainConfig",
    "Uniform",
    "Weekday",
    "feature_columns",
    "feature_name",
    "fingerprint",
    "from_json",
    "load",
    "load_run",
    "override",
    "to_json",
]
