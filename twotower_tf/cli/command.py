"""Parses the flags of one command strictly, and formats its help from their definitions.

A command is a module with a docstring (its help), `define(flags)`, which adds its flags, `run(flags)`, and optionally
`REQUIRED` (names of flags) and `ARGUMENT` (the name of its one positional argument, read as `flags.argument`).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from absl import flags as absl
from absl.flags import FlagValues

from twotower_tf.errors import ConfigError, unknown_name

_HELP = ("--help", "-help", "-h", "--helpfull")
_ARGUMENT = "argument"
_OWN = ("flagfile", "undefok")  # absl's; the second would let mistyped flags pass


def _method(define: Callable[..., Any]) -> Callable[..., None]:
    """Returns a method that calls one of absl's functions for its own flags."""

    def add(self: Flags, *arguments: Any, **bounds: Any) -> None:
        define(*arguments, flag_values=self, **bounds)

    return add


class Flags(FlagValues):
    """The flags of a command: `flags.integer(name, default, help)` adds one as absl's DEFINE_integer does."""

    string, multi_string = _method(absl.DEFINE_string), _method(absl.DEFINE_multi_string)
    list, bool = _method(absl.DEFINE_list), _method(absl.DEFINE_bool)
    integer, float = _method(absl.DEFINE_integer), _method(absl.DEFINE_float)
    multi_integer = _method(absl.DEFINE_multi_integer)
    enum, multi_enum = _method(absl.DEFINE_enum), _method(absl.DEFINE_multi_enum)


def wants_help(arguments: Sequence[str]) -> bool:
    """Returns whether any of the arguments is a help flag."""
    return any(argument in _HELP for argument in arguments)


def parse(name: str, module: ModuleType, arguments: Sequence[str]) -> Flags:
    """Parses a command's flags.

    Raises:
        ConfigError: for an unknown flag (naming the closest one), a value of the wrong type, a missing required flag,
            or an unexpected argument.
    """
    flags = _define(module)
    known = [f"--{flag}" for flag in _list_names(flags)]
    for argument in arguments:
        if argument.lstrip("-").partition("=")[0] in _OWN:
            raise ConfigError(unknown_name("flag", argument.partition("=")[0], known))
    flags.set_gnu_getopt(True)
    try:
        positional = flags([name, *arguments])[1:]
    except absl.UnrecognizedFlagError as error:
        raise ConfigError(unknown_name("flag", f"--{error.flagname}", known)) from None
    except absl.Error as error:
        raise ConfigError(_rephrase(str(error))) from None
    expected = getattr(module, "ARGUMENT", None)
    if expected and positional:
        flags[_ARGUMENT].value = positional.pop(0)
    if positional:
        raise ConfigError(f"unexpected argument {positional[0]!r}; flags are written --name=value")
    if expected and not flags[_ARGUMENT].value:
        raise ConfigError(f"{expected} is required: twotower {name} {expected} ...")
    for flag in getattr(module, "REQUIRED", ()):
        if flags[flag].value in (None, "", []):
            raise ConfigError(f"--{flag} is required: {flags[flag].help.partition(';')[0]}")
    return flags


# absl's reasons, by what it expects instead
_REASONS = {
    r".*invalid literal for int\(\).*": "an integer",
    r"could not convert string to float.*": "a number",
    r".*Non-boolean argument.*": "true or false",
    r"\S+ is not (an? .*)": r"\1",
    r"value should be one of <(.*)>": r"one of: \1",
}


def _rephrase(message: str) -> str:
    """Rewrites a message of absl without Python's terms."""
    if found := re.fullmatch(r"Missing value for flag (--\w+)", message):
        return f"{found[1]}: missing value; write {found[1]}=VALUE"
    head, _, reason = message.removeprefix("flag ").partition(": ")
    for pattern, expected in _REASONS.items():
        if found := re.fullmatch(pattern, reason, re.DOTALL):
            return f"{head}: invalid value (expected {found.expand(expected).replace('|', ', ')})"
    return f"{head}: {reason}" if reason else head


def format_help(name: str, module: ModuleType) -> str:
    """Formats the command's help: usage, description, flags with their defaults."""
    flags = _define(module)
    required = getattr(module, "REQUIRED", ())
    usage = [f"usage: twotower {name}"]
    if expected := getattr(module, "ARGUMENT", None):
        usage.append(expected)
    usage += [f"--{flag}=..." for flag in required]
    names = _list_names(flags)
    usage += ["[flags]"] if set(names) - set(required) else []
    lines = [" ".join(usage), "", (module.__doc__ or "").strip(), "", "flags:"]
    for flag in sorted(names, key=lambda flag: (flag not in required, names.index(flag))):
        default = flags[flag].default
        note = f" (default: {default})" if default not in (None, "", [], False) else ""
        text = f"{flags[flag].help}{note}{' (required)' if flag in required else ''}"
        lines.append(f"  --{flag}")
        lines += textwrap.wrap(" ".join(text.split()), 100, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _define(module: ModuleType) -> Flags:
    flags = Flags()  # type: ignore[no-untyped-call]
    module.define(flags)
    if getattr(module, "ARGUMENT", None):
        flags.string(_ARGUMENT, "", "")
    return flags


def _list_names(flags: Flags) -> list[str]:
    """Returns the names of the command's flags in the order of their definition."""
    return [flag for flag in flags if flag != _ARGUMENT]
