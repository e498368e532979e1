"""Reading publishers' line files: every problem names the file and the line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from twotower_tf.errors import DataError


def require_file(source: Path, *names: str) -> Path:
    """The first of `names` that is in the directory `source`.

    Raises:
        DataError: where none is.
    """
    if not source.is_dir():
        raise DataError(f"{source}: is a file; --source is the directory with {' or '.join(names)}")
    for name in names:
        if (source / name).is_file():
            return source / name
    raise DataError(f"{source}: has no {' or '.join(names)}; --source is the directory with the publisher's files")


def read_lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines without their ends; blank lines are left out.

    Raises:
        DataError: for bytes that are not text in `encoding`, with the line.
    """
    number = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode(encoding).rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: is not {encoding} text: {error.reason}") from None
            if text.strip():
                yield number, text


def split_lines(
    path: Path, separator: str, fields: int, encoding: str = "utf-8", header: str = ""
) -> Iterator[tuple[int, list[str]]]:
    """The lines of `path`, split into exactly `fields` texts; with `header`, after that first line.

    Raises:
        DataError: for another header or another number of fields, with the line.
    """
    rows = read_lines(path, encoding)
    if header:
        first = next(rows, (1, ""))[1].removeprefix("\ufeff")
        if first != header:
            raise DataError(f"{path}:1: the header must be {header!r}; came {first[:200]!r}")
    for number, line in rows:
        values = line.split(separator)
        if len(values) != fields:
            came = f"{len(values)}: {line[:200]!r}"
            raise DataError(f"{path}:{number}: {fields} fields separated by {separator!r} are needed; came {came}")
        yield number, values


def parse_integer(text: str, path: Path, number: int, field: str) -> int:
    """`text` as an integer.

    Raises:
        DataError: where it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{path}:{number}: {field} is a whole number; came {text!r}") from None
