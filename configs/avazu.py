"""Avazu click log with the eleven hash columns of the textbook two-tower model, 16 dimensions each.

twotower dataset avazu --source=FOLDER_WITH_train.csv --output=data/avazu
twotower run --config=configs/avazu.py --run_dir=runs/avazu --export_dir=export/avazu

The public file has no `adid`; its column C14 behaves as the ad's code, so C14 is the item's id and stands in `adid`'s
place with its 10,000 buckets. The columns of the site and the app describe where an ad was shown and are taken as the
item's side: of each ad, the catalogue holds the latest row.
"""

from twotower_tf.config import (
    CosineLogitBCE,
    DataConfig,
    ExperimentConfig,
    Hash,
    Hour,
    ModelConfig,
    TimeSplit,
    TrainConfig,
)


def get_config() -> ExperimentConfig:
    """The experiment."""
    return ExperimentConfig(
        name="avazu",
        data=DataConfig(
            root="data/avazu",
            events="events.parquet",
            user_id="device_id",
            item_id="C14",
            timestamp="hour",
            timestamp_format="%y%m%d%H",
            label="click",
            split=TimeSplit(valid_fraction=0.1, test_fraction=0.1),
        ),
        item_features=(
            Hash("C14", buckets=10_000),
            Hash("site_id", buckets=10_000),
            Hash("site_domain", buckets=10_000),
            Hash("site_category", buckets=10_000),
            Hash("app_id", buckets=10_000),
            Hash("app_domain", buckets=10_000),
            Hash("app_category", buckets=1_000),
        ),
        user_features=(
            Hash("device_id", buckets=1_000),
            Hash("device_ip", buckets=10_000),
            Hash("device_type", buckets=10),
            Hash("device_conn_type", buckets=10),
            Hour("hour"),
        ),
        model=ModelConfig(embedding_dim=16, vector_dim=32, item_hidden=(128, 64), user_hidden=(128, 64)),
        loss=CosineLogitBCE(),
        train=TrainConfig(batch_size=1024, epochs=5, initial_lr=0.001, lr_decay_rate=0.9),
    )
