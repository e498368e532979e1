"""`twotower COMMAND --flag=value`: finds the command, reads its flags, and turns errors into exit statuses.

Exit status: 0 done; 2 bad usage, configuration or input, or what the machine refuses, in one line; 1 a fault of
twotower; 130 interrupted; 143 terminated.
Nothing here, and no command before it runs, imports TensorFlow.
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

from absl.flags import FlagValues

from twotower_tf import __version__, resources
from twotower_tf.cli import command, signals, terminal
from twotower_tf.errors import ConfigError, TwoTowerError, unknown_name

# In the order in which a reader meets them.
COMMANDS = {
    "quickstart": "a synthetic log through all stages to recommendations, in under two minutes",
    "synth": "writes a synthetic ads log with a planted, known preference structure",
    "dataset": "turns a publisher's raw files (MovieLens, gowalla, Avazu, ...) into tables",
    "init": "proposes a commented configuration for your own tables",
    "validate": "checks every input file against a configuration before anything runs",
    "run": "prepare, train, evaluate, export in one go; picks up where it was interrupted",
    "prepare": "events to training shards, catalogue and statistics",
    "train": "trains the two towers",
    "samples": "what the samplers really draw: figures and a page, samples.html",
    "evaluate": "ranks the whole catalogue for held-out events: metrics.json and report.html",
    "export": "publishes a new version of the bundle: towers, item vectors, index",
    "refresh": "publishes new and changed items through the pinned item tower, without training",
    "recommend": "the best items for a user, from a bundle",
    "score": "the best items for every user of a table: streamed, in parallel, resumable",
    "similar": "the nearest items of an item, from a bundle",
    "verify": "checks a bundle: checksums, fingerprints, canaries, signatures",
    "versions": "lists the versions of an export directory",
    "rollback": "makes an earlier version the newest again",
    "publish": "item vectors, and user vectors, to Redis, with an atomic version switch",
    "doctor": "versions, CPU, memory, what is installed, what is missing",
}
_PLACES = ("output", "export_dir", "run_dir")  # flags that say where a command writes


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: what follows the program's name; those of the process by default.

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
            raise ConfigError("a command is needed; twotower --help lists them")
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
        if command.asks_help(rest):
            print(command.help_text(name, module))
            return 0
        values = command.parse(name, module, rest)
        resources.heed_quota()
        _quiet_tensorflow()
        module.run(values)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt) as error:
        return _report(where, error, received, values)


def _report(where: str, error: BaseException, received: signals.Received, values: FlagValues | None) -> int:
    """Prints why a command ended; returns the exit status."""
    if received.number or isinstance(error, KeyboardInterrupt):
        number = received.number or signal.SIGINT
        return _tell(where, signals.NAMES[number], 128 + number)
    from twotower_tf.cli import failures

    given = {} if values is None else {name: values[name].value for name in values}
    places = [Path(str(given[name])) for name in _PLACES if given.get(name)]
    refused = failures.describe(error, places, "memory_limit" in given)
    if refused or isinstance(error, TwoTowerError):
        return _tell(where, refused or str(error))
    return _fault(where, error)


def _tell(where: str, message: str, status: int = 2) -> int:
    line = " ".join(message.split("\n"))
    print(f"{where}: {line}", file=sys.stderr)
    return status


def _fault(where: str, error: BaseException) -> int:
    traceback.print_exception(error)
    return _tell(where, "this is a fault of twotower; please report it with the lines above", 1)


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
            "twotower COMMAND --help tells a command's flags.",
        ]
    )


def _quiet_tensorflow() -> None:
    """Keeps TensorFlow's start-up chatter off the terminal, unless the user asked for it."""
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
