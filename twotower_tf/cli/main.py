"""Runs `twotower COMMAND --flag=value`: finds the command, parses its flags, and turns errors into exit statuses.

Exit status: 0 success; 2 invalid usage, configuration or input, or a system error, reported in one line; 1 internal
error; 75 another worker of a training was lost; 130 interrupted; 143 terminated. TensorFlow is imported only when a
command that needs it runs.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from twotower_tf import __version__, resources
from twotower_tf.cli import command, signals, terminal
from twotower_tf.errors import ConfigError, TwoTowerError, unknown_name

# In the order of a typical first use.
COMMANDS = {
    "quickstart": "runs all stages on a synthetic log and prints recommendations, in under two minutes",
    "synth": "writes a synthetic ads log with known (planted) preferences",
    "dataset": "converts a publisher's raw files (MovieLens, gowalla, Avazu, ...) to tables",
    "init": "proposes a commented configuration for your own tables",
    "validate": "checks every input file against a configuration before anything runs",
    "run": "prepares, trains, evaluates and exports in one go; resumes after an interruption",
    "prepare": "converts events to training shards, a catalogue and statistics",
    "train": "trains the two towers",
    "launch": "trains with several worker processes on this machine",
    "tune": "searches hyper-parameters on validation data; writes the best configuration",
    "samples": "measures what the negative samplers draw; writes samples.html",
    "evaluate": "ranks the whole catalogue for held-out events; writes metrics.json and report.html",
    "export": "publishes a new version of the bundle: towers, item vectors, index",
    "refresh": "publishes new and changed items with the exported item tower, without training",
    "recommend": "recommends items to a user, from a bundle",
    "score": "recommends items to every user of a table: streamed, parallel, resumable",
    "serve": "answers over REST and gRPC as TensorFlow Serving does, and reloads new versions",
    "similar": "finds the items most similar to an item, from a bundle",
    "verify": "verifies a bundle: checksums, fingerprints, canaries, signatures",
    "versions": "lists the versions of an export directory",
    "rollback": "publishes an earlier version again as the newest",
    "publish": "writes item and user vectors to Redis and switches versions atomically",
    "doctor": "reports versions, CPU, memory, and missing requirements",
}
_OUTPUT_FLAGS = ("output", "export_dir", "run_dir")  # flags with the paths that a command writes to


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: those after the program's name; by default those of the process.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with terminal.escaping(), signals.noticed() as received:
        return _run(arguments, received)


def _run(arguments: list[str], received: signals.Received) -> int:
    where, values = "twotower", None
    try:
        if not arguments:
            raise ConfigError("missing command; twotower --help lists the commands")
        name, *rest = arguments
        if name in ("--help", "-h", "--helpfull", "help"):
            print(_help())
            return 0
        if name == "--version":
            print(f"twotower_tf {__version__}")
            return 0
        if name not in COMMANDS:
            raise ConfigError(unknown_name("flag" if name.startswith("-") else "command", name, [*COMMANDS, "--help"]))
        where = f"twotower {name}"
        module = importlib.import_module(f"twotower_tf.cli.{name}")
        if command.wants_help(rest):
            print(command.format_help(name, module))
            return 0
        values = command.parse(name, module, rest)
        resources.limit_library_threads()
        _quiet_tensorflow()
        module.run(values)
        sys.stdout.flush()
        _end_connected(0)
        return 0
    except BrokenPipeError:  # the reader of standard output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt) as error:
        status = _report(where, error, received, values)
        _end_connected(status)  # now: with the error go the objects that it holds
        return status


def _report(where: str, error: BaseException, received: signals.Received, values: command.Flags | None) -> int:
    """Prints the reason why a command ended; returns the exit status."""
    if received.number or isinstance(error, KeyboardInterrupt):
        number = received.number or signal.SIGINT
        return _print_error(where, signals.NAMES[number], 128 + number)
    from twotower_tf.cli import failures

    given = {} if values is None else {name: values[name].value for name in values}
    places = [Path(str(given[name])) for name in _OUTPUT_FLAGS if given.get(name)]
    system_error = failures.describe(error, places, "memory_limit" in given)
    if system_error or isinstance(error, TwoTowerError):
        return _print_error(where, system_error or str(error), getattr(error, "exit_status", 2))
    return _print_internal_error(where, error)


def _end_connected(status: int) -> None:
    """Ends a process that TensorFlow has connected to others at once: its destructors may wait for them without end."""
    servers = sys.modules.get("twotower_tf.train.parameter_servers")
    if servers is not None and servers.connected:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _print_error(where: str, message: str, status: int = 2) -> int:
    line = " ".join(message.split("\n"))
    print(f"{where}: {line}", file=sys.stderr)
    return status


def _print_internal_error(where: str, error: BaseException) -> int:
    traceback.print_exception(error)
    return _print_error(where, "internal error; please report it with the traceback above", 1)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            f"twotower_tf {__version__}: two-tower retrieval for TensorFlow",
            "",
            "usage: twotower COMMAND --flag=value ...",
            "",
            *lines,
            "",
            "twotower COMMAND --help lists the flags of a command.",
        ]
    )


def _quiet_tensorflow() -> None:
    """Silences TensorFlow's warnings in Python as well as those in C++, whose level `twotower_tf` sets."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3":
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
