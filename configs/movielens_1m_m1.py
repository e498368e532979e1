"""The m1 split of MovieLens 1M (BARS): 6,022 users, 3,043 movies, lists without times, ids alone.

twotower dataset movielens-1m-m1 --output=data/movielens-1m-m1
twotower run --config=configs/movielens_1m_m1.py --run_dir=runs/movielens_1m_m1 --export_dir=export/movielens_1m_m1

With `--final` added, `run` took 11 min on two shared cores, 1.9 min of processor time (2026-11-27);
test recall@20 .290, ndcg@20 .308; popularity has .123, .134. Validation recall@20 was .263.

Settings are chosen on the validation part and the test part is scored once, with the final fit on both other parts.
items.parquet and users.parquet have what MovieLens 1M knows of movies and users, for further features.
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
        name="movielens_1m_m1",
        data=DataConfig(
            root="data/movielens-1m-m1",
            events="events.parquet",
            items="items.parquet",
            users="users.parquet",
            timestamp="",
            item_name="title",
            split=GivenSplit(column="split"),
        ),
        item_features=(Hash("item_id", buckets=60_000, hashes=2),),
        # A user is the mean of all movies rated, in the movies' own table.
        user_features=(History(of="item_id", length=2000),),
        model=ModelConfig(embedding_dim=64, vector_dim=64, combine="add"),
        loss=BilateralSoftmax(temperature_positive=0.15, temperature_negative=0.15),
        sampling=SamplingConfig(negatives=(Uniform(per_positive=2048, shared=True),)),
        train=TrainConfig(
            rows="user",
            batch_size=64,
            epochs=12,
            evaluate_every=4,
            initial_lr=0.005,
            table_optimizer=LazyAdam(initial_lr=0.005),
            lr_decay_rate=0.82,
        ),
        evaluation=EvaluationConfig(ks=(20, 50), query="user"),
    )
