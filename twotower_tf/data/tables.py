"""Tables on DuckDB: every format becomes one table whose rows stand in input order.

Delimited text, JSON lines and TFRecords are read as text and typed later, by the role of a column; nothing is lost to a
guessed type. Records that are no records (wrong field count, broken quotes, no JSON, bytes that are not UTF-8) are set
aside with their file and line.
"""

from __future__ import annotations

import bisect
import glob
import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.data import files, lines, repair, schema_misfits, tfrecords
from twotower_tf.data.engine import Cluster
from twotower_tf.data.files import Source
from twotower_tf.data.values import literal, quoted, text_sql
from twotower_tf.errors import DataError

_PLAIN = "VARCHAR"

Wanted = Callable[[str], bool]


@dataclass(frozen=True)
class Column:
    """A column in DuckDB: its identifier and type there."""

    identifier: str
    kind: str


@dataclass
class Table:
    """An input table in DuckDB; `rowid` is the row's place, from 0.

    Attributes:
        name: of the DuckDB table; besides the columns it has `source`, the position of the row's file in `sources`.
        sources: the files.
        columns: those that were read, by their name in the files.
        known: every column name of the files.
        malformed: records set aside.
        lacking: columns that some of the files have not, and the first such file.
        starts: place of each file's first row, and the number of rows at the end.
    """

    name: str
    sources: Sequence[Source]
    columns: dict[str, Column]
    known: list[str]
    malformed: list[lines.Malformed] = field(default_factory=list)
    lacking: dict[str, Source] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return self.starts[-1]

    def text(self, name: str, alias: str = "") -> str:
        """SQL of a column's canonical text; NULL where there is no value."""
        column = self.columns[name]
        return text_sql(f"{alias}.{column.identifier}" if alias else column.identifier, column.kind)

    def locate(self, place: int) -> tuple[int, int]:
        """The position of a row's file in `sources`, and the row's among the file's good records, from 0."""
        index = bisect.bisect_right(self.starts, place, hi=len(self.sources)) - 1
        return index, place - self.starts[index]


def read(connection: duckdb.DuckDBPyConnection, name: str, sources: Sequence[Source], wanted: Wanted) -> Table:
    """Reads the columns that are `wanted` (told by their name) of the files into the table `name`.

    Columns that some file lacks are NULL there; whether that is acceptable is the caller's to decide (`known`).

    Raises:
        DataError: for a file that cannot be read.
    """
    if isinstance(connection, Cluster):
        return connection.read_table(name, sources, wanted)
    if sources[0].suffix in files.PARQUET:
        table = _read_parquet(connection, name, sources, wanted)
    elif sources[0].suffix in files.JSON_LINES:
        table = _read_json(connection, name, sources, wanted)
    elif sources[0].suffix in files.TFRECORDS:
        table = _read_tfrecords(connection, name, sources, wanted)
    else:
        table = _read_delimited(connection, name, sources, wanted)
    counts = dict(connection.execute(f"SELECT source, count(*) FROM {name} GROUP BY source").fetchall())
    sizes = [counts.get(position, 0) for position in range(len(sources))]
    table.starts = [0, *itertools.accumulate(sizes)]
    return table


def _select(names: Sequence[str], wanted: Wanted, partition: Sequence[str]) -> dict[str, Column]:
    chosen = [name for name in [*names, *partition] if wanted(name)]
    return {name: Column(f"c{position}", _PLAIN) for position, name in enumerate(chosen)}


def lacking_columns(sources: Sequence[Source], names: Sequence[Collection[str] | None]) -> dict[str, Source]:
    """Columns that not every file has (None: a file without content), with the first that lacks it."""
    present = [(source, has) for source, has in zip(sources, names, strict=True) if has is not None]
    known = dict.fromkeys(name for _, has in present for name in has)
    return {name: source for name in known for source, has in reversed(present) if name not in has}


