"""Records the figures of runs of shipped configurations, for docs/quality_table.py."""

import datetime
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

FIGURES = "TWOTOWER_QUALITY_FIGURES"  # environment variable: the file that `make quality` reads
PROTOCOLS = {
    "movielens_100k": "per event, random 70/10/20, seen excluded",
    "movielens_1m": "last rating of each user, seen excluded",
    "movielens_1m_m1": "per user, BARS's split, training and validation part excluded",
    "movielens_kept": "per event, random 80/20, no movie excluded",
    "gowalla": "per user, LightGCN's split, training and validation part excluded",
}
CUT_OFFS = {"movielens_1m": (10, 20), "movielens_kept": (100,)}


def record_run(name: str, run_dir: Path, report: dict[str, Any], seconds: float, *, final: bool) -> None:
    """Appends a line of figures to the file that FIGURES names; does nothing where it names none.

    Args:
        name: of the configuration.
        run_dir: a finished run.
        report: its metrics.json.
        seconds: wall time of the command `run`.
        final: whether the model is that of the final fit.
    """
    target = os.environ.get(FIGURES)
    if not target:
        return
    ks = CUT_OFFS.get(name, (20,))
    names = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in ks]
    line = {
        "configuration": name,
        "protocol": PROTOCOLS[name],
        "final": final,
        "ks": ks,
        "metrics": {metric: report["metrics"][metric] for metric in names},
        "popularity": {metric: report["baselines"]["popularity"][metric] for metric in names},
        "parameters": count_parameters(run_dir / "final" if final else run_dir),
        "seconds": round(seconds, 1),
        "date": f"{datetime.date.today()}",
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[2], 1),
    }
    with Path(target).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def count_parameters(run_dir: Path) -> int:
    """Counts the numbers of a trained model."""
    path = min((run_dir / "checkpoints").glob("*/weights.npz"))
    with np.load(path) as weights:
        return sum(weights[name].size for name in weights.files)
