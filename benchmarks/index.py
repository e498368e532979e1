"""Queries per second of the tuned ScaNN index at a recall, compared with hnswlib and Faiss IVF-PQ fast scan.

    python benchmarks/index.py [--items=1000000] [--dim=64] [--k=100] [--recall=0.95] [--queries=2000] [--runs=5]

All engines index the same vectors in one process, with the same number of threads. Each is tuned, on the same sample
queries, to its fastest setting that reaches the recall. Speed and recall are then measured with other queries, all
given at once; the engines take turns, medians over the runs. twotower_tf runs `Searcher.search`, which checks queries
and answers.

The vectors are made to look like those of trained towers, not like noise: a thousand topics of unequal size and
spread, whose coordinates have a falling spectrum (about 14 of 64 dimensions carry the variance); queries are drawn as
items are. Needs `pip install twotower-tf[bench]`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from comparison import print_comparison

from twotower_tf.config import IndexConfig
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.index.scann import scann_build
from twotower_tf.index.scann.scann_searcher import ScannSearcher
from twotower_tf.index.scann.tuning import compute_recall

Search = Callable[[np.ndarray], np.ndarray]  # queries to scores [queries, k]
TOPICS = 1_000


def vectors_like_trained(count: int, dim: int, seed: int) -> np.ndarray:
    """[count, dim] float32, unit length, from one world of topics; `seed` chooses which of its items."""
    world, rng = np.random.default_rng(0), np.random.default_rng(seed)
    spectrum = (1 + np.arange(dim)) ** -0.5
    centres = world.normal(size=(TOPICS, dim)) * spectrum
    share = 1 / (np.arange(TOPICS) + 10.0)
    spread = world.uniform(0.4, 1.0, TOPICS)
    made = np.empty((count, dim), np.float32)
    for start in range(0, count, 100_000):
        topic = rng.choice(TOPICS, min(100_000, count - start), p=share / share.sum())
        part = centres[topic] + spread[topic, None] * rng.normal(size=(len(topic), dim)) * spectrum
        made[start : start + len(topic)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return made


@dataclass
class Engine:
    """One engine, built and tuned.

    Attributes:
        search: with the setting chosen.
        build: seconds of building, without tuning.
        tuning: seconds of tuning.
        setting: text that describes the setting.
    """

    search: Search
    build: float
    tuning: float
    setting: str
    rates: list[float] = field(default_factory=list)


@dataclass
class Task:
    """Input of every engine: vectors, sample queries and their exact scores, k, the recall to reach, threads."""

    vectors: np.ndarray
    sample: np.ndarray
    truth: np.ndarray
    k: int
    target: float
    threads: int


def fastest(task: Task, settings: Iterator[tuple[str, Search]], build: float) -> Engine | None:
    """Tries every setting on the sample; returns the fastest of those that reach the recall."""
    begin = time.perf_counter()
    tried: list[tuple[float, str, Search]] = []
    for name, search in settings:
        search(task.sample[:64])  # what the first call of a setting does is not its speed
        started = time.perf_counter()
        found = compute_recall(search(task.sample), task.truth)
        seconds = time.perf_counter() - started
        if found.mean() - found.std() / np.sqrt(len(found)) >= task.target:
            tried.append((seconds, name, search))
    if not tried:
        return None
    _, name, search = min(tried, key=lambda each: each[0])
    return Engine(search, build, time.perf_counter() - begin, name)


def twotower(task: Task) -> Engine:
    """Builds and tunes the index as `twotower export` does."""
    timed: list[float] = []
    build = scann_build.build

    def clocked(*arguments: Any) -> Any:
        started = time.perf_counter()
        made = build(*arguments)
        timed.append(time.perf_counter() - started)
        return made

    scann_build.build = clocked
    try:
        items = ItemVectors([f"i{row}" for row in range(len(task.vectors))], task.vectors)
        begin = time.perf_counter()
        searcher = ScannSearcher.build(
            items, IndexConfig(kind="scann", k=task.k, target_recall=task.target), task.sample, task.threads
        )
        seconds = time.perf_counter() - begin
    finally:
        scann_build.build = build
    p = searcher.parameters
    setting = (
        f"{p.leaves_to_search} of {p.leaves} leaves, {p.reorder} re-scored, {p.dimensions_per_block} dimensions a "
        f"block, threshold {p.anisotropic_threshold}"
    )
    return Engine(lambda queries: searcher.search(queries, task.k).scores, timed[-1], seconds - timed[-1], setting)


def hnsw(task: Task) -> Engine | None:
    """Builds hnswlib's index with the parameters that its authors recommend."""
    import hnswlib

    started = time.perf_counter()
    index = hnswlib.Index("ip", task.vectors.shape[1])
    index.init_index(len(task.vectors), M=16, ef_construction=200)
    index.set_num_threads(task.threads)
    index.add_items(task.vectors)
    build = time.perf_counter() - started

    def settings() -> Iterator[tuple[str, Search]]:
        for ef in (100, 110, 120, 135, 150, 175, 200, 250, 300, 400, 600, 800):

            def search(queries: np.ndarray, ef: int = ef) -> np.ndarray:
                index.set_ef(max(ef, task.k))
                return np.float32(1) - index.knn_query(queries, task.k)[1]

            yield f"M 16, efConstruction 200, ef {ef}", search

    return fastest(task, settings(), build)


