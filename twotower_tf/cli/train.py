"""Trains the towers on the output of `prepare`: RUN_DIR/checkpoints, RUN_DIR/logs (TensorBoard), RUN_DIR/train.json.

The configuration is RUN_DIR/config.json, changed by --config and --set. It is an error if they need other prepared
data, or if they would replace a model of another configuration without --overwrite.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twotower_tf.cli import options, terminal
from twotower_tf.cli.command import Flags
from twotower_tf.errors import ConfigError

REQUIRED = ("run_dir",)


def define(flags: Flags) -> None:
    options.add_run_dir(flags)
    options.add_config(flags, "configuration file (default: RUN_DIR/config.json)")
    flags.bool("resume", False, "continue after the last checkpoint; without one, start over")
    flags.string(
        "warm_start",
        "",
        "run directory, export directory or version of a bundle whose model weights initialize the new model",
    )
    flags.bool(
        "final",
        False,
        "train on training and validation rows together, for the epochs that the finished training of --run_dir chose; "
        "evaluate (on test) and export use this model, in RUN_DIR/final",
    )
    options.add_overwrite(flags)
    flags.enum(
        "strategy",
        "single",
        ["single", "mirrored", "multi_worker", "parameter_server"],
        "single: this process alone; mirrored: one process for each GPU of this machine; multi_worker: one of the "
        "workers that TF_CONFIG lists, which train together; parameter_server: one of the processes that TF_CONFIG "
        "lists, of which servers hold the embedding tables",
    )
    flags.float("cluster_timeout", 600.0, "seconds that a process of a cluster waits for another before it ends")


def run(flags: Flags) -> None:
    """Trains, and prints a summary of train.json."""
    from twotower_tf import progress_bar, run_stages
    from twotower_tf.cli.result_texts import format_training
    from twotower_tf.pipeline import Pipeline

    if flags.final and (flags.warm_start or flags.overwrite):
        flag = "warm_start" if flags.warm_start else "overwrite"
        raise ConfigError(f"--{flag}: invalid with --final, which repeats the training of --run_dir; leave it out")
    if flags.strategy == "mirrored" and (devices := _count_gpus()) > 1:
        from twotower_tf.train import local_cluster

        local_cluster.run_cluster(devices, list_arguments(flags, ("strategy",)))
        return
    cluster = None
    if flags.strategy in ("multi_worker", "parameter_server"):
        from twotower_tf.train import cluster_task

        cluster = cluster_task.read_task(flags.cluster_timeout, flags.strategy)
        if cluster.has_servers:
            terminal.hide_library_lines()
    _, config = run_stages.read_configs(Path(flags.run_dir), flags.config, flags.set)
    with progress_bar.shown() as show:
        pipeline = Pipeline(config, flags.run_dir, overwrite=flags.overwrite, progress=show, log=print)
        if flags.final:
            result = pipeline.final_fit(force=True, resume=flags.resume, share_cores=True, cluster=cluster)
        else:
            result = pipeline.train(
                force=True, resume=flags.resume, warm_start=flags.warm_start, share_cores=True, cluster=cluster
            )
    if cluster is None or cluster.is_chief:
        print(format_training(result))


def list_arguments(flags: Flags, without: Sequence[str]) -> list[str]:
    """Returns the flags that were given as arguments of a process, except those named."""
    given = [flags[name] for name in flags if flags[name].present and name not in without]
    return [
        f"--{flag.name}={value}"
        for flag in given
        for value in (flag.value if isinstance(flag.value, list) else [str(flag.value)])
    ]


def _count_gpus() -> int:
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))
