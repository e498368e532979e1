"""Columns of Parquet files whose types cannot be read as they are, or do not go together under one name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from twotower_tf.tables.input_files import Source

_DECIMAL_DIGITS = 38


def type_misfits(
    sources: Sequence[Source], schemas: Sequence[pa.Schema], wanted: Callable[[str], bool]
) -> Iterator[tuple[Source, str]]:
    """The files that have another type for a column than the first one that has it, and a line for each column.

    A decimal of more than 38 digits is named too: DuckDB reads it as a double, which does not keep its digits.
    """
    first: dict[str, tuple[str, pa.DataType, Source]] = {}
    for source, schema in zip(sources, schemas, strict=True):
        for each in schema:
            if not wanted(each.name) or pa.types.is_null(each.type):
                continue
            if pa.types.is_decimal256(each.type) and each.type.precision > _DECIMAL_DIGITS:
                yield (
                    source,
                    f"{source.name}: column {each.name!r}: invalid type {each.type} (expected a decimal of at most "
                    f"{_DECIMAL_DIGITS} digits); write it as text",
                )
            kind, known, where = first.setdefault(each.name, (_family(each.type), each.type, source))
            if _family(each.type) != kind:
                yield (
                    source,
                    f"{source.name}: column {each.name!r} is {each.type}, but {known} in {where.name}; "
                    "files of one table have one type for a column",
                )


def _family(kind: pa.DataType) -> str:
    """Types that DuckDB brings together without a change of what is read."""
    types = pa.types
    if types.is_dictionary(kind):
        return _family(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return f"list of {_family(kind.value_type)}"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_string_view)
    if any(is_text(kind) for is_text in texts):
        return "text"
    return "time" if types.is_temporal(kind) else str(kind)
