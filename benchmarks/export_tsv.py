"""Rows per second of writing item vectors as text, compared with a plain loop and polars' CSV writer.

    python benchmarks/export_tsv.py [--rows=300000] [--dim=64] [--runs=5]

All write the same vectors to the same disk and take turns; medians over the runs. The loop writes a tenth of them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from comparison import print_comparison

from twotower_tf.bundle import item_tsv
from twotower_tf.index.item_vectors import ItemVectors


def loop(path: Path, ids: list[str], vectors: np.ndarray) -> None:
    """Writes one row after the other."""
    with path.open("w", encoding="utf-8") as file:
        for name, vector in zip(ids, vectors, strict=True):
            file.write(name + "\t" + ",".join(str(value) for value in vector) + "\n")


def polars(path: Path, ids: list[str], vectors: np.ndarray) -> None:
    """Writes a data frame of one column per dimension with polars."""
    import polars as pl

    columns = {f"v{number}": vectors[:, number] for number in range(vectors.shape[1])}
    pl.DataFrame({"item_id": ids, **columns}).write_csv(path, include_header=False)


def seconds(write: Callable[[Path, list[str], np.ndarray], object], path: Path, ids: list[str], v: np.ndarray) -> float:
    begin = time.perf_counter()
    write(path, ids, v)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    vectors = np.random.default_rng(0).normal(size=(options.rows, options.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"item{row}" for row in range(options.rows)]
    items, tenth = ItemVectors(ids, vectors), options.rows // 10
    rates: dict[str, list[float]] = {"twotower_tf": [], "loop": [], "polars": []}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "vectors.tsv"
        for _ in range(options.runs):
            rates["twotower_tf"].append(
                options.rows / seconds(lambda path, *_: item_tsv.write_tsv(path, items), path, ids, vectors)
            )
            rates["loop"].append(tenth / seconds(loop, path, ids[:tenth], vectors[:tenth]))
            rates["polars"].append(options.rows / seconds(polars, path, ids, vectors))
    for peer in ("loop", "polars"):
        figures = [round(float(np.median(rates[name]))) for name in ("twotower_tf", peer)]
        ratio = float(np.median(np.divide(rates["twotower_tf"], rates[peer])))
        setting = f"{options.dim} dimensions, peer {peer}, median of {options.runs} runs"
        print_comparison("export_tsv", *figures, "rows/s", setting, ratio=ratio)


if __name__ == "__main__":
    main()
