"""Gowalla check-ins in LightGCN's split: 29,858 users, 40,981 places, lists without times.

twotower dataset gowalla --output=data/gowalla
twotower run --config=configs/gowalla.py --run_dir=runs/gowalla --export_dir=export/gowalla

On two shared cores `run` took 5 min 45 s (2026-11-21); test recall@20 .141, ndcg@20 .113; popularity has .042, .032.

Settings are chosen on the validation part and the test part is scored once. Where the source folder has no
validation part, `--set train.monitor=` keeps the last epoch.
"""

from twotower_tf.config import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    GivenSplit,
    Hash,
    History,
    InBatchSoftmax,
    ModelConfig,
    TrainConfig,
)


def get_config() -> ExperimentConfig:
    """The experiment."""
    return ExperimentConfig(
        name="gowalla",
        data=DataConfig(
            root="data/gowalla",
            events="events.parquet",
            timestamp="",
            split=GivenSplit(column="split"),
        ),
        item_features=(Hash("item_id", buckets=400_000),),
        user_features=(Hash("user_id", buckets=300_000), History(of="item_id", length=100)),
        model=ModelConfig(embedding_dim=64, vector_dim=64, item_hidden=(), user_hidden=()),
        loss=InBatchSoftmax(temperature=0.1),
        train=TrainConfig(batch_size=1024, epochs=8, initial_lr=0.002, lr_decay_rate=0.8, patience=2),
        evaluation=EvaluationConfig(ks=(20, 50), query="user"),
    )
