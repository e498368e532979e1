"""What is drawn where a day was prepared on top of earlier ones: all that users took before counts, none is a negative.

The oracle is the log itself, day by day, by names.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.prepare.test_incremental import day_of, experiment
from tests.prepare.test_preparation import write_csv
from twotower_tf.config import (
    ExperimentConfig,
    InBatch,
    InBatchSoftmax,
    Mined,
    PairwiseLogistic,
    Popularity,
    Queue,
    Rejections,
    SameAttribute,
    SamplingConfig,
    TimeSplit,
    TrainConfig,
    Uniform,
)
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.sampling import accidental_hits
from twotower_tf.sampling.row_sampler import PositivesBatch
from twotower_tf.sampling.samplers import Samplers

DAYS = (1, 2, 3)
KINDS = (
    InBatch(),
    Queue(size=40),
    Popularity(per_positive=9, alpha=1.0, floor=0.0, shared=True),
    Uniform(per_positive=3),
    SameAttribute(columns=("site",), per_positive=2),
    Mined(ranks=(1, 6), per_positive=2),
    Rejections(per_positive=1),
)


def few_each(day: int) -> list[dict[str, Any]]:
    """A day on which nobody takes much, and the users of the first day do not all come back."""
    return [row for row in day_of(2, day, rows=60) if day == 1 or row["user"] != "u3"]


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, list[dict[str, Any]]]]:
    """Three runs, each of one day and `--since` the one before it, a fifth of each day held out."""
    root = tmp_path_factory.mktemp("chained")
    log = {day: few_each(day) for day in DAYS}
    for day, rows in log.items():
        write_csv(root / f"events/dt=2024010{day}/part.csv", rows)
        prepare_log(config(root), root / f"run{day}", since=root / f"run{day - 1}" if day > 1 else None)
    return root, log


def config(root: Path) -> ExperimentConfig:
    return dataclasses.replace(
        experiment(root, split=TimeSplit(valid_fraction=0.1, test_fraction=0.1)),
        sampling=SamplingConfig(KINDS),
        loss=InBatchSoftmax(),
        train=TrainConfig(batch_size=8),
    )


def opened(root: Path, day: int = DAYS[-1]) -> tuple[Samplers, Prepared, dict[str, np.ndarray]]:
    prepared = Prepared.open(root / f"run{day}")
    keys = prepared.columns("train", prepared.manifest["keys"])
    return Samplers(config(root), prepared, keys), prepared, keys


def taken(log: dict[int, list[dict[str, Any]]], prepared: Prepared) -> list[tuple[str, str]]:
    """(user, item) of every positive of the days before the last, held out or not, and of the last day's training."""
    users, items = prepared.user_ids(), prepared.item_ids()
    columns = prepared.columns("train", ["user_row", "item_row", "label"])
    today = [
        (users[user], items[item])
        for user, item, label in zip(*(columns[name] for name in ("user_row", "item_row", "label")), strict=True)
        if label
    ]
    before = [(row["user"], row["item"]) for day in DAYS[:-1] for row in log[day] if row["label"]]
    return before + today


def test_the_positives_of_all_runs_are_known(chained: tuple[Path, dict[int, list[dict[str, Any]]]]) -> None:
    root, log = chained
    samplers, prepared, _ = opened(root)
    users, items = prepared.user_ids(), prepared.item_ids()
    known = {
        (users[user], items[item])
        for user, item in zip(samplers.positives.owners(), samplers.positives.items, strict=True)
    }
    everything = taken(log, prepared)
    assert known == set(everything)
    assert "u3" in {user for user, _ in known} - {row["user"] for row in log[DAYS[-1]]}
    counts = Counter(item for _, item in everything)
    assert dict(zip(items, samplers.counts, strict=True)) == {item: counts[item] for item in items}


