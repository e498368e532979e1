"""Applies `--set a.b=value` overrides, with values typed by the field."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import pydantic

from twotower_tf.config import row_defaults
from twotower_tf.config.base import CLASSES, explain
from twotower_tf.config.experiment import ExperimentConfig
from twotower_tf.config.history_encoders import HistoryEncoder
from twotower_tf.errors import ConfigError, unknown_name


def override(config: ExperimentConfig, overrides: Iterable[str]) -> ExperimentConfig:
    """Applies `a.b=value` texts. Values are typed by the field: numbers, text, `(1, 2)`, or `Class(field=value)`.

    What was filled in by default is filled in again: a new loss brings its own negatives, where `sampling.negatives`
    are still the defaults of the loss before, and a new history encoder its own `train.rows`, `train.batch_size` and
    `sampling.masked`, where these are still the defaults. Fields are checked together after all of them are applied:
    they may repair a configuration built with `unchecked`.

    Raises:
        ConfigError: for an unknown field (naming the closest one), or an invalid value; without `--set` where the fault
            is that of `config` itself.
    """
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    hints = typing.get_type_hints(ExperimentConfig, include_extras=True)
    texts = list(overrides)
    given: set[str] = set()
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write it as field=value, e.g. --set train.epochs=3")
        head, *rest = path.strip().split(".")
        try:
            if head not in fields:
                raise ConfigError(unknown_name("field of ExperimentConfig", head, fields))
            before = fields[head]
            fields[head] = _replace(before, hints[head], rest, value, path)
            if head == "loss" and fields["sampling"].negatives == before.default_negatives:
                fields["sampling"] = dataclasses.replace(fields["sampling"], negatives=fields["loss"].default_negatives)
            given.add(path.strip())
        except ConfigError as error:
            raise ConfigError(f"--set {text}: {error}") from None
    fields["sampling"], fields["train"] = row_defaults.clear(
        fields["sampling"], fields["train"], str(config.train.rows), config.user_features, given
    )
    try:
        return ExperimentConfig(**fields)  # once, at the end: two overrides may be valid only together
    except ConfigError as error:
        if str(error) == _find_fault(config):
            raise
        raise ConfigError(f"--set {' '.join(texts)}: {error}") from None


def _find_fault(config: ExperimentConfig) -> str:
    """Returns the error of a configuration as it stands; "" where it is valid."""
    try:
        config.check()
    except ConfigError as error:
        return str(error)
    return ""


def _replace(node: Any, hint: Any, path: Sequence[str], text: str, whole: str) -> Any:
    """Returns `node` with the field at `path` replaced by `text`, converted to that field's type."""
    if not path:
        try:
            # A SQL predicate may be in parentheses.
            value = text if isinstance(node, str) and not _holds_classes(hint) else parse_literal(text)
            return pydantic.TypeAdapter(hint).validate_python(value, strict=False)
        except pydantic.ValidationError as error:
            return _replace_error(whole, error)
    head, rest = path[0], path[1:]
    if isinstance(node, tuple):
        if not head.isdigit() or int(head) >= len(node):
            raise ConfigError(f"{whole}: invalid index {head!r} (expected 0 to {len(node) - 1})")
        element = typing.get_args(_tuple_hint(hint))[0]
        changed = _replace(node[int(head)], element, rest, text, whole)
        return (*node[: int(head)], changed, *node[int(head) + 1 :])
    if not dataclasses.is_dataclass(node):
        raise ConfigError(f"{whole}: the value has no field {head!r}; remove .{'.'.join(path)}")
    hints = typing.get_type_hints(type(node), include_extras=True)
    names = {field.name for field in dataclasses.fields(node)} - {"type"}
    if head not in names:
        raise ConfigError(unknown_name(f"field of {type(node).__name__}", head, names))
    changed = _replace(getattr(node, head), hints[head], rest, text, whole)
    return dataclasses.replace(node, **{head: changed})  # type: ignore[type-var]


def _holds_classes(hint: Any) -> bool:
    """Returns whether a field that now holds text may hold a configuration class instead."""
    return HistoryEncoder in typing.get_args(typing.get_args(hint)[0]) if typing.get_args(hint) else False


def _tuple_hint(hint: Any) -> Any:
    """Returns the tuple type in `Annotated[tuple[...], ...]` or `tuple[...] | None`."""
    if typing.get_origin(hint) is tuple:
        return hint
    return next((found for found in map(_tuple_hint, typing.get_args(hint)) if found is not None), None)


def _replace_error(whole: str, error: pydantic.ValidationError) -> typing.NoReturn:
    raise ConfigError(explain(whole, error)) from None


def parse_literal(text: str) -> Any:
    """Parses `(1, 2)` and `[1, 2]` as tuples and `Class(field=value)` as that class; returns anything else as text."""
    stripped = text.strip()
    if stripped == "None":
        return None
    if not (stripped.startswith(("(", "[")) or stripped.endswith(")")):
        return text
    try:
        return _construct(ast.parse(stripped, mode="eval").body)
    except SyntaxError:
        return text


def _construct(node: ast.expr) -> Any:
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_construct(element) for element in node.elts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id not in CLASSES:
            raise ConfigError(unknown_name("configuration class", node.func.id, CLASSES))
        arguments = [_construct(argument) for argument in node.args]
        keywords = {keyword.arg or "": _construct(keyword.value) for keyword in node.keywords}
        return CLASSES[node.func.id](*arguments, **keywords)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ConfigError(
            f"invalid value {ast.unparse(node)!r} (expected a number, a string, a list or a configuration class)"
        ) from None
