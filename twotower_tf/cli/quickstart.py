"""Writes a synthetic ads log, runs every stage on it with a final fit, and prints the results.

Results: metrics of the model and of the baselines, recommendations for three users, and commands to try next. Takes
under two minutes on two cores. A second run skips finished stages.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

if TYPE_CHECKING:
    from twotower_tf.config import ExperimentConfig
    from twotower_tf.stage_results import EvaluateResult

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.py"
SHOWN_USERS, SHOWN_ITEMS, SHOWN_CLICKS = 3, 5, 4
K = 10


def define(flags: Flags) -> None:
    options.add_run_dir(flags, "runs/quickstart")
    options.add_export_dir(flags, "export/quickstart")
    options.add_overwrite(flags)


def run(flags: Flags) -> None:
    """Runs all stages and prints their results."""
    from twotower_tf import config as configuration
    from twotower_tf import progress_bar
    from twotower_tf.cli.result_texts import format_metrics, format_rows, format_training, print_warnings
    from twotower_tf.datasets import synthetic
    from twotower_tf.pipeline import Pipeline

    started = time.monotonic()
    run_dir, export_dir = Path(flags.run_dir), Path(flags.export_dir)
    config = configuration.load(CONFIG)
    log = run_dir / "log"
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(log)))
    with progress_bar.shown() as show:
        pipeline = Pipeline(config, run_dir, export_dir, overwrite=flags.overwrite, progress=show, log=print)
        pipeline.check_export()
        with pipeline.working(create=True):
            pipeline.adopt_config()
            if not (log / "truth.npz").exists():
                synthetic.write_synthetic_log(log, progress=show)
            print(format_rows(pipeline.prepare()))
            print(format_training(pipeline.train()))
            print(format_training(pipeline.final_fit()))
            result = pipeline.evaluate()
            bundle = pipeline.export().open()
    print(f"\n{format_metrics(result)}")
    _print_best_recall(result, config, run_dir, log / "truth.npz")
    users = _print_answers(bundle)
    _print_next_commands(run_dir, export_dir, bundle, users[0])
    print(f"\ntotal: {time.monotonic() - started:.0f} seconds")
    print_warnings(result.warnings)


def _print_best_recall(result: EvaluateResult, config: ExperimentConfig, run_dir: Path, truth: Path) -> None:
    """Prints which share of the reachable recall the model reaches."""
    from twotower_tf.evaluate.planted_truth import best_recall
    from twotower_tf.number_texts import format_percent

    best = best_recall(config, run_dir, truth, K)
    print(f"\nThe true preferences that generated the log reach recall@{K} {best:.4f}: ", end="")
    print(f"the model reaches {format_percent(result.metrics[f'recall@{K}'] / best)} of that.\n")


def _print_answers(bundle: Any) -> list[dict[str, Any]]:
    """Prints recommendations for some users of the log; returns these users' features."""
    from twotower_tf.cli.recommend import format_answer
    from twotower_tf.retrieval.item_names import ItemNames
    from twotower_tf.retrieval.recommender import Recommender

    names = ItemNames(bundle)
    users: list[dict[str, Any]] = [canary["user"] for canary in bundle.manifest["canaries"][:SHOWN_USERS]]
    clicked: list[list[str]] = [user.get("history") or [] for user in users]
    for answer, before in zip(Recommender(bundle).recommend(users, SHOWN_ITEMS, exclude=clicked), clicked, strict=True):
        features = [f"{name} {value}" for name, value in answer["user"].items() if isinstance(value, str) and value]
        print(", ".join(features))
        print(f"clicked last: {', '.join(names.of_ids(before[-SHOWN_CLICKS:])) or 'nothing'}")
        print(f"{format_answer(names, answer)}\n")
    return users


def _print_next_commands(run_dir: Path, export_dir: Path, bundle: Any, user: dict[str, Any]) -> None:
    program, tools = _find_program()
    item = bundle.items["item_id"][0].as_py()
    exported = shlex.quote(str(export_dir))
    run = shlex.quote(str(run_dir))
    print("Try next:")
    for command in (
        f"{program} recommend --export_dir={exported} --k=5 --user={shlex.quote(json.dumps(user, ensure_ascii=False))}",
        f"{program} similar --export_dir={exported} --k=5 --item={shlex.quote(item)}",
        f"{program} verify --export_dir={exported}",
        f"{tools}saved_model_cli show --all --dir {shlex.quote(str(bundle.path))}",
        f"{tools}tensorboard --logdir={run}/logs",
    ):
        print(f"  {command}")
    print(f"all metrics: {run_dir / 'report.html'}; your own log: README.md, 'From your own log'")


def _find_program() -> tuple[str, str]:
    """Returns the shell commands for this program, and the directory prefix of the tools installed with it."""
    here = Path(sys.executable).parent
    on_path = shutil.which("twotower")
    if on_path and Path(on_path).parent.resolve() == here.resolve():
        return "twotower", ""
    if (here / "twotower").exists():
        place = here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here
        return shlex.quote(str(place / "twotower")), shlex.quote(f"{place}/")
    return f"{shlex.quote(sys.executable)} -m twotower_tf", shlex.quote(f"{here}/")
