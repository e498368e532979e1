"""Trains with several worker processes on this machine: a cluster for a machine with several GPUs, a laptop, a test.

All flags but --workers and --restarts are those of `twotower train`, which each worker gets. Lines of the workers are
printed with their names. Where one fails, all are ended, and with --restarts the cluster is started again after the
last checkpoint. docs/distributed.md says how clusters of several machines are started.
"""

from __future__ import annotations

from twotower_tf.cli import train
from twotower_tf.cli.command import Flags
from twotower_tf.errors import ConfigError

REQUIRED = train.REQUIRED
_OWN = ("workers", "restarts", "strategy")


def define(flags: Flags) -> None:
    flags.integer("workers", 2, "worker processes; of several GPUs each has one", lower_bound=1)
    flags.integer(
        "restarts", 0, "how often to start again after the last checkpoint where a worker ends", lower_bound=0
    )
    train.define(flags)


def run(flags: Flags) -> None:
    """Starts the workers and waits for them."""
    from twotower_tf.train import local_cluster

    if flags["strategy"].present and flags.strategy != "multi_worker":
        raise ConfigError(f"--strategy: invalid value {flags.strategy!r} for launch (expected 'multi_worker')")
    local_cluster.run_cluster(flags.workers, train.list_arguments(flags, _OWN), restarts=flags.restarts)
