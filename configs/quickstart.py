"""The synthetic ads log of `twotower synth`, with every kind of feature.

twotower quickstart

or step by step:

twotower synth --output=data/quickstart
twotower run --config=configs/quickstart.py --run_dir=runs/quickstart --export_dir=export/quickstart

`quickstart` also makes the final fit, as `run --final` does.
"""

from twotower_tf.config import (
    Bucketized,
    Cross,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    Hash,
    History,
    Hour,
    InBatchSoftmax,
    ModelConfig,
    Numeric,
    Tags,
    TimeSplit,
    TrainConfig,
    Weekday,
)


def get_config() -> ExperimentConfig:
    """The experiment."""
    return ExperimentConfig(
        name="quickstart",
        data=DataConfig(
            root="data/quickstart",
            events="events",
            items="items.csv",
            users="users.csv",
            timestamp="timestamp",
            label="click",
            item_name="title",
            split=TimeSplit(valid_fraction=0.1, test_fraction=0.1),
        ),
        item_features=(
            Hash("item_id", buckets=10_000, hashes=2),
            Hash("category", buckets=100),
            Hash("advertiser", buckets=1_000),
            Numeric("price", transform="log1p"),
        ),
        # The user's id is left out: a median user has eight clicks, and the history says more.
        user_features=(
            Bucketized("age", buckets=20),
            Hash("gender", buckets=10),
            Hash("country", buckets=100),
            Hash("device_type", buckets=10),
            Hash("placement", buckets=20),
            Cross(("country", "device_type"), buckets=1_000),
            Tags("interests", buckets=1_000, separator="|"),
            Hour("timestamp"),
            Weekday("timestamp"),
            History(of="item_id", length=50),
        ),
        model=ModelConfig(embedding_dim=64, vector_dim=64, item_hidden=(128,), user_hidden=(128,), dropout=0.3),
        loss=InBatchSoftmax(temperature=0.1, growing=True),  # a fifth of the items are created while the log runs
        train=TrainConfig(batch_size=512, epochs=20, patience=3),
        evaluation=EvaluationConfig(slices=("gender", "age", "category")),
    )
