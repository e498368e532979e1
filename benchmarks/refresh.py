"""Seconds of a refresh that changes a share of the catalogue, compared with an export of the whole catalogue.

    python benchmarks/refresh.py [--items=1000000] [--share=0.01] [--dim=64] [--runs=3]

Both publish a version with towers, index, TSV, manifest and checks, in one process, from the same trained run. Half of
the share are changed items, half are new items; a tenth as many items are deleted. The export runs once; the figure of
the refreshes is their median.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from comparison import print_comparison

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.config import ExperimentConfig
from twotower_tf.datasets.synthetic import write_synthetic_log
from twotower_tf.export.export_bundle import export
from twotower_tf.export.refresh_bundle import refresh
from twotower_tf.features.encode_rows import encode
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import training_loop

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.py"


def trained(root: Path, items: int, dim: int) -> tuple[ExperimentConfig, Path]:
    """Trains a run with a large catalogue for one epoch of a small log."""
    write_synthetic_log(root / "log", events=200_000, users=5_000, items=items)
    config = configuration.load(CONFIG, [f"model.vector_dim={dim}", "train.epochs=1", "train.monitor="])
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(root / "log")))
    artifacts.write_text(RunPaths(root / "run").config, configuration.to_json(config))
    prepare_log(config, root / "run")
    encode(config, Prepared.open(root / "run"))
    training_loop.train(config, root / "run")
    return config, root / "run"


def write_changes(root: Path, known: pa.Table, share: float, run: int) -> tuple[Path, Path]:
    """Writes a table of changed and new items, and a file of ids to delete."""
    generator = np.random.default_rng(run)
    count = max(2, int(share * len(known)))
    rows = generator.permutation(len(known))[: count + count // 10]
    table = known.drop_columns(
        [name for name in ("item_name", "train_count", "last_event") if name in known.column_names]
    )
    listed = table.take(pa.array(rows[:count]))
    ids = [
        *listed["item_id"].to_pylist()[: count // 2],
        *(f"new-{run}-{number}" for number in range(count - count // 2)),
    ]
    listed = listed.set_column(listed.column_names.index("item_id"), "item_id", pa.array(ids))
    listed = listed.set_column(listed.column_names.index("price"), "price", pa.array(generator.uniform(1, 99, count)))
    pq.write_table(listed, root / "items.parquet")
    gone = table["item_id"].take(pa.array(rows[count:])).to_pylist()
    (root / "gone.txt").write_text("".join(f"{item}\n" for item in gone))
    return root / "items.parquet", root / "gone.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        config, run_dir = trained(root, options.items, options.dim)
        begin = time.perf_counter()
        export(config, run_dir, root / "export")
        rebuild = time.perf_counter() - begin
        times = []
        for run in range(options.runs):
            items, gone = write_changes(root, Bundle.open(root / "export").items, options.share, run)
            begin = time.perf_counter()
            done = refresh(root / "export", items, delete=gone, keep=2)
            times.append(time.perf_counter() - begin)
            if done.index == "rebuilt":
                raise SystemExit("the index was built and tuned again, as an export does; nothing is compared")
        manifest = Bundle.open(root / "export").manifest
    index = manifest["index"]
    setting = (
        f"{options.items} items, {options.dim} dimensions, {options.share:.2%} changed; index {index['kind']}, recall "
        f"{index['recall']['measured']:.4f}; refreshes {', '.join(f'{each:.1f}' for each in times)} s"
    )
    median = statistics.median(times)
    unit = "seconds; the ratio is that of export to refresh"
    print_comparison("refresh", round(median, 2), round(rebuild, 2), unit, setting, ratio=rebuild / median)


if __name__ == "__main__":
    main()
