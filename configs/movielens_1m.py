"""MovieLens 1M, leave-last-out: each user's last rated movie is test, the one before it validation.

twotower dataset movielens-1m --output=data/movielens-1m
twotower run --config=configs/movielens_1m.py --run_dir=runs/movielens_1m --export_dir=export/movielens_1m

On two shared cores `train` took 26 min next to other jobs (2026-11-28); test recall@10 .306, ndcg@10 .181
(95 %: .295 to .318, .173 to .188); popularity has .037, .018; item-KNN .070, .036. With `--final` it is .312 and .181.

Every rating is a positive, whatever its stars: the task is what a user watches next. With the publisher's
`ratings.dat` the order comes from its times; with a `ratings.csv` that has places instead of times, from these.

The model is eSASRec's (SASRec with gated blocks) on ids alone, as two towers, with a softmax over all movies: a user is
the last 200 of them. docs/benchmarks.md has what was tried, on validation data.
"""

from twotower_tf.config import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    FullSoftmax,
    Hash,
    History,
    LazyAdam,
    LeaveLastOut,
    ModelConfig,
    SelfAttention,
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
            item_id="movie_id",
            timestamp="position",
            exclude="position < 0",
            item_name="title",
            split=LeaveLastOut(),
        ),
        item_features=(Hash("movie_id", buckets=200_000),),
        user_features=(
            History(of="movie_id", length=200, encoder=SelfAttention(block="ligr", blocks=2, hidden=128, dropout=0.1)),
        ),
        model=ModelConfig(embedding_dim=64, vector_dim=64, item_hidden=(), user_hidden=(), initial_scale=0.1),
        loss=FullSoftmax(temperature=0.1, learn_temperature=True),
        train=TrainConfig(
            batch_size=32,
            epochs=30,
            initial_lr=0.002,
            table_optimizer=LazyAdam(initial_lr=0.002),
            lr_decay_rate=0.94,
            warmup_steps=100,
            monitor="ndcg@10",
            patience=0,
            evaluate_every=2,
            precision="mixed_bfloat16",
        ),
        evaluation=EvaluationConfig(ks=(10, 20, 50, 100), query="event"),
    )
