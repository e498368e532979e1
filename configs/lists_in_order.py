"""Short sequences of ids: lists `user item item ...`, or pairs, in the order of time; leave-last-out.

twotower dataset lists-in-order --source=FILE --output=data/lists-in-order
twotower run --config=configs/lists_in_order.py --run_dir=runs/lists_in_order --export_dir=export/lists_in_order

FILE is as published for Amazon Beauty and the like: one user a line with the items in order, or one pair a line. Each
user's last item is test, the one before it validation. A user is the last 50 items, seen by a transformer that is
trained on whole sequences (SASRec's tower with eSASRec's gated blocks); items have their ids alone.

The settings are those of `movielens_1m` with more dropout, as short lists say little of a user. They are a start, not
tuned on any published lists: `twotower tune` with the space below.
"""

from twotower_tf.config import (
    Choice,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    FloatRange,
    Hash,
    History,
    LazyAdam,
    LeaveLastOut,
    LogUniform,
    SampledSoftmax,
    SamplingConfig,
    SelfAttention,
    TrainConfig,
    TuneConfig,
    Uniform,
)


def get_config() -> ExperimentConfig:
    """The experiment."""
    return ExperimentConfig(
        name="lists_in_order",
        data=DataConfig(
            root="data/lists-in-order", events="events.parquet", timestamp="position", split=LeaveLastOut()
        ),
        item_features=(Hash("item_id", buckets=500_000),),
        user_features=(
            History(of="item_id", length=50, encoder=SelfAttention(block="ligr", blocks=2, hidden=128, dropout=0.2)),
        ),
        loss=SampledSoftmax(temperature=0.1, learn_temperature=True, correct=False),
        sampling=SamplingConfig((Uniform(per_positive=1024, shared=True),)),
        train=TrainConfig(
            batch_size=128,
            epochs=40,
            initial_lr=0.002,
            table_optimizer=LazyAdam(initial_lr=0.002),
            lr_decay_rate=0.95,
            warmup_steps=100,
            monitor="ndcg@10",
            patience=4,
        ),
        evaluation=EvaluationConfig(ks=(10, 20, 50), query="event"),
        tune=TuneConfig(
            space={
                "loss.temperature": LogUniform(0.05, 0.3),
                "train.table_optimizer.initial_lr": LogUniform(0.0005, 0.01),
                "user_features.0.encoder.dropout": FloatRange(0.1, 0.5),
                "user_features.0.encoder.blocks": Choice((1, 2)),
            }
        ),
    )
