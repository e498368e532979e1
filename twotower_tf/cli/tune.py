"""Searches hyper-parameters on the validation part: RUN_DIR/tune has every trial, tune.html, and best.json.

The space is `tune.space` of the configuration, with what --space adds. Trials that validate badly end early. A search
that was interrupted or killed goes on with the same command, also with more --trials. Afterwards:

    twotower run --config=RUN_DIR/tune/best.json --final --run_dir=... --export_dir=...
"""

from __future__ import annotations

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

REQUIRED = ("config", "run_dir")


def define(flags: Flags) -> None:
    options.add_config(flags)
    options.add_run_dir(flags)
    flags.integer("trials", None, "trainings in all (default: tune.trials of the configuration)", lower_bound=1)
    flags.integer("jobs", 1, "trainings at a time, at most one per core", lower_bound=1)
    flags.multi_string(
        "space",
        [],
        "a field to search with its values, e.g. --space 'loss.temperature=LogUniform(0.03, 0.3)'; also IntRange(low, "
        "high), FloatRange(low, high), Choice((value, ...)); may be repeated",
    )
    options.add_preparation(flags)
    options.add_overwrite(flags)


def run(flags: Flags) -> None:
    """Searches, and prints the best trials."""
    from twotower_tf import config as configuration
    from twotower_tf import progress_bar
    from twotower_tf.cli.result_texts import format_search
    from twotower_tf.pipeline import Pipeline
    from twotower_tf.tune import field_values

    space = field_values.parse_spaces(flags.space)
    config, preparation = configuration.load(flags.config, flags.set), options.read_preparation(flags)
    with progress_bar.shown() as show:
        pipeline = Pipeline(config, flags.run_dir, overwrite=flags.overwrite, progress=show, log=print)
        result = pipeline.tune(trials=flags.trials, jobs=flags.jobs, space=space, prepare=preparation)
    print(f"\n{format_search(result)}\n\n{result.report}\n{result.config}")
