"""MovieLens 1M, leave-last-out: each user's last rated movie is test, the one before it validation.

twotower dataset movielens-1m --output=data/movielens-1m
twotower run --config=configs/movielens_1m.py --run_dir=runs/movielens_1m --export_dir=export/movielens_1m

On two shared cores `train` took 36 min next to other jobs, 16 min of processor time (2026-11-27); test recall@10 .252,
ndcg@10 .140 (95 %: .241 to .263, .133 to .147); popularity has .037, .018; item-KNN .070, .036.

Every rating is a positive, whatever its stars: the task is what a user watches next. With the publisher's
`ratings.dat` the order comes from its times; with a `ratings.csv` that has places instead of times, from these.

The model is eSASRec's (SASRec with gated blocks and a sampled softmax) on ids alone, as two towers: a user is the last
200 movies. Nothing was searched: these settings were trained once, and the last epoch was the best on validation.
"""

from twotower_tf.config import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    Hash,
    History,
    LazyAdam,
    LeaveLastOut,
    ModelConfig,
    SampledSoftmax,
    SamplingConfig,
    SelfAttention,
    TrainConfig,
    Uniform,
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
        item_features=(Hash("movie_id", buckets=40_000),),
        user_features=(
            History(of="movie_id", length=200, encoder=SelfAttention(block="ligr", blocks=2, hidden=128, dropout=0.1)),
        ),
        model=ModelConfig(embedding_dim=64, vector_dim=64, item_hidden=(), user_hidden=()),
        loss=SampledSoftmax(temperature=0.05, correct=False),
        sampling=SamplingConfig((Uniform(per_positive=256, shared=True),), masked="row"),
        train=TrainConfig(
            batch_size=64,
            epochs=40,
            initial_lr=0.002,
            table_optimizer=LazyAdam(initial_lr=0.002),
            lr_decay_rate=0.95,
            warmup_steps=100,
            monitor="ndcg@10",
            evaluate_every=2,
            precision="mixed_bfloat16",
        ),
        evaluation=EvaluationConfig(ks=(10, 20, 50, 100), query="event"),
    )