def _partition_keys(sources: Sequence[Source], names: Collection[str]) -> list[str]:
    keys: dict[str, None] = {}
    for source in sources:
        keys.update({key: None for key, _ in source.partition if key not in names})
    return list(keys)


def _positions(sources: Sequence[Source], positions: Sequence[int]) -> str:
    """SQL: the position of the row's file, from the reader's `filename`."""
    if len(positions) == 1:
        return f"CAST({positions[0]} AS INTEGER)"
    paths = ", ".join(literal(str(sources[position].path)) for position in positions)
    return f"CAST({positions[0] - 1} + list_position([{paths}], filename) AS INTEGER)"


def _paths(sources: Sequence[Source]) -> str:
    """SQL: the files as a reader takes them, which sees patterns in paths."""
    return ", ".join(literal(glob.escape(str(source.path))) for source in sources)


def _partition_value(sources: Sequence[Source], positions: Sequence[int], key: str) -> str:
    values = [dict(sources[position].partition).get(key) for position in positions]
    if len(set(values)) == 1:
        return "CAST(NULL AS VARCHAR)" if values[0] is None else literal(values[0])
    paths = ", ".join(literal(str(sources[position].path)) for position in positions)
    texts = ", ".join("NULL" if value is None else literal(value) for value in values)
    return f"list_extract([{texts}], list_position([{paths}], filename))"


def _create(connection: duckdb.DuckDBPyConnection, name: str, columns: dict[str, Column]) -> None:
    body = ", ".join(f"{column.identifier} {column.kind}" for column in columns.values())
    connection.execute(f"CREATE TABLE {name} (source INTEGER{', ' if body else ''}{body})")


def _unreadable(sources: Sequence[Source], error: Exception) -> DataError:
    message = " ".join(str(error).split())
    at_fault = [source.name for source in sources if str(source.path) in message] or [sources[0].name]
    return DataError(f"{at_fault[0]}: cannot be read: {message[:300]}")


# --- delimited text -----------------------------------------------------------------------------------------------


def _read_delimited(
    connection: duckdb.DuckDBPyConnection, name: str, sources: Sequence[Source], wanted: Wanted
) -> Table:
    """Reads the files; those in which a broken record took others with it are repaired and read again."""
    for source in sources:
        files.check_archive(source)
    broken: list[lines.Malformed] = []
    found = _scan_delimited(connection, name, sources, wanted)
    while isinstance(found, list):
        connection.execute(f"DROP TABLE {name}")
        sources = list(sources)
        for position in found:
            sources[position], records = repair.repaired(sources[position], work_directory(connection))
            broken += records
        found = _scan_delimited(connection, name, sources, wanted)
    found.malformed = broken + found.malformed
    return found


def _scan_delimited(
    connection: duckdb.DuckDBPyConnection, name: str, sources: Sequence[Source], wanted: Wanted
) -> Table | list[int]:
    """The table, or the positions of files to repair first."""
    heads = [files.head(source) for source in sources]
    known: dict[str, None] = {}
    for header in heads:
        known.update(dict.fromkeys(header[0] if header else ()))
    partition = _partition_keys(sources, known)
    columns = _select(list(known), wanted, partition)
    _create(connection, name, columns)
    malformed: list[lines.Malformed] = []
    groups = itertools.groupby(range(len(sources)), key=lambda position: heads[position])
    for header, members in groups:  # consecutive files with one header: one scan
        positions = list(members)
        if header is None:
            continue
        names, delimiter = header
        paths = _paths([sources[position] for position in positions])
        fields = ", ".join(f"{literal(f'f{index}')}: 'VARCHAR'" for index in range(len(names)))
        values = [
            f"f{names.index(column)}"
            if column in names
            else _partition_value(sources, positions, column)
            if column in partition
            else "NULL"
            for column in columns
        ]
        scan = (
            f"read_csv([{paths}], columns={{{fields}}}, header={'false' if sources[0].columns else 'true'}, "
            f"auto_detect=false, delim={literal(delimiter)}, "
            "quote='\"', escape='\"', filename=true, store_rejects=true, rejects_limit=0)"
        )
        try:
            connection.execute(
                f"INSERT INTO {name} SELECT {', '.join([_positions(sources, positions), *values])} FROM {scan}"
            )
        except duckdb.Error as error:
            mixed_ends = [at for at in positions if "invalid state" in str(error) and _repairable(sources[at], names)]
            mixed_ends = [at for at in mixed_ends if str(sources[at].path) in str(error)]
            if mixed_ends:
                return mixed_ends
            raise _unreadable([sources[position] for position in positions], error) from None
        malformed += lines.rejected(connection, [sources[position] for position in positions])
        swallowed = {record.source.path for record in malformed if record.lines}
        suspects = [at for at in positions if sources[at].path in swallowed and _repairable(sources[at], names)]
        if suspects:
            return suspects
    lacking = lacking_columns(sources, [header[0] if header else None for header in heads])
    return Table(name, sources, columns, [*known, *partition], malformed, lacking=lacking)