def test_nothing_a_user_ever_took_is_drawn(chained: tuple[Path, dict[int, list[dict[str, Any]]]]) -> None:
    root, log = chained
    samplers, prepared, keys = opened(root)
    liked = set(taken(log, prepared))
    names, items = prepared.user_ids(), prepared.item_ids()
    index = np.flatnonzero(keys["label"] == 1)
    rows = PositivesBatch(index, keys["user_row"][index], keys["item_row"][index])
    rng = np.random.default_rng(0)
    present_of: Counter[str] = Counter()
    assert samplers.mined is not None
    for ranked in (False, True):
        if ranked:
            users = np.unique(rows.users)
            vectors = rng.standard_normal((len(users), 4)).astype(np.float32)
            samplers.mined.refresh(users, vectors, rng.standard_normal((len(items), 4)).astype(np.float32))
        for _ in range(50):
            drawn, present = samplers.rows.draw(rng, rows)
            first = 0
            for part in samplers.rows.parts:
                for row, column in zip(*np.nonzero(present[:, first : first + part.draws]), strict=True):
                    assert (names[rows.users[row]], items[drawn[row, first + column]]) not in liked
                    present_of[part.kind] += 1
                first += part.draws
    assert {kind for kind, count in present_of.items() if count > 100} == {
        "Uniform", "SameAttribute", "Mined", "Rejections"
    }  # fmt: skip


def test_what_a_user_took_before_is_masked_among_the_batchs_candidates(
    chained: tuple[Path, dict[int, list[dict[str, Any]]]],
) -> None:
    root, log = chained
    samplers, prepared, keys = opened(root)
    liked, names, items = set(taken(log, prepared)), prepared.user_ids(), prepared.item_ids()
    index = np.flatnonzero(keys["label"] == 1)[:16]
    users, own = keys["user_row"][index], keys["item_row"][index]
    columns = samplers.columns.items(own[:8], samplers.columns.draw(np.random.default_rng(3)), own[8:])
    found = {tuple(pair) for pair in accidental_hits.find_hits(samplers.positives, users[:8], columns).tolist()}
    expected = {
        (row, place)
        for row in range(8)
        for place, item in enumerate(columns)
        if item >= 0 and (names[users[row]], items[item]) in liked
    }
    assert found == expected
    today = set(zip(keys["user_row"][keys["label"] == 1], keys["item_row"][keys["label"] == 1], strict=True))
    assert any((users[row], columns[place]) not in today for row, place in found)  # the past is needed


def test_popularity_goes_by_all_runs_and_a_batchs_own_items_by_what_is_trained_on(
    chained: tuple[Path, dict[int, list[dict[str, Any]]]],
) -> None:
    root, log = chained
    samplers, prepared, keys = opened(root)
    items = prepared.item_ids()
    everything = Counter(item for _, item in taken(log, prepared))
    (popular,) = (part.sampler for part in samplers.columns.parts)
    weights = np.array([everything[item] for item in items], np.float64)
    np.testing.assert_allclose(popular.shared_probability(np.arange(len(items))), weights / weights.sum(), rtol=1e-12)
    own = keys["item_row"][keys["label"] == 1]
    share = np.bincount(own, minlength=len(items)) / len(own)
    # Eight rows of the batch and five slots of the queue are rows trained on; nine draws are by popularity.
    q = (13 * share + 9 * weights / weights.sum()) / 22
    some = np.flatnonzero(q > 0)
    np.testing.assert_allclose(samplers.columns.log_q(some, 8, 5), np.log(q[some]), rtol=1e-5)
    assert np.abs(share - weights / weights.sum()).max() > 0.02  # the two differ here


def test_a_user_who_is_not_trained_on_need_not_be_left_anything(tmp_path: Path) -> None:
    rows = [{"user": "all", "item": f"i{at}", "time": at, "site": "", "price": 1, "label": 1} for at in range(5)]
    rows += [{"user": "b", "item": "i0", "time": 5, "site": "", "price": 1, "label": 1}]
    write_csv(tmp_path / "events/1.csv", rows)
    own = {"loss": PairwiseLogistic(), "sampling": SamplingConfig((Uniform(),))}
    made = dataclasses.replace(experiment(tmp_path, split=TimeSplit(0, 0)), **own)
    prepare_log(made, tmp_path / "one")
    write_csv(tmp_path / "events/2.csv", [{**rows[-1], "item": "i1", "time": 6}])
    prepare_log(made, tmp_path / "two", since=tmp_path / "one")
    prepared = Prepared.open(tmp_path / "two")
    samplers = Samplers(made, prepared, prepared.columns("train", prepared.manifest["keys"]))
    user = prepared.user_ids().tolist().index("b")
    drawn, _ = samplers.rows.draw(
        np.random.default_rng(0), PositivesBatch(np.zeros(1, int), np.array([user]), np.array([1]))
    )
    assert set(prepared.item_ids()[drawn[0]]) <= {"i2", "i3", "i4"}
