"""Writes a synthetic ads log, runs every stage on it, and shows what comes out.

That is: metrics beside the baselines', recommendations for three users, and the commands to try next. Under two
minutes on two cores. Run again, it skips what is done.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from absl.flags import FlagValues

from twotower_tf.cli import options

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.py"
SHOWN_USERS, SHOWN_ITEMS = 3, 5


def define(values: FlagValues) -> None:
    """The command's flags."""
    options.run_dir(values, "runs/quickstart")
    options.export_dir(values, "export/quickstart")
    options.overwrite(values)


def run(values: FlagValues) -> None:
    """Runs all stages and prints their results."""
    from twotower_tf import config as configuration
    from twotower_tf.cli import evaluate, prepare, progress, stages, train
    from twotower_tf.data import synthetic
    from twotower_tf.index.bundle import Bundle

    started = time.monotonic()
    run_dir, export_dir = Path(values.run_dir), Path(values.export_dir)
    config = configuration.load(CONFIG)
    log = run_dir / "log"
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(log)))
    stages.adopt(run_dir, config, overwrite=values.overwrite)
    with progress.shown() as show:
        if not (log / "truth.npz").exists():
            synthetic.synthesize(log, progress=show)
        runner = stages.Runner(config, run_dir, show, print)
        print(prepare.told(runner.prepare(skip=True)))
        print(train.told(runner.train(skip=True)))
        report = runner.evaluate("test", skip=True)
        bundle = Bundle.open(export_dir, int(runner.export(export_dir, skip=True).name))
    print(f"\n{evaluate.told(report)}\n")
    users = _answer(bundle)
    _next_commands(run_dir, export_dir, bundle, users[0])
    print(f"\n{time.monotonic() - started:.0f} seconds in all")


def _answer(bundle: Any) -> list[dict[str, Any]]:
    """Prints recommendations for some users of the log; returns these users' features."""
    from twotower_tf.cli.recommend import listing
    from twotower_tf.score.recommend import Recommender

    users: list[dict[str, Any]] = [canary["user"] for canary in bundle.manifest["canaries"][:SHOWN_USERS]]
    for answer in Recommender(bundle).recommend(users, SHOWN_ITEMS):
        told = [f"{name} {value}" for name, value in answer["user"].items() if isinstance(value, str) and value]
        print(f"for {', '.join(told)}, who clicked {len(answer['user'].get('history') or [])} items before:")
        print(f"{listing(bundle, answer)}\n")
    return users


def _next_commands(run_dir: Path, export_dir: Path, bundle: Any, user: dict[str, Any]) -> None:
    program, tools = _program()
    item = bundle.items["item_id"][0].as_py()
    exported = shlex.quote(str(export_dir))
    run = shlex.quote(str(run_dir))
    print("to try next:")
    for command in (
        f"{program} recommend --export_dir={exported} --k=5 --user={shlex.quote(json.dumps(user, ensure_ascii=False))}",
        f"{program} similar --export_dir={exported} --k=5 --item={shlex.quote(item)}",
        f"{program} verify --export_dir={exported}",
        f"{tools}saved_model_cli show --all --dir {shlex.quote(str(bundle.path))}",
        f"{tools}tensorboard --logdir={run}/logs",
    ):
        print(f"  {command}")
    print(f"metrics in full: {run_dir / 'report.html'}; your own log: README.md, 'From your own log'")


def _program() -> tuple[str, str]:
    """How this very program, and the tools installed beside it, are called from this shell."""
    here = Path(sys.executable).parent
    on_path = shutil.which("twotower")
    if on_path and Path(on_path).parent.resolve() == here.resolve():
        return "twotower", ""
    if (here / "twotower").exists():
        place = here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here
        return shlex.quote(str(place / "twotower")), shlex.quote(f"{place}/")
    return f"{shlex.quote(sys.executable)} -m twotower_tf", shlex.quote(f"{here}/")
