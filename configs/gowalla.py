"""Gowalla check-ins in LightGCN's split: 29,858 users, 40,981 places, lists without times.

twotower dataset gowalla --output=data/gowalla
twotower run --config=configs/gowalla.py --run_dir=runs/gowalla --export_dir=export/gowalla

With `--final` added, training took 32 min on one thread of two shared cores (2026-11-28);
test recall@20 .182, ndcg@20 .150; popularity has .042, .032. Validation recall@20 was .219.

Settings are chosen on the validation part and the test part is scored once, with the final fit on both other parts.
Where the source folder has no validation part, leave `--final` out, and `--set train.monitor=` keeps the last epoch.
"""

from twotower_tf.config import (
    BilateralSoftmax,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    GivenSplit,
    Hash,
    LazyAdam,
    ModelConfig,
    SamplingConfig,
    TrainConfig,
    Uniform,
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
        item_features=(Hash("item_id", buckets=400_000, hashes=2),),
        # The id alone, as in matrix factorization: users without training rows have a random vector.
        user_features=(Hash("user_id", buckets=400_000, hashes=2),),
        model=ModelConfig(embedding_dim=128, vector_dim=128, combine="add"),
        loss=BilateralSoftmax(temperature_positive=0.0976, temperature_negative=0.08),
        sampling=SamplingConfig(negatives=(Uniform(per_positive=4096, shared=True),)),
        train=TrainConfig(
            rows="user",
            batch_size=256,
            epochs=60,
            evaluate_every=15,
            initial_lr=0.005,
            table_optimizer=LazyAdam(initial_lr=0.005),
            lr_decay_rate=0.95,
        ),
        evaluation=EvaluationConfig(ks=(20, 50), query="user"),
    )