def _repairable(source: Source, names: Sequence[str]) -> bool:
    """Whether a file can be repaired and is not yet; in a single column an empty line would be a row."""
    return source.original is None and len(names) > 1


def work_directory(connection: duckdb.DuckDBPyConnection) -> Path:
    """Where this DuckDB spills, and files may be put that last as long as it."""
    ((directory,),) = connection.execute("SELECT current_setting('temp_directory')").fetchall()
    return Path(directory).parent / "work"


# --- JSON lines ---------------------------------------------------------------------------------------------------


def _read_json(connection: duckdb.DuckDBPyConnection, name: str, sources: Sequence[Source], wanted: Wanted) -> Table:
    staged = f"{name}_lines"
    for source in sources:
        files.check_archive(source)
    paths = _paths(sources)
    scan = (
        f"read_csv([{paths}], columns={{'line': 'VARCHAR'}}, header=false, auto_detect=false, delim='\\x01', quote='', "
        "escape='', filename=true, store_rejects=true, rejects_limit=0)"
    )
    positions = list(range(len(sources)))
    try:
        connection.execute(
            f"CREATE TABLE {staged} AS SELECT {_positions(sources, positions)} AS source, line, "
            f"coalesce(CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' END, false) AS good FROM {scan}"
        )
    except duckdb.Error as error:
        raise _unreadable(sources, error) from None
    malformed = lines.rejected(connection, sources)
    malformed += lines.not_json(connection, staged, sources)
    keys = connection.execute(
        f"SELECT key, min(place) FROM (SELECT unnest(json_keys(line)) AS key, rowid AS place FROM {staged} WHERE good) "
        "GROUP BY key ORDER BY 2, 1"
    ).fetchall()
    known = [str(key) for key, _ in keys]
    partition = _partition_keys(sources, known)
    columns = _select(known, wanted, partition)
    _create(connection, name, columns)
    values = [
        f"list_extract([{', '.join(_nullable(dict(source.partition).get(column)) for source in sources)}], source + 1)"
        if column in partition
        else _json_text(column)
        for column in columns
    ]
    connection.execute(
        f"INSERT INTO {name} SELECT {', '.join(['source', *values])} FROM {staged} WHERE good ORDER BY rowid"
    )
    connection.execute(f"DROP TABLE {staged}")
    return Table(name, sources, columns, [*known, *partition], malformed)


def _nullable(text: str | None) -> str:
    return "NULL" if text is None else literal(text)


def _json_text(column: str) -> str:
    """SQL: the canonical text of a member; a list's elements are joined by `|`."""
    path = literal('$."' + column.replace("\\", "\\\\").replace('"', '\\"') + '"')
    value = f"json_extract_string(line, {path})"
    number = f"TRY_CAST({value} AS DOUBLE)"
    joined = f"array_to_string(json_extract_string(line, {path[:-1]}[*]'), '|')"
    return (
        f"CASE json_type(line, {path}) "
        f"WHEN 'DOUBLE' THEN {text_sql(number, 'DOUBLE')} "
        f"WHEN 'ARRAY' THEN nullif({joined}, '') "
        f"ELSE nullif({value}, '') END"
    )


