"""A small log of users' sequences, and a configuration that trains on them."""

import csv

import numpy as np

from twotower_tf.config import (
    GRU,
    DataConfig,
    ExperimentConfig,
    GivenSplit,
    Hash,
    History,
    ModelConfig,
    SampledSoftmax,
    SamplingConfig,
    TrainConfig,
    Uniform,
    Weekday,
)

USERS, ITEMS, LENGTH, DAY = 24, 30, 6, 86_400
SHARED = SamplingConfig((Uniform(per_positive=8, shared=True),), recency_half_life=3.0)


def write_log(path, seed=4, longest=20):
    """User u has between one and 20 events; times repeat; a fifth of the rows has label 0; the last is held out."""
    rng = np.random.default_rng(seed)
    log = []
    for user in range(USERS):
        count = 1 + user * (longest - 1) // (USERS - 1)
        times = np.sort(rng.integers(0, 12, count)) * DAY + 5 * DAY
        for place, time in enumerate(times):
            split = "test" if place and place == count - 1 else "train"
            label = int(split == "test" or place == 0 or rng.random() < 0.8)
            item, mood = rng.integers(ITEMS), rng.integers(9)
            log.append(
                {
                    "user": f"u{user}",
                    "item": f"i{item}",
                    "mood": f"m{mood}",
                    "time": time,
                    "click": label,
                    "split": split,
                }
            )
    with (path / "events.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(log[0]))
        writer.writeheader()
        writer.writerows(log)
    with (path / "items.csv").open("w") as file:  # every third item has no shelf
        file.write("item,shelf\n" + "".join(f"i{i},{f's{i % 4}' if i % 3 else ''}\n" for i in range(ITEMS)))
    return log


def experiment(root, encoder="self_attention", **changes):
    fields = {
        "loss": SampledSoftmax(temperature=0.2, correct=False),
        "sampling": SHARED,
        "train": TrainConfig(batch_size=4, monitor=""),
    }
    return ExperimentConfig(
        name="t",
        data=DataConfig(
            root=str(root),
            events="events.csv",
            items="items.csv",
            user_id="user",
            item_id="item",
            timestamp="time",
            label="click",
            split=GivenSplit("split"),
        ),  # fmt: skip
        item_features=(Hash("item", buckets=50_000), Hash("shelf", buckets=1000)),  # a bucket for each value
        user_features=(
            Hash("mood", buckets=100),
            Weekday("time"),
            History(of="item", length=LENGTH, encoder=encoder),
            History(of="shelf", length=LENGTH, encoder=GRU(), name="shelves"),
            History(of="item", length=3, encoder="mean", name="recent"),
        ),
        model=ModelConfig(embedding_dim=8, vector_dim=12, item_hidden=(), user_hidden=(16,)),
        **(fields | changes),
    )
