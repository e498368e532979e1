"""Fields that hold one of several configuration classes, where classes may be registered later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union

import pydantic
import pydantic_core
from pydantic_core import core_schema


class OpenUnion:
    """Annotates a field whose value is an instance of one of the registered classes, chosen by its field `type`.

    The classes are looked up at each validation, so a class that is registered later is accepted without a change to
    the class that has the field.

    Attributes:
        list_classes: returns the classes that are registered now, at least two.
    """

    def __init__(self, list_classes: Callable[[], Sequence[type]]) -> None:
        self.list_classes = list_classes
        self._adapters: dict[tuple[type, ...], pydantic.TypeAdapter[Any]] = {}

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Returns the schema of the field; pydantic calls it."""
        return core_schema.with_info_plain_validator_function(self._validate)

    def _validate(self, value: Any, info: core_schema.ValidationInfo) -> Any:
        classes = tuple(self.list_classes())
        if classes not in self._adapters:
            union = Annotated[Union[classes], pydantic.Field(discriminator="type")]  # type: ignore[valid-type]  # noqa: UP007
            self._adapters[classes] = pydantic.TypeAdapter(union)
        if info.mode == "json":  # where lists stand for tuples
            return self._adapters[classes].validate_json(pydantic_core.to_json(value))
        return self._adapters[classes].validate_python(value)
