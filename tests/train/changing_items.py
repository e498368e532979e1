"""A log in which what is known of items grows with time and is independent of what users like.

Users take items of their own tenth of the catalogue in nine of ten cases. Every item is counted: `clicks_so_far` stands
in a daily table of the items, and as `seen_clicks` in the log itself, there with the event's own click.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.config import (
    CosineLogitBCE,
    DataConfig,
    ExperimentConfig,
    Hash,
    ModelConfig,
    Numeric,
    SamplingConfig,
    TimeSplit,
)
from twotower_tf.config import Uniform as UniformNegatives

DAY = 86_400
TENTHS = 10
COLUMNS = {"": (), "table": (Numeric("clicks_so_far"),), "log": (Numeric("seen_clicks"),)}


def write(root: Path, *, users: int, items: int, days: int, clicks: int, seed: int = 0) -> None:
    """Writes `events.parquet`, a click and a row passed over per list, and `items.parquet`, a row per item and day."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, clicks)
    time = np.sort(rng.integers(0, days * DAY, clicks))
    own = rng.integers(0, items // TENTHS, clicks) * TENTHS + user % TENTHS
    item = np.where(rng.random(clicks) < 0.9, own, rng.integers(0, items, clicks))
    passed = rng.integers(0, items, clicks)
    by_day = np.zeros((days, items), np.int64)
    np.add.at(by_day, (time // DAY, item), 1)
    at_start = np.cumsum(by_day, axis=0) - by_day
    counted = np.zeros(items, np.int64)
    seen = np.zeros((clicks, 2), np.int64)
    for place in range(clicks):
        seen[place, 0] = counted[passed[place]]
        counted[item[place]] += 1
        seen[place, 1] = counted[item[place]]
    both = np.stack([passed, item], axis=1).ravel()
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "user": pa.array([f"u{each}" for each in np.repeat(user, 2)]),
                "item": pa.array([f"i{each}" for each in both]),
                "time": np.repeat(time, 2),
                "click": np.tile([0, 1], clicks),
                "list": np.repeat(np.arange(clicks), 2),
                "position": np.tile([0, 1], clicks),
                "seen_clicks": seen.ravel(),
            }
        ),
        root / "events.parquet",
    )
    day, number = (each.ravel() for each in np.indices(at_start.shape))
    pq.write_table(
        pa.table(
            {
                "item": pa.array([f"i{each}" for each in number]),
                "from": day * DAY,
                "shelf": pa.array([f"s{each % TENTHS}" for each in number]),
                "clicks_so_far": at_start.ravel(),
            }
        ),
        root / "items.parquet",
    )


def chances(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The probability that a user's click is on an item: float64 `[users, items]`, of their ids."""
    user, item = (np.array([int(name[1:]) for name in names]) for names in (users, items))
    own = user[:, np.newaxis] % TENTHS == item % TENTHS
    return (0.9 * TENTHS * own + 0.1) / len(items)


def experiment(root: Path, column: str, **fields: Any) -> ExperimentConfig:
    """The features are ids and, where `column` is "table" or "log", the count that it names."""
    data = DataConfig(
        root=str(root), events="events.parquet", items="items.parquet", items_time="from", user_id="user",
        item_id="item", timestamp="time", label="click", list_id="list", position="position",
        split=TimeSplit(valid_fraction=0.1, test_fraction=0.1),
    )  # fmt: skip
    return ExperimentConfig(
        name="changing",
        data=data,
        item_features=(Hash("item", buckets=20_000), *COLUMNS[column]),
        user_features=(Hash("user", buckets=20_000),),
        model=ModelConfig(embedding_dim=16, vector_dim=16, item_hidden=(32,), user_hidden=(32,)),
        **({"sampling": SamplingConfig(negatives=(UniformNegatives(),)), "loss": CosineLogitBCE()} | fields),
    )
