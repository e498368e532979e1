"""Three nights: each day is prepared on top of the one before it, and in the end all is as if prepared at once."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.export.trained import experiment
from tests.prepare.test_incremental import seen_by
from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import (
    EvaluationConfig,
    ExperimentConfig,
    InBatch,
    Popularity,
    SamplingConfig,
    TimeSplit,
    TrainConfig,
)
from twotower_tf.datasets.synthetic import write_synthetic_log
from twotower_tf.evaluate import protocol
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.sampling.samplers import Samplers
from twotower_tf.score import users_from_events

AT = 1_736_500_000  # when users are scored


@dataclass(frozen=True)
class Nights:
    """A log of three days as it grew, and the runs over it.

    Attributes:
        log: every day's rows as they are in the files.
        runs: of days 1, 2 and 3, each `--since` the one before it.
        once: a run over all three days, which holds out of the third what the third night holds out.
        config: of the nights.
        export_dir: the nights' export root.
    """

    log: list[list[dict[str, str]]]
    runs: list[Path]
    once: Path
    config: ExperimentConfig
    export_dir: Path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def begin(config: ExperimentConfig, run_dir: Path, since: Path | None = None) -> None:
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    prepare_log(config, run_dir, threads=1, since=since)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    root = tmp_path_factory.mktemp("nights")
    write_synthetic_log(root / "all", events=3000, users=500, items=90, days=3, seed=5)
    config = dataclasses.replace(
        experiment(root / "data"),
        sampling=SamplingConfig(
            (
                InBatch(),
                Popularity(per_positive=40, alpha=1.0, floor=0.0, shared=True),
            )
        ),
        train=TrainConfig(batch_size=64, epochs=1, monitor=""),
    )
    people = (root / "all/users.csv").read_text().splitlines(keepends=True)
    log, runs = [], []
    (root / "data/events").mkdir(parents=True)
    shutil.copy(root / "all/items.csv", root / "data")
    for night, day in enumerate(sorted((root / "all/events").iterdir())):
        shutil.copytree(day, root / "data/events" / day.name)
        log.append([row for path in sorted(day.iterdir()) for row in rows_of(path)])
        # The users table has new users alone: of the others what was known is kept.
        before = {row["user_id"] for day in log[:-1] for row in day}
        table = [line for line in people[1:] if line.partition(",")[0] not in before]
        (root / "data/users.csv").write_text("".join([people[0], *table]))
        runs.append(root / f"run{night + 1}")
        begin(config, runs[-1], since=runs[-2] if night else None)
    last, rows = Prepared.open(runs[-1]), sum(map(len, log))
    split = TimeSplit(*(last.num_rows(split) / rows for split in ("valid", "test")))
    data = dataclasses.replace(config.data, root=str(root / "all"), split=split)
    begin(dataclasses.replace(config, data=data), root / "once")
    return Nights(log, runs, root / "once", config, root / "export" / "nightly")


def both(nights: Nights) -> tuple[Prepared, Prepared]:
    return Prepared.open(nights.runs[-1]), Prepared.open(nights.once)


def users_as_of_now(nights: Nights, run_dir: Path, built: Path) -> dict[str, dict[str, Any]]:
    """Every user as `score --users_from_events --exclude_seen` takes them, items by their ids."""
    prepared = Prepared.open(run_dir)
    names = prepared.item_ids()
    users_from_events.build(built, prepared, nights.config, np.arange(len(names), dtype=np.int32), "1GB", 1)
    users = {row["user_id"]: row for row in pq.read_table(built).to_pylist()}
    for row in users.values():
        row[users_from_events.SEEN] = [names[item] for item in row[users_from_events.SEEN]]
    return users


def test_the_third_night_knows_all_that_one_preparation_knows(nights: Nights, tmp_path: Path) -> None:
    last, once = both(nights)
    for split in ("train", "valid", "test"):  # its own rows, with their histories and values
        rows = seen_by(last, split)
        assert rows and rows == seen_by(once, split)[-len(rows) :]
    counts = [dict(zip(each.item_ids(), each.train_count().tolist(), strict=True)) for each in (last, once)]
    assert counts[0] == counts[1]
    users = [users_as_of_now(nights, run, tmp_path / run.name) for run in (nights.runs[-1], nights.once)]
    assert users[0] == users[1]

    # the log itself says the same of what everybody took, and of whom only earlier days met
    liked = Counter((row["user_id"], row["item_id"]) for day in nights.log for row in day if row["click"] == "1")
    found = Counter((user, item) for user, row in users[0].items() for item in row[users_from_events.SEEN])
    assert found == liked and sum(found.values()) > 300
    gone = {row["user_id"] for day in nights.log[:2] for row in day} - {row["user_id"] for row in nights.log[2]}
    device = {
        row["user_id"]: row["device_type"] for day in nights.log for row in sorted(day, key=lambda e: e["timestamp"])
    }
    country = {row["user_id"]: row["country"] for row in rows_of(Path(nights.config.data.root) / "../all/users.csv")}
    assert len(gone) > 5
    for user, row in users[0].items():
        assert (row["device_type"] or "", row["country"] or "") == (device[user], country[user])


def test_the_third_night_masks_draws_and_asks_as_one_preparation_does(nights: Nights) -> None:
    known, weights, asked = [], [], []
    for prepared in both(nights):
        users, items = prepared.user_ids(), prepared.item_ids()
        keys = prepared.columns("train", prepared.manifest["keys"])
        samplers = Samplers(nights.config, prepared, keys)
        pairs = samplers.positives
        known.append({(users[user], items[item]) for user, item in zip(pairs.owners(), pairs.items, strict=True)})
        (popular,) = (part.sampler for part in samplers.columns.parts)
        shares = popular.shared_probability(np.arange(len(items)))
        weights.append(dict(zip(items, shares.tolist(), strict=True)))
        questions = protocol.build_queries(prepared, EvaluationConfig(), "test")
        asked.append(
            {
                users[user]: tuple(
                    sorted(items[item] for item in lists.block(place, place + 1)[1])
                    for lists in (questions.relevant, questions.seen)
                )
                for place, user in enumerate(questions.user_rows)
            }
        )
    assert known[0] == known[1] and len(known[0]) > 200
    assert weights[0] == pytest.approx(weights[1], rel=1e-12)
    assert asked[0] == asked[1] and len(asked[0]) > 10


@pytest.mark.quality
def test_each_night_is_trained_exported_and_scored(nights: Nights, tmp_path: Path) -> None:
    from twotower_tf.export.export_bundle import export
    from twotower_tf.features.encode_rows import encode
    from twotower_tf.score.score_options import Options
    from twotower_tf.score.score_plan import Planner
    from twotower_tf.score.scorer import Scorer
    from twotower_tf.train import training_loop

    def scored(run_dir: Path, output: Path) -> dict[str, tuple[list[str], list[float]]]:
        """What the newest version answers to every user of a run's log."""
        planner = Planner(
            Options(nights.export_dir, output, users_from_events=str(run_dir), exclude_seen=True, k=10, at=AT)
        )
        with planner.journal.lock():
            job, units = planner.make_plan()
            scorer, bad = Scorer(job, planner.bundle), []
            tables = []
            for unit in units:
                with job.open(job.sources[unit.file], unit, 4096) as rows:
                    tables += list(scorer.tables(rows, scorer.stats(), bad))
            assert bad == []
        rows = pa.concat_tables(tables).to_pylist()
        return {row["user_id"]: (row["item_ids"], row["scores"]) for row in rows}

    liked: dict[str, set[str]] = {}
    for night, run_dir in enumerate(nights.runs):
        encode(nights.config, Prepared.open(run_dir))
        training_loop.train(nights.config, run_dir, warm_start=nights.runs[night - 1] if night else None)
        export(nights.config, run_dir, nights.export_dir, version=night + 1)
        for row in nights.log[night]:
            liked.setdefault(row["user_id"], set())
            if row["click"] == "1":
                liked[row["user_id"]].add(row["item_id"])
        answers = scored(run_dir, tmp_path / f"answers{night}")
        assert set(answers) == set(liked)
        for user, (items, _) in answers.items():
            assert len(items) == 10 and not liked[user] & set(items)
    at_once = scored(nights.once, tmp_path / "once")
    assert set(at_once) == set(answers)
    for user, (items, scores) in answers.items():  # to the rounding of users' places in a batch
        others = dict(zip(*at_once[user], strict=True))
        np.testing.assert_allclose(scores, list(others.values()), atol=1e-6)
        assert all(abs(others.get(item, scores[-1]) - score) < 1e-6 for item, score in zip(items, scores, strict=True))
