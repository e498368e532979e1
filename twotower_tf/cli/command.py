"""Parses the flags of one command strictly, and formats its help from their definitions.

A command is a module with a docstring (its help), `define(flags)`, `run(flags)`, and optionally `REQUIRED` (names of
flags) and `ARGUMENT` (the name of its one positional argument, read as `flags.argument`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from types import ModuleType

from absl import flags as absl_flags
from absl.flags import FlagValues

from twotower_tf.errors import ConfigError, unknown_name

_HELP = ("--help", "-help", "-h", "--helpfull")
_ARGUMENT = "argument"
_OWN = ("flagfile", "undefok")  # absl's; the second would let mistyped flags pass


def wants_help(arguments: Sequence[str]) -> bool:
    """Returns whether any of the arguments is a help flag."""
    return any(argument in _HELP for argument in arguments)


def parse(name: str, module: ModuleType, arguments: Sequence[str]) -> FlagValues:
    """Parses a command's flags.

    Raises:
        ConfigError: for an unknown flag (naming the closest one), a value of the wrong type, a missing required flag,
            or an unexpected argument.
    """
    values = _define(module)
    known = [f"--{flag}" for flag in _names(module, values)]
    for argument in arguments:
        if argument.lstrip("-").partition("=")[0] in _OWN:
            raise ConfigError(unknown_name("flag", argument.partition("=")[0], known))
    values.set_gnu_getopt(True)
    try:
        positional = values([name, *arguments])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        raise ConfigError(unknown_name("flag", f"--{error.flagname}", known)) from None
    except absl_flags.Error as error:
        raise ConfigError(_plain(str(error))) from None
    expected = getattr(module, "ARGUMENT", None)
    if expected and positional:
        values[_ARGUMENT].value = positional.pop(0)
    if positional:
        raise ConfigError(f"unexpected argument {positional[0]!r}; flags are written --name=value")
    if expected and not values[_ARGUMENT].value:
        raise ConfigError(f"{expected} is required: twotower {name} {expected} ...")
    for flag in getattr(module, "REQUIRED", ()):
        if values[flag].value in (None, "", []):
            raise ConfigError(f"--{flag} is required: {values[flag].help.partition(';')[0]}")
    return values


def _plain(message: str) -> str:
    """Rewrites a message of absl without Python's terms."""
    head, _, reason = message.removeprefix("flag ").partition(": ")
    if "invalid literal for int()" in reason:
        reason = "invalid value (expected an integer)"
    elif "Non-boolean argument" in reason:
        reason = "invalid value (expected true or false)"
    return f"{head}: {reason}" if reason else head


def help_text(name: str, module: ModuleType) -> str:
    """Formats the command's help: usage, description, flags with their defaults."""
    values = _define(module)
    required = getattr(module, "REQUIRED", ())
    usage = [f"usage: twotower {name}"]
    if expected := getattr(module, "ARGUMENT", None):
        usage.append(expected)
    usage += [f"--{flag}=..." for flag in required]
    names = _names(module, values)
    usage += ["[flags]"] if set(names) - set(required) else []
    lines = [" ".join(usage), "", (module.__doc__ or "").strip(), "", "flags:"]
    for flag in sorted(names, key=lambda flag: (flag not in required, names.index(flag))):
        default = values[flag].default
        note = f" (default: {default})" if default not in (None, "", [], False) else ""
        text = f"{values[flag].help}{note}{' (required)' if flag in required else ''}"
        lines.append(f"  --{flag}")
        lines += textwrap.wrap(" ".join(text.split()), 100, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _define(module: ModuleType) -> FlagValues:
    values = FlagValues()  # type: ignore[no-untyped-call]
    module.define(values)
    if getattr(module, "ARGUMENT", None):
        absl_flags.DEFINE_string(_ARGUMENT, "", "", flag_values=values)
    return values


def _names(module: ModuleType, values: FlagValues) -> list[str]:
    """Returns the names of the command's flags in the order of their definition."""
    return [flag for flag in values if flag != _ARGUMENT]
