"""Writes the reference pages of docs/ from the package's own docstrings, defaults and flags.

`python docs/generate.py` rewrites docs/configuration.md, docs/commands.md and docs/files.md;
tests/test_docs.py fails where they are out of date.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from twotower_tf import artifacts, config
from twotower_tf.bundle import bundle
from twotower_tf.cli import command, main
from twotower_tf.config.features import list_feature_types
from twotower_tf.config.losses import LOSSES
from twotower_tf.config.open_union import OpenUnion

DOCS = Path(__file__).resolve().parent
NOTE = "<!-- Written by docs/generate.py from the code's docstrings: edit those, then run `make docs`. -->\n"
GROUPS = {
    "Experiment": ["ExperimentConfig"],
    "Data": ["DataConfig", "TextFormat"],
    "Splits": ["TimeSplit", "DateSplit", "LeaveLastOut", "GivenSplit", "RandomSplit"],
    "Features": [cls.__name__ for cls in list_feature_types()],
    "History encoders": ["Attention", "SelfAttention", "GRU"],
    "Model": ["ModelConfig"],
    "Sampling": ["SamplingConfig", "Downsample"],
    "Negatives": [
        "Uniform",
        "Popularity",
        "InBatch",
        "Queue",
        "Catalogue",
        "SameAttribute",
        "Rejections",
        "SkipAbove",
        "Mined",
        "Labelled",
    ],
    "Losses": [*LOSSES],
    "Training": ["TrainConfig"],
    "Optimizers": [],
    "Evaluation and index": ["EvaluationConfig", "IndexConfig"],
    "Search": ["TuneConfig"],
    "Search spaces": ["LogUniform", "FloatRange", "IntRange", "Choice"],
}


def configuration_page() -> str:
    """Returns the page of every configuration class with its fields."""
    known = {name: cls for name, cls in vars(config).items() if _is_config_class(cls)}
    listed = {name for names in GROUPS.values() for name in names}
    groups = {title: [*names] for title, names in GROUPS.items()}
    groups["Optimizers"] += sorted(set(known) - listed)
    lines = [NOTE, "# Configuration\n"]
    lines.append(
        "`configs/NAME.py` defines `get_config() -> ExperimentConfig`. `--set FIELD=VALUE` overrides any field, e.g. "
        "`--set train.epochs=3`, `--set evaluation.ks=(10,50)`, `--set item_features.0.buckets=1000`, "
        "`--set data.split=LeaveLastOut()`.\n"
    )
    for title, names in groups.items():
        lines.append(f"## {title}\n")
        for name in names:
            lines += _class_section(name, known[name])
    return "\n".join(lines)


def commands_page() -> str:
    """Returns the page of every command with its flags."""
    lines = [NOTE, "# Commands\n"]
    lines.append(
        "`twotower COMMAND --flag=value`, also `python -m twotower_tf COMMAND`. `twotower COMMAND --help` lists every "
        "flag. Exit status: 0 done; 2 invalid usage, configuration or input, a full disk or too little memory, "
        "reported in one line; 75 another worker of the training was lost; 130 interrupted and 143 terminated, cleaned "
        "up; 1 an internal error, with a traceback.\n"
    )
    for name in main.COMMANDS:
        module = importlib.import_module(f"twotower_tf.cli.{name}")
        usage, _, rest = command.format_help(name, module).partition("\n\n")
        about, _, flags = rest.partition("\n\nflags:\n")
        lines += [f"## `{name}`\n", f"{about.strip()}\n", f"```\n{usage.removeprefix('usage: ')}\n```\n"]
        found = re.findall(r"^  (--\w+)\n((?:      .*\n?)+)", flags, re.MULTILINE)
        if found:
            lines += ["| flag | |", "| --- | --- |"]
            lines += [f"| `{flag}` | {_cell(' '.join(text.split()))} |" for flag, text in found]
            lines.append("")
    return "\n".join(lines)


def files_page() -> str:
    """Returns the page of every file of a run directory and an export directory."""
    lines = [NOTE, "# Files\n"]
    for title, cls, root in (
        ("Run directory", artifacts.RunPaths, "RUN_DIR"),
        ("Prepared data", artifacts.PreparedPaths, "RUN_DIR/prepared"),
    ):
        rows = [(str(path), inspect.getdoc(member) or "") for path, member in _paths(cls, Path(root))]
        lines += [f"## {title}\n", *_file_table(rows)]
    _, _, block = inspect.cleandoc(bundle.__doc__ or "").partition("\nFiles:\n")
    lines += ["## Export directory\n", *_file_table(_entries(block, r"[\w./]+"))]
    return "\n".join(lines)


def _paths(cls: type, root: Path) -> Iterator[tuple[Path, Any]]:
    """Yields the path and the member for every file; of a family of files, the path with a placeholder."""
    paths = cls(root)
    for name, member in vars(cls).items():
        if isinstance(member, artifacts.Entry):
            yield getattr(paths, name), member
        elif inspect.isfunction(member) and not name.startswith("_"):
            (_, argument) = inspect.signature(member).parameters
            yield member(paths, argument.upper()), member


def _file_table(rows: Iterable[tuple[str, str]]) -> list[str]:
    lines = ["| path | |", "| --- | --- |"]
    return [*lines, *(f"| `{path}` | {_cell(' '.join(text.split()))} |" for path, text in rows), ""]


def _is_config_class(cls: Any) -> bool:
    return isinstance(cls, type) and dataclasses.is_dataclass(cls)


def _class_section(name: str, cls: type) -> list[str]:
    summary, attributes = _docstring(cls)
    lines = [f"### `{name}`\n", f"{summary}\n"]
    if issubclass(cls, config.LossConfig):
        lines.append(f"Default negatives: `{_value(cls.default_negatives)}`.\n")
    fields = [field for field in dataclasses.fields(cls) if field.name != "type"]
    if not fields:
        return lines
    hints = typing.get_type_hints(cls, include_extras=True)
    lines += ["| field | type | default | |", "| --- | --- | --- | --- |"]
    for field in fields:
        made = _default(field)
        default = "required" if made is dataclasses.MISSING else f"`{_value(made)}`"
        row = (
            f"`{field.name}`",
            _cell(_type(hints[field.name])),
            _cell(default),
            _cell(attributes.get(field.name, "")),
        )
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""]


def _docstring(cls: type) -> tuple[str, dict[str, str]]:
    """Splits docstrings of a class and its bases into the class's text and the descriptions of attributes."""
    attributes: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, block = (inspect.cleandoc(base.__doc__ or "")).partition("\nAttributes:\n")
        attributes |= dict(_entries(block))
    text = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[0]
    return text.strip(), attributes


