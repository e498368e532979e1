"""The synthetic ads log of `twotower synth`, with every kind of feature.

twotower quickstart

or step by step:

twotower synth --output=data/quickstart
twotower run --config=configs/quickstart.py --run_dir=runs/quickstart --export_dir=export/quickstart
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
            Hash("item_id", buckets=10_000),
            Hash("category", buckets=100),
            Hash("advertiser", buckets=1_000),
            Numeric("price", transform="log1p"),
        ),
        user_features=(
            Hash("user_id", buckets=20_000),
            Hash("gender", buckets=10),
            Hash("country", buckets=100),
            Bucketized("age", buckets=10),
            Tags("interests", buckets=1_000, separator="|"),
            Cross(("country", "device_type"), buckets=1_000),
            Hour("timestamp"),
            History(of="item_id", length=20),
        ),
        model=ModelConfig(embedding_dim=16, vector_dim=32, item_hidden=(64,), user_hidden=(64,)),
        loss=InBatchSoftmax(temperature=0.1),
        train=TrainConfig(batch_size=1024, epochs=10, initial_lr=0.003, lr_decay_rate=0.8, patience=2),
        evaluation=EvaluationConfig(slices=("gender", "age", "category")),
    )
