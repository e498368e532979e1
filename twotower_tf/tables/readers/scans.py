"""Helpers of the readers of all formats: selection of columns, and SQL of a file's position and directory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from twotower_tf.errors import DataError
from twotower_tf.sql import Connection, file_pattern, quote_literal
from twotower_tf.tables import duckdb_engine
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Column, Wanted

TEXT = "VARCHAR"
# Options of `read_csv`. A quarter of a buffer is a batch of rows. Batches below a row group are copied together, which
# takes half as long as reading. 48 MiB make a row group of 122,880 rows out of lines of up to 102 bytes.
COLLECT_REJECTED = f"store_rejects=true, rejects_limit=0, buffer_size={48 << 20}"
FILE_COLUMN = "__twotower_file"  # column with the path of a row's file; unlike any name in a file


def select_columns(names: Sequence[str], wanted: Wanted, partition: Sequence[str]) -> dict[str, Column]:
    """Selects the wanted columns by name: those of the files, then those of their directories."""
    chosen = [name for name in [*names, *partition] if is_usable_name(name) and wanted(name)]
    return {name: Column(f"c{position}", TEXT) for position, name in enumerate(chosen)}


def is_usable_name(name: str) -> bool:
    """Tests whether SQL accepts a column's name; other columns are ignored, for no configuration names them."""
    return bool(name) and "\0" not in name


def find_case_conflicts(names: Iterable[str], wanted: Wanted) -> list[list[str]]:
    """Finds groups of columns whose names differ in case only, of which some are wanted."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.lower(), []).append(name)
    return [group for group in groups.values() if len(group) > 1 and any(map(wanted, group))]


def find_missing_columns(sources: Sequence[InputFile], names: Sequence[Collection[str] | None]) -> dict[str, InputFile]:
    """Finds columns that not every file has (None: an empty file), with the first file without it."""
    present = [(source, has) for source, has in zip(sources, names, strict=True) if has is not None]
    known = dict.fromkeys(name for _, has in present for name in has)
    return {name: source for name in known for source, has in reversed(present) if name not in has}


def list_partition_keys(sources: Sequence[InputFile], names: Collection[str]) -> list[str]:
    """Returns the keys of directories such as `dt=20260131/` that are not columns of the files."""
    keys: dict[str, None] = {}
    for source in sources:
        keys.update({key: None for key, _ in source.partition if key not in names})
    return list(keys)


def file_position(sources: Sequence[InputFile], positions: Sequence[int]) -> str:
    """Returns SQL for the position of the row's file, from the reader's column `FILE_COLUMN`."""
    if len(positions) == 1:
        return f"CAST({positions[0]} AS INTEGER)"
    paths = ", ".join(quote_literal(str(sources[position].path)) for position in positions)
    return f"CAST({positions[0] - 1} + list_position([{paths}], {FILE_COLUMN}) AS INTEGER)"


def file_list(sources: Sequence[InputFile]) -> str:
    """Returns SQL of a list of the files, escaped for readers that expand patterns in paths."""
    return ", ".join(file_pattern(source.path) for source in sources)


def compression(source: InputFile) -> str:
    """Returns DuckDB's name of a text file's compression; by itself it takes that of the suffix alone."""
    return "gzip" if source.compressed else "none"


def partition_value(sources: Sequence[InputFile], positions: Sequence[int], key: str) -> str:
    """Returns SQL for the value that the directory of a row's file has for a key."""
    some = [sources[position] for position in positions]
    values = {dict(source.partition).get(key) for source in some}
    if len(values) == 1:
        (value,) = values
        return "CAST(NULL AS VARCHAR)" if value is None else quote_literal(value)
    paths = ", ".join(quote_literal(str(source.path)) for source in some)
    return f"list_extract([{partition_values(some, key)}], list_position([{paths}], {FILE_COLUMN}))"


def partition_values(sources: Sequence[InputFile], key: str) -> str:
    """Returns SQL of a list with the value that each file's directory has for a key."""
    values = [dict(source.partition).get(key) for source in sources]
    return ", ".join("NULL" if value is None else quote_literal(value) for value in values)


def present_text(expression: str, null_values: Collection[str]) -> str:
    """Returns SQL of a text; NULL where it is one of `null_values`."""
    if not null_values:
        return expression
    markers = ", ".join(map(quote_literal, null_values))
    return f"CASE WHEN {expression} IN ({markers}) THEN NULL ELSE {expression} END"


def create_table(connection: Connection, name: str, columns: dict[str, Column]) -> None:
    """Creates an empty table with `source` and the columns."""
    body = ", ".join(f"{column.identifier} {column.kind}" for column in columns.values())
    connection.execute(f"CREATE TABLE {name} (source INTEGER{', ' if body else ''}{body})")


def has_mixed_ends(source: InputFile, error: Exception) -> bool:
    """Tests whether DuckDB's error is about a file with line ends of several kinds."""
    return "invalid state" in str(error) and str(source.path) in str(error)


def build_read_error(sources: Sequence[InputFile], error: Exception) -> Exception:
    """Returns an error that names the file which DuckDB could not read; out of memory or disk, the error itself."""
    if isinstance(error, duckdb_engine.RESOURCE_ERRORS):
        return error
    message = " ".join(str(error).split())
    at_fault = [source.name for source in sources if str(source.path) in message] or [sources[0].name]
    return DataError(f"{at_fault[0]}: cannot be read: {message[:300]}")
