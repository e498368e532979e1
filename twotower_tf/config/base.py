"""Base of the configuration classes: frozen dataclasses whose fields are validated, with errors as `ConfigError`."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import pydantic
import pydantic.dataclasses
from pydantic import Field
from typing_extensions import dataclass_transform

from twotower_tf.errors import ConfigError, unknown_name

MAX_BUCKETS = 2**31 - 1  # bucket ids are stored as int32

T = TypeVar("T")

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Buckets = Annotated[int, Field(gt=1, le=MAX_BUCKETS)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]

CLASSES: dict[str, type] = {}  # every configuration class by name


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def config_class(cls: type[T]) -> type[T]:
    """Makes a frozen dataclass whose fields are validated by their annotations.

    The constructor raises a `ConfigError` for an invalid field.
    """
    checked = pydantic.dataclasses.dataclass(
        frozen=True, config=pydantic.ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=False)
    )(cls)
    construct = checked.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise ConfigError(explain(cls.__name__, error)) from None

    checked.__init__ = __init__  # type: ignore[method-assign]
    CLASSES[cls.__name__] = checked
    return typing.cast("type[T]", checked)


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def explain(where: str, error: pydantic.ValidationError) -> str:
    """Formats the first validation error of pydantic as one line: field, given value, accepted values."""
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] in _UNKNOWN), problems[0])
    path = [str(part) for part in first["loc"]]
    if path and path[0].isdigit() and where in CLASSES:  # a positional argument
        fields = [field.name for field in dataclasses.fields(CLASSES[where])]
        path[0] = fields[int(path[0])] if int(path[0]) < len(fields) else path[0]
    if first["type"] in _UNKNOWN:
        owner, fields = _owner(where, path[:-1])
        return f"{'.'.join([where, *path[:-1]])}: {unknown_name(f'field of {owner}', path[-1], fields)}"
    if first["type"] == "missing" or first["type"] == "missing_argument":
        return f"{where}: missing field '{'.'.join(path)}'"
    field = ".".join([where, *path])
    if first["type"] == "union_tag_invalid":
        return f"{field}: invalid class {first['ctx']['tag']} (expected one of {first['ctx']['expected_tags']})"
    return f"{field}: invalid value {first['input']!r} ({_expected(first['msg'])})"


_TYPES = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "True or False",
    "a valid tuple": "a tuple, such as (10, 20) or (10,)",
}


def _expected(message: str) -> str:
    """Rewrites pydantic's "Input should be greater than 0" as "expected a number greater than 0"."""
    match = re.fullmatch(r"(Input|String|Tuple) should (be|have|match) (.*)", message, re.DOTALL)
    if match is None:
        return message
    noun, verb = match[1].lower(), match[2]
    rest = re.sub(r"( after validation|, unable to ).*", "", match[3])
    if verb == "be":
        rest = _TYPES.get(rest, rest)
        return f"expected {'a number ' if rest.startswith(('greater', 'less')) else ''}{rest}"
    return f"expected a {noun} {'with' if verb == 'have' else 'matching'} {rest}"


def _owner(where: str, path: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the configuration class that the path of an error ends in, and its field names."""
    name = next((part for part in reversed(path) if part in CLASSES), where)
    cls = CLASSES.get(name, CLASSES["ExperimentConfig"])
    for part in path:
        hint = typing.get_type_hints(cls).get(part)
        if dataclasses.is_dataclass(hint):
            cls, name = typing.cast(type, hint), hint.__name__  # type: ignore[union-attr]
    return name, [field.name for field in dataclasses.fields(cls)]
