"""Gowalla check-ins in LightGCN's split: 29,858 users, 40,981 places, lists without times.

twotower dataset gowalla --output=data/gowalla
twotower run --config=configs/gowalla.py --run_dir=runs/gowalla --export_dir=export/gowalla

With `--final` added, `run` took 24 min on two shared cores, 9.5 min of processor time (2026-11-27);
test recall@20 .175, ndcg@20 .140; popularity has .042, .032. Validation recall@20 was .214.

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
    History,
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
        # A user is the mean of all places visited (at most 811), in the places' own table.
        user_features=(History(of="item_id", length=1000),),
        model=ModelConfig(embedding_dim=128, vector_dim=128, combine="add"),
        loss=BilateralSoftmax(temperature_positive=0.1, temperature_negative=0.1),
        sampling=SamplingConfig(negatives=(Uniform(per_positive=4096, shared=True),)),
        train=TrainConfig(
            rows="user",
            batch_size=256,
            epochs=20,
            evaluate_every=5,
            initial_lr=0.005,
            table_optimizer=LazyAdam(initial_lr=0.005),
            lr_decay_rate=0.89,
        ),
        evaluation=EvaluationConfig(ks=(20, 50), query="user"),
    )
