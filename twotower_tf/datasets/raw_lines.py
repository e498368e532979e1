"""Reads publishers' line files; every error names the file and the line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from twotower_tf.errors import DataError


def require_file(source: Path, *names: str) -> Path:
    """Returns the first of `names` that exists in the directory `source`.

    Raises:
        DataError: where none does.
    """
    if not source.is_dir():
        raise DataError(f"--source: invalid directory '{source}' (expected the directory with {' or '.join(names)})")
    for name in names:
        if (source / name).is_file():
            return source / name
    raise DataError(
        f"--source: no {' or '.join(names)} in '{source}' (expected the directory with the publisher's files)"
    )


def read_lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Yields line numbers from 1 and lines without line ends; blank lines are skipped.

    Raises:
        DataError: for bytes that are not text in `encoding`, with the line.
    """
    number = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode(encoding).rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: not {encoding} text: {error.reason}") from None
            if text.strip():
                yield number, text


def split_lines(
    path: Path, separator: str, fields: int, encoding: str = "utf-8", header: str = ""
) -> Iterator[tuple[int, list[str]]]:
    """Splits the lines of `path` into exactly `fields` texts; with `header`, after that first line.

    Raises:
        DataError: for another header or another number of fields, with the line.
    """
    rows = read_lines(path, encoding)
    if header:
        first = next(rows, (1, ""))[1].removeprefix("\ufeff")
        if first != header:
            raise DataError(f"{path}:1: invalid header {first[:200]!r} (expected {header!r})")
    for number, line in rows:
        values = line.split(separator)
        if len(values) != fields:
            raise DataError(
                f"{path}:{number}: invalid line {line[:200]!r} (expected {fields} fields separated by {separator!r}, "
                f"got {len(values)})"
            )
        yield number, values


def parse_integer(text: str, path: Path, number: int, field: str) -> int:
    """Parses `text` as an integer.

    Raises:
        DataError: where it is not an integer.
    """
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{path}:{number}: {field}: invalid value {text!r} (expected a whole number)") from None