# --- TFRecord of tf.Example ---------------------------------------------------------------------------------------


def _read_tfrecords(
    connection: duckdb.DuckDBPyConnection, name: str, sources: Sequence[Source], wanted: Wanted
) -> Table:
    """Reads the examples batch by batch; a column begins to exist with the first example that has it."""
    known: dict[str, None] = {}
    columns: dict[str, Column] = {}
    malformed: list[lines.Malformed] = []
    connection.execute(f"CREATE TABLE {name} (source INTEGER)")

    def add(column: str) -> None:
        columns[column] = Column(f"c{len(columns)}", _PLAIN)
        connection.execute(f"ALTER TABLE {name} ADD COLUMN {columns[column].identifier} {_PLAIN}")

    for position, source in enumerate(sources):
        for rows, bad in tfrecords.batches(source):
            malformed += bad
            found = dict.fromkeys(key for row in rows for key in row)
            for key in found:
                if key not in known and wanted(key):
                    add(key)
            known |= found
            read = [key for key in found if key in columns]
            table = pa.table(
                {"source": pa.array([position] * len(rows), pa.int32())}
                | {columns[key].identifier: pa.array([row.get(key) for row in rows], pa.string()) for key in read}
            )
            connection.register("tfrecord_batch", table)
            connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM tfrecord_batch")
            connection.unregister("tfrecord_batch")
    partition = _partition_keys(sources, known)
    for key in filter(wanted, partition):
        add(key)
        values = ", ".join(_nullable(dict(source.partition).get(key)) for source in sources)
        connection.execute(f"UPDATE {name} SET {columns[key].identifier} = list_extract([{values}], source + 1)")
    return Table(name, sources, columns, [*known, *partition], malformed)


# --- Parquet ------------------------------------------------------------------------------------------------------


def _read_parquet(connection: duckdb.DuckDBPyConnection, name: str, sources: Sequence[Source], wanted: Wanted) -> Table:
    known: dict[str, None] = {}
    schemas = []
    for source in sources:
        try:
            schemas.append(pq.read_schema(source.path))
        except Exception as error:
            raise DataError(f"{source.name}: cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None
        known.update(dict.fromkeys(schemas[-1].names))
    check_types(sources, schemas, wanted)
    partition = _partition_keys(sources, known)
    columns = _select(list(known), wanted, partition)
    paths = _paths(sources)
    scan = f"read_parquet([{paths}], union_by_name=true, filename=true, hive_partitioning=false, binary_as_string=true)"
    positions = list(range(len(sources)))
    values = [
        f"{_partition_value(sources, positions, name) if name in partition else quoted(name)} AS {column.identifier}"
        for name, column in columns.items()
    ]
    query = f"SELECT {', '.join([f'{_positions(sources, positions)} AS source', *values])} FROM {scan}"
    try:
        connection.execute(f"CREATE TABLE {name} AS {query}")
    except duckdb.Error as error:
        raise _unreadable(sources, error) from None
    kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {name}").fetchall()}
    columns = {key: replace(column, kind=kinds[column.identifier]) for key, column in columns.items()}
    return Table(
        name,
        sources,
        columns,
        [*known, *partition],
        lacking=lacking_columns(sources, [schema.names for schema in schemas]),
    )


def check_types(sources: Sequence[Source], schemas: Sequence[pa.Schema], wanted: Wanted) -> None:
    """Refuses a column that is, say, text in one file and a number in another.

    Raises:
        DataError: naming the file, the column and both types.
    """
    for _, misfit in schema_misfits.type_misfits(sources, schemas, wanted):
        raise DataError(misfit)
