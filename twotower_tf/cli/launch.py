"""Trains with several processes on this machine: a cluster for a machine with several GPUs, a laptop, a test.

All flags but --workers, --ps and --restarts are those of `twotower train`, which each process gets. Lines of the
processes are printed with their names. With --ps there are parameter servers and a chief, and a worker that ends is
started again by itself, as often as --restarts says. Where another process ends, all are ended, and with --restarts
the cluster is started again after the last checkpoint. docs/distributed.md says how clusters of several machines are
started.
"""

from __future__ import annotations

from twotower_tf.cli import train
from twotower_tf.cli.command import Flags
from twotower_tf.errors import ConfigError

REQUIRED = train.REQUIRED
_OWN = ("workers", "ps", "restarts", "strategy")


def define(flags: Flags) -> None:
    flags.integer("workers", 2, "worker processes; of several GPUs each has one", lower_bound=1)
    flags.integer("ps", 0, "parameter servers, which hold the embedding tables; 0: each worker does", lower_bound=0)
    flags.integer(
        "restarts", 0, "how often to start again after the last checkpoint where a process ends", lower_bound=0
    )
    train.define(flags)


def run(flags: Flags) -> None:
    """Starts the workers and waits for them."""
    from twotower_tf.train import local_cluster

    strategy = "parameter_server" if flags.ps else "multi_worker"
    if flags["strategy"].present and flags.strategy != strategy:
        raise ConfigError(
            f"--strategy: invalid value {flags.strategy!r} for launch with --ps={flags.ps} (expected {strategy!r}); "
            "leave it out"
        )
    arguments = train.list_arguments(flags, _OWN)
    local_cluster.run_cluster(flags.workers, arguments, servers=flags.ps, restarts=flags.restarts)
