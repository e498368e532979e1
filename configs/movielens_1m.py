"""MovieLens 1M, leave-last-out: each user's last rated movie is test, the one before it validation.

twotower dataset movielens-1m --output=data/movielens-1m
twotower run --config=configs/movielens_1m.py --run_dir=runs/movielens_1m --export_dir=export/movielens_1m

On two shared cores `run` took 6 min 15 s (2026-11-21); test recall@20 .222, ndcg@20 .096; popularity has .068, .026.

Every rating is a positive, whatever its stars: the task is what a user watches next. With the publisher's
`ratings.dat` the order comes from its times; with a `ratings.csv` that has places instead of times, from these.
"""

from twotower_tf.config import (
    Bucketized,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    Hash,
    History,
    InBatchSoftmax,
    LazyAdam,
    LeaveLastOut,
    ModelConfig,
    Tags,
    TrainConfig,
)


def get_config() -> ExperimentConfig:
    """The experiment."""
    return ExperimentConfig(
        name="movielens_1m",
        data=DataConfig(
            root="data/movielens-1m",
            events="events.parquet",
            items="items.parquet",
            users="users.parquet",
            item_id="movie_id",
            timestamp="position",
            exclude="position < 0",
            item_name="title",
            split=LeaveLastOut(),
        ),
        item_features=(
            Hash("movie_id", buckets=40_000),
            Tags("genres", buckets=100, separator="|"),
            Bucketized("year", buckets=10),
        ),
        user_features=(
            Hash("gender", buckets=10),
            Hash("occupation", buckets=100),
            Bucketized("age", buckets=10),
            History(of="movie_id", length=50),
        ),
        model=ModelConfig(embedding_dim=64, vector_dim=64, item_hidden=(128,), user_hidden=(128,)),
        loss=InBatchSoftmax(temperature=0.07),
        train=TrainConfig(
            batch_size=1024,
            epochs=8,
            initial_lr=0.001,
            table_optimizer=LazyAdam(initial_lr=0.001),
            lr_decay_rate=0.8,
            patience=2,
        ),
        evaluation=EvaluationConfig(ks=(10, 20, 50, 100), query="event"),
    )
