"""Prepares, trains, evaluates and exports in one go.

A second run skips finished stages whose configuration and input files are unchanged, and resumes an interrupted
training after its last finished epoch.
"""

from __future__ import annotations

from pathlib import Path

from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("config", "run_dir", "export_dir")


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.config(values)
    options.run_dir(values)
    options.export_dir(values)
    options.preparation(values)
    options.publication(values)
    options.overwrite(values)


def run(values: FlagValues) -> None:
    """Runs the stages and prints the result of each."""
    from twotower_tf import config as configuration
    from twotower_tf import pipeline, run_lock
    from twotower_tf.bundle import export_root
    from twotower_tf.cli import evaluate, prepare, progress_bar, train

    config, run_dir = configuration.load(values.config, values.set), Path(values.run_dir)
    spark = options.spark(values)
    export_root.check_root(Path(values.export_dir))  # now, not after hours of training
    export_root.choose_version(Path(values.export_dir), values.version)
    with run_lock.working(run_dir, create=True), progress_bar.shown() as show:
        pipeline.adopt(run_dir, config, overwrite=values.overwrite)
        runner = pipeline.Runner(config, run_dir, show, print)
        manifest = runner.prepare(
            skip=True, memory_limit=values.memory_limit, threads=values.threads, spark=spark, since=values.since
        )
        print(prepare.told(manifest))
        print(train.told(runner.train(skip=True)))
        held_out = [split for split in ("test", "valid") if manifest["splits"][split]["positives"]]
        if held_out:
            print(evaluate.told(runner.evaluate(held_out[0], skip=True)))
        else:
            print("evaluate: skipped; neither the test nor the valid split has positives")
        bundle = runner.export(
            Path(values.export_dir),
            skip=True,
            version=values.version,
            keep=values.keep,
            active_days=values.active_days,
            formats=values.format,
        )
    print(bundle)
