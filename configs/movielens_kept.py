"""MovieLens 100K with training movies kept in the ranking: TensorFlow Recommenders' tutorial, random 80/20, top 100.

twotower dataset movielens-100k --output=data/movielens-100k
twotower run --config=configs/movielens_kept.py --run_dir=runs/movielens_kept --export_dir=export/movielens_kept

With `--final` added, `run` took 273 s on two shared cores, 80 s of processor time (2026-11-27);
test recall@100 .380; popularity has .299. Validation recall@100 was .376, at epoch 2 of 4, and falls after that.
"""

from twotower_tf.config import (
    Bucketized,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    Hash,
    History,
    ModelConfig,
    RandomSplit,
    SampledSoftmax,
    SamplingConfig,
    Tags,
    TrainConfig,
    Uniform,
)


def get_config() -> ExperimentConfig:
    """The experiment."""
    return ExperimentConfig(
        name="movielens_kept",
        data=DataConfig(
            root="data/movielens-100k",
            events="events.parquet",
            items="items.parquet",
            users="users.parquet",
            item_id="movie_id",
            timestamp="",
            item_name="title",
            split=RandomSplit(valid_fraction=0.1, test_fraction=0.2),
        ),
        item_features=(
            Hash("movie_id", buckets=20_000),
            # Read by the history: a movie once rated is not rated again, so the projection of `past` turns against it.
            Hash("movie_id", buckets=20_000, name="past", embedding_dim=128),
            Tags("genres", buckets=100, separator="|"),
            Bucketized("year", buckets=10),
        ),
        user_features=(
            Hash("user_id", buckets=10_000),
            Hash("gender", buckets=10),
            Hash("occupation", buckets=100),
            Bucketized("age", buckets=10),
            History(of="past", length=800),
        ),
        model=ModelConfig(embedding_dim=64, vector_dim=128, item_hidden=(), user_hidden=()),
        loss=SampledSoftmax(temperature=0.1, correct=False),
        # What else the user rated is a negative of each row.
        sampling=SamplingConfig((Uniform(per_positive=1682, shared=True),), masked="row"),
        train=TrainConfig(batch_size=1024, epochs=4, initial_lr=0.002, lr_decay_rate=0.9, monitor="recall@100"),
        evaluation=EvaluationConfig(ks=(10, 20, 50, 100), query="event", exclude_seen=False),
    )
