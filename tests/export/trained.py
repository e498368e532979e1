"""One tiny trained run with every kind of feature, for the tests of everything that is exported."""

import dataclasses
import os

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import (
    Bucketized,
    Cross,
    DataConfig,
    ExperimentConfig,
    Hash,
    History,
    Hour,
    InBatch,
    InBatchSoftmax,
    IndexConfig,
    ModelConfig,
    Numeric,
    SamplingConfig,
    Tags,
    TrainConfig,
)
from twotower_tf.datasets.synthetic import write_synthetic_log
from twotower_tf.features.encode_rows import encode
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import training_loop

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
K = 30


def experiment(root):
    return ExperimentConfig(
        name="tiny",
        data=DataConfig(
            root=str(root), events="events", items="items.csv", users="users.csv", label="click", item_name="title"
        ),
        item_features=(
            Hash("item_id", buckets=500),
            Hash("category", buckets=20),
            Numeric("price", transform="log1p"),
        ),
        user_features=(
            Hash("user_id", buckets=500),
            Hash("country", buckets=20),
            Bucketized("age", buckets=5),
            Numeric("age", name="years"),
            Tags("interests", buckets=50),
            Cross(("country", "device_type"), buckets=50),
            Hour("timestamp"),
            History(of="item_id", length=5),
        ),
        model=ModelConfig(embedding_dim=4, vector_dim=8, item_hidden=(8,), user_hidden=(8,)),
        sampling=SamplingConfig(negatives=(InBatch(),)),
        loss=InBatchSoftmax(),
        train=TrainConfig(batch_size=256, epochs=1, monitor=""),
        index=IndexConfig(k=K),
    )


def train(root):
    """Returns the run directory and its configuration."""
    write_synthetic_log(root / "data", events=6000, users=200, items=150, days=5, seed=3)
    config, run_dir = experiment(root / "data"), root / "run"
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    prepare_log(config, run_dir, threads=1)
    encode(config, Prepared.open(run_dir))
    training_loop.train(config, run_dir)
    return run_dir, dataclasses.replace(config)
