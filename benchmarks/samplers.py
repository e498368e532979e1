"""Recall@20 overall, on cold and on hot items, and AUC among impressions, of each sampling method and loss.

    python benchmarks/samplers.py [--data=synthetic|movielens-1m] [--only="NAME;NAME"] [--epochs=6] [--list]

`synthetic` writes a log with planted tastes and Zipf popularity, whose item table has items without any event before
the test days; `movielens-1m` reads --root, the output of `twotower dataset movielens-1m`. All settings share data,
towers, batch, epochs and seed. One JSON line per setting: test metrics of the last epoch's model. `auc` is the share of
pairs of a positive and another test row of one user in which the positive has the higher cosine; ties count one half.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import (
    BilateralSoftmax,
    CosineContrastive,
    CosineLogitBCE,
    DataConfig,
    Downsample,
    EvaluationConfig,
    ExperimentConfig,
    Hash,
    History,
    InBatch,
    InBatchSoftmax,
    Labelled,
    LeaveLastOut,
    Mined,
    ModelConfig,
    PairwiseLogistic,
    Popularity,
    Queue,
    Rejections,
    SameAttribute,
    SampledSoftmax,
    SamplingConfig,
    Tags,
    TrainConfig,
    TripletHinge,
    Uniform,
)
from twotower_tf.datasets.synthetic import write_synthetic_log
from twotower_tf.evaluate.evaluate_run import evaluate_run
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import tower_vectors, training_loop
from twotower_tf.train.checkpoints import load_model

SEED = 17
K = 20


def synthetic(root: Path, events: int) -> ExperimentConfig:
    """The log of `twotower synth`: impressions with clicks, planted tastes, Zipf popularity."""
    write_synthetic_log(root, events=events, users=max(200, events // 60), items=3_000, days=20, seed=SEED)
    return ExperimentConfig(
        name="synthetic",
        data=DataConfig(root=str(root), events="events", items="items.csv", users="users.csv", label="click"),
        item_features=(Hash("item_id", buckets=12_000), Hash("category", buckets=200)),
        user_features=(Hash("user_id", buckets=50_000), Hash("country", buckets=100), History(of="item_id", length=30)),
        evaluation=EvaluationConfig(ks=(K,)),
    )


def movielens(root: Path) -> ExperimentConfig:
    """MovieLens 1M with some features and the mean of 50 movies."""
    return ExperimentConfig(
        name="movielens-1m",
        data=DataConfig(
            root=str(root),
            events="events.parquet",
            items="items.parquet",
            users="users.parquet",
            item_id="movie_id",
            timestamp="position",
            exclude="position < 0",
            split=LeaveLastOut(),
        ),
        item_features=(Hash("movie_id", buckets=40_000), Tags("genres", buckets=100, separator="|")),
        user_features=(Hash("gender", buckets=10), Hash("occupation", buckets=100), History(of="movie_id", length=50)),
        evaluation=EvaluationConfig(ks=(K,), query="event"),
    )


def settings(attribute: str, labelled: bool) -> dict[str, tuple[Any, SamplingConfig]]:
    """Every setting by name: loss and samplers."""

    def using(*kinds: Any, **more: Any) -> SamplingConfig:
        return SamplingConfig(kinds, **more)

    softmax, sampled = InBatchSoftmax(temperature=0.1), SampledSoftmax(temperature=0.1)
    same, mined = SameAttribute(columns=(attribute,)), Mined(ranks=(101, 500))
    found = {
        "bce, uniform": (CosineLogitBCE(), using(Uniform(4))),
        "bce, popularity": (CosineLogitBCE(), using(Popularity(4))),
        "bce, uniform + popularity": (CosineLogitBCE(), using(Uniform(2), Popularity(2))),
        "in-batch, uncorrected": (dataclasses.replace(softmax, correct=False), using(InBatch())),
        "in-batch, corrected": (softmax, using(InBatch())),
        "in-batch, corrected, downsampled": (softmax, using(InBatch(), downsample=Downsample(t=1e-3))),
        "in-batch + uniform": (softmax, using(InBatch(), Uniform(1000, shared=True))),
        "in-batch + popularity": (softmax, using(InBatch(), Popularity(1000, shared=True))),
        "in-batch + queue": (softmax, using(InBatch(), Queue(size=4096))),
        "in-batch + mined": (softmax, using(InBatch(), dataclasses.replace(mined, per_positive=4))),
        "sampled, uniform": (sampled, using(Uniform(1000, shared=True))),
        "sampled, popularity": (sampled, using(Popularity(1000, shared=True))),
        "bilateral": (BilateralSoftmax(), using(Uniform(1000, shared=True))),
        "contrastive": (CosineContrastive(), using(Uniform(1000, shared=True))),
        "pairwise": (PairwiseLogistic(), using(Uniform(4))),
        "triplet": (TripletHinge(), using(Uniform(4))),
        "pairwise, mined": (PairwiseLogistic(), using(Uniform(2), dataclasses.replace(mined, per_positive=2))),
    }
    for hard in (0, 1, 2, 4, 7):  # of eight
        kinds = [Uniform(8 - hard), *([dataclasses.replace(same, per_positive=hard)] if hard else [])]
        found[f"hard {hard}/8"] = (sampled, using(*kinds))
    if labelled:
        found["bce, labelled"] = (CosineLogitBCE(), using(Labelled()))
        found["bce, labelled + uniform"] = (CosineLogitBCE(), using(Labelled(), Uniform(4)))
        found["sampled, uniform + rejections"] = (sampled, using(Uniform(1000, shared=True), Rejections(2)))
        for draws, weight in ((1, 1), (4, 1), (4, 8), (1, 32), (4, 32), (1, 128)):
            rejections = Rejections(draws, weight=float(weight))
            found[f"in-batch + {draws} rejections, weight {weight}"] = (softmax, using(InBatch(), rejections))
    return found


def measure(base: ExperimentConfig, run_dir: Path, loss: Any, sampling: SamplingConfig) -> dict[str, Any]:
    """Trains a new model and ranks the test part."""
    config = dataclasses.replace(base, loss=loss, sampling=sampling)
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    begin = time.perf_counter()
    trained = training_loop.train(config, run_dir)
    seconds = time.perf_counter() - begin
    report = evaluate_run(config, run_dir, "test")
    parts = report["slices"]["item_popularity"]
    recalls = {name: part["metrics"][f"recall@{K}"] if part["metrics"] else None for name, part in parts.items()}
    return {
        f"recall@{K}": report["metrics"][f"recall@{K}"],
        "auc": auc_among_impressions(config, run_dir),
        **{f"recall@{K}_{name}": value for name, value in recalls.items()},
        "popularity": report["baselines"]["popularity"][f"recall@{K}"],
        "seconds": round(seconds, 1),
        "step_ms": round(trained["step_ms"], 2),
        "input_bound_fraction": round(trained["input_bound_fraction"], 3),
    }


def auc_among_impressions(config: ExperimentConfig, run_dir: Path) -> float | None:
    """Returns the share of (positive, other) pairs of one user's test rows that are in order; None without any pair."""
    encoded = EncodedData(config, Prepared.open(run_dir))
    keys, model = encoded.keys("test"), load_model(config, run_dir)
    users = tower_vectors.user_vectors(model, encoded, "test", np.arange(len(keys["label"])))
    scores = np.einsum("nd,nd->n", users, tower_vectors.item_vectors(model, encoded)[keys["item_row"]])
    right, pairs = 0.0, 0
    order = np.argsort(keys["user_row"], kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(keys["user_row"][order])) + 1):
        positive = keys["label"][rows] == 1
        above = np.sign(scores[rows[positive]][:, np.newaxis] - scores[rows[~positive]])
        right, pairs = right + (0.5 * (above + 1.0)).sum(), pairs + above.size
    return round(float(right) / pairs, 6) if pairs else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("synthetic", "movielens-1m"), default="synthetic")
    parser.add_argument("--root", type=Path, default=Path("data/movielens-1m"))
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", default="", help="names of settings; all by default")
    parser.add_argument("--list", action="store_true", help="prints the names")
    options = parser.parse_args()
    known = settings("category" if options.data == "synthetic" else "genres", options.data == "synthetic")
    if options.list:
        print("\n".join(known))
        return
    if options.threads:
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        root, run_dir = Path(scratch) / "data", Path(scratch) / "run"
        base = synthetic(root, options.events) if options.data == "synthetic" else movielens(options.root)
        base = dataclasses.replace(
            base,
            seed=SEED,
            model=ModelConfig(embedding_dim=32, vector_dim=32, item_hidden=(64,), user_hidden=(64,)),
            train=TrainConfig(
                batch_size=options.batch_size,
                epochs=options.epochs,
                initial_lr=0.002,
                lr_decay_rate=0.8,
                monitor="",
            ),
        )
        prepare_log(base, run_dir)
        encode(base, Prepared.open(run_dir))
        for name in options.only.split(";") if options.only else known:
            print(json.dumps({"benchmark": "samplers", "setting": f"{options.data}, {name}", "unit": f"recall@{K}",
                              **measure(base, run_dir, *known[name])}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