def _entries(block: str, pattern: str = r"\w+") -> Iterator[tuple[str, str]]:
    for name, text in re.findall(rf"^    ({pattern}): ((?:.*\n?)(?:        .*\n?)*)", block, re.MULTILINE):
        yield name, " ".join(text.split())


def _type(hint: Any) -> str:
    """Names a type as a user writes it."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is typing.Annotated:
        union = next((each for each in arguments if isinstance(each, OpenUnion)), None)
        if arguments[0] == str | config.HistoryEncoder:
            return "name, or one of [history encoders](#history-encoders)"
        return _type(typing.Union[tuple(union.list_classes())] if union else arguments[0])  # noqa: UP007
    if hint is config.LossConfig:
        return "[losses](#losses)"
    classes = [argument for argument in arguments if _is_config_class(argument)]
    if len(classes) > 2:
        names = [cls.__name__ for cls in classes]
        group = next((title for title, members in GROUPS.items() if {*names} & {*members}), "Optimizers")
        return f"[{group.lower()}](#{group.lower().replace(' ', '-')})"
    if origin is typing.Literal:
        return ", ".join(f"`{argument!r}`" for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is dict:
        return f"dict of {_type(arguments[0])} to {_type(arguments[1])}"
    if origin is tuple:
        inner = [argument for argument in arguments if argument is not Ellipsis]
        return f"tuple of {_type(inner[0])}" if len(arguments) > len(inner) else f"({', '.join(map(_type, inner))})"
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _value(value: Any) -> str:
    """Formats a default as in a configuration file: of a class only the fields that differ from its own defaults."""
    if not dataclasses.is_dataclass(value):
        if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
            return f"({', '.join(map(_value, value))},)"
        return repr(value)
    changed = [
        f"{field.name}={_value(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != _default(field)
    ]
    return f"{type(value).__name__}({', '.join(changed)})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


PAGES = {"configuration.md": configuration_page, "commands.md": commands_page, "files.md": files_page}


def write_pages() -> int:
    """Writes the pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(write_pages())