def faiss(task: Task) -> Engine | None:
    """IVF-PQ fast scan with exact re-scoring: codes of one and of two dimensions; the better of those that reach it."""
    import faiss

    faiss.omp_set_num_threads(task.threads)
    size, dim = task.vectors.shape
    lists = int(2 ** np.round(np.log2(2 * np.sqrt(size))))
    engines = []
    for codes in (dim, dim // 2):
        started = time.perf_counter()
        index = faiss.index_factory(dim, f"IVF{lists},PQ{codes}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
        index.train(task.vectors[: max(64 * lists, 100_000)])
        index.add(task.vectors)
        build = time.perf_counter() - started
        inner = faiss.extract_index_ivf(index)

        def settings(index: Any = index, inner: Any = inner, codes: int = codes) -> Iterator[tuple[str, Search]]:
            for factor in (1.5, 2, 2.5, 3, 4, 6, 8, 12):
                for probes in (4, 6, 8, 11, 16, 23, 32, 64, 128):

                    def search(queries: np.ndarray, factor: float = factor, probes: int = probes) -> np.ndarray:
                        index.k_factor, inner.nprobe = factor, probes
                        return index.search(queries, task.k)[0]

                    yield f"{lists} lists, {codes} codes, {probes} probed, {factor} times k re-scored", search

        engines.append(fastest(task, settings(), build))
    return max(filter(None, engines), key=lambda engine: rate(engine, task.sample), default=None)


def rate(engine: Engine, queries: np.ndarray) -> float:
    started = time.perf_counter()
    engine.search(queries)
    return len(queries) / (time.perf_counter() - started)


def report(what: str, mine: float, peer: float, ratio: float, unit: str, setting: str) -> None:
    print_comparison("index", mine, peer, unit, f"{what}: {setting}", ratio=ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    vectors = vectors_like_trained(options.items, options.dim, seed=1)
    exact = ExactSearcher(ItemVectors.trusted(np.empty(len(vectors), object), vectors), threads)
    sample, queries = (
        vectors_like_trained(count, options.dim, seed) for count, seed in ((1000, 2), (options.queries, 3))
    )
    truth = exact.search(queries, options.k).scores
    task = Task(vectors, sample, exact.search(sample, options.k).scores, options.k, options.recall, threads)
    engines: dict[str, Engine] = {}
    for name, make in {"twotower_tf": twotower, "hnswlib": hnsw, "Faiss IVF-PQ fast scan": faiss}.items():
        made = make(task)
        if made is None:
            raise SystemExit(f"{name} reaches recall@{options.k} {options.recall} with none of its settings")
        engines[name] = made
        print(f"{name}: built in {made.build:.0f} s, tuned in {made.tuning:.0f} s: {made.setting}", file=sys.stderr)
    for _ in range(options.runs):
        for engine in engines.values():
            engine.rates.append(rate(engine, queries))
    recalls = {name: float(compute_recall(engine.search(queries), truth).mean()) for name, engine in engines.items()}
    mine = engines.pop("twotower_tf")
    where = f"{options.items} vectors of {options.dim} dimensions, {threads} threads, recall@{options.k}"
    for name, peer in engines.items():
        reached = f"{recalls['twotower_tf']:.4f} ({mine.setting}) and {recalls[name]:.4f} ({name}, {peer.setting})"
        rates = [round(float(np.median(engine.rates))) for engine in (mine, peer)]
        ratio = float(np.median(np.divide(mine.rates, peer.rates)))
        report("search", *rates, ratio, "queries/s", f"{where} {reached}")
        report("build", round(mine.build, 1), round(peer.build, 1), peer.build / mine.build, "s", f"{where}, {name}")
    tuning = round(mine.tuning, 1)
    report("tuning", tuning, 180.0, 180 / mine.tuning, "s", f"{where}, peer: the three minutes that it may take")


if __name__ == "__main__":
    main()
