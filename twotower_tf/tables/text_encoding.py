"""Reads text files of any encoding and line end as UTF-8 with lines that end in LF.

The readers, and everything that counts lines, see UTF-8. Converted on the way, or copied for DuckDB, are files in other
encodings, files whose lines end in CR alone (as old spreadsheets write it), those with blanks between aligned columns,
which become tabs, and those that begin with empty lines, which are moved behind the header: all others keep their
numbers.
"""

from __future__ import annotations

import codecs
import io
import re
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from twotower_tf.errors import DataError
from twotower_tf.tables import input_files
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.read_options import ReadOptions

_START = 1 << 16  # bytes that decide
_BLOCK = 1 << 16
_BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF8_MARK = codecs.BOM_UTF8.decode("latin-1")


class Conversion(NamedTuple):
    """What has to be changed in a file.

    Attributes:
        encoding: that it is in.
        returns: whether its lines end in CR alone.
        gaps: matches the blanks that become a tab, and what is quoted; None where blanks stay.
        begins_empty: whether empty lines are before the header.
    """

    encoding: str
    returns: bool
    gaps: re.Pattern[str] | None = None
    begins_empty: bool = False


def find_conversion(source: InputFile) -> Conversion | None:
    """Returns what has to be changed in a text file; None where it is to be read as it is, or cannot be read."""
    if source.suffix in input_files.PARQUET or source.suffix in input_files.TFRECORDS:
        return None
    try:
        with input_files.open_bytes(source.path) as file:
            start = file.read(_START)
    except input_files.READ_ERRORS:
        return None  # reported where the file is read
    encoding = "utf-16" if start.startswith(_BYTE_ORDER_MARKS) else source.options.text.encoding
    text = start.decode(encoding, "replace") if encoding != "utf-8" else start.decode("latin-1")
    returns = "\r" in text[:-1] and "\n" not in text
    gaps, begins_empty = None, False
    if source.suffix in input_files.DELIMITERS:
        begin = text.removeprefix("\ufeff").removeprefix(_UTF8_MARK)
        begins_empty = not source.columns and begin[:1] in ("\r", "\n") and bool(begin.strip("\r\n"))
        if source.options.aligned:
            quote = re.escape(source.options.quote)
            gaps = re.compile(f"{quote}[^{quote}]*{quote}|[ \t]+" if quote else "[ \t]+")
    found = Conversion(encoding, returns, gaps, begins_empty)
    return found if found != Conversion("utf-8", False) else None


def open_text(source: InputFile) -> IO[bytes]:
    """Opens a text file for reading as UTF-8 with LF (or CR LF) line ends, decompressed.

    Reading raises a `DataError` for bytes that are not in the file's encoding.
    """
    file = input_files.open_bytes(source.path)
    conversion = find_conversion(source)
    return io.BufferedReader(_Decoder(file, source.name, conversion), _BLOCK) if conversion else file


def convert_file(source: InputFile, directory: Path) -> InputFile:
    """Copies a file that has to be changed into `directory`, as UTF-8; returns any other file itself.

    Raises:
        DataError: where it is not in its encoding, or cannot be read.
    """
    if find_conversion(source) is None:
        return source
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{uuid.uuid4().hex}{source.suffix}"
    with input_files.reading(source), open_text(source) as file, path.open("wb") as out:
        shutil.copyfileobj(file, out)
    return replace(source, path=path, options=utf8_options(source), original=source.original or source.path)


def replace_returns(source: InputFile, directory: Path) -> InputFile:
    """Copies a file into `directory` with blanks for the carriage returns inside its lines."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{uuid.uuid4().hex}{source.suffix}"
    with open_text(source) as file, path.open("wb") as out:
        out.writelines(line.rstrip(b"\r\n").replace(b"\r", b" ") + b"\n" for line in file)
    return replace(source, path=path, original=source.original or source.path, repaired=True)


def utf8_options(source: InputFile) -> ReadOptions:
    """Returns a source's options for a converted copy."""
    options = source.options
    delimiter = options.delimiter if options.aligned else options.text.delimiter
    return replace(options, text=replace(options.text, encoding="utf-8", delimiter=delimiter))


class _Decoder(io.RawIOBase):
    """A stream of UTF-8 over a file in another encoding."""

    def __init__(self, file: IO[bytes], name: str, conversion: Conversion) -> None:
        self._file, self._name, self._conversion = file, name, conversion
        plain = conversion.encoding == "utf-8"  # bytes that are not are those of single rows
        self._decoder = codecs.getincrementaldecoder(conversion.encoding)("surrogateescape" if plain else "strict")
        self._errors = "surrogateescape" if plain else "surrogatepass"
        self._left = b""
        self._start: str | None = "" if conversion.begins_empty else None
        self._begun = ""  # line whose end is not read yet

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer; 0 at the end of the file."""
        view = memoryview(buffer)
        while not self._left:
            block = self._file.read(_BLOCK)
            try:
                text = self._decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                encoding = self._conversion.encoding
                raise DataError(
                    f"{self._name}: not {encoding} text: {error.reason}; set data.encoding to that of the file"
                ) from None
            if self._conversion.returns:
                text = text.replace("\r", "\n")
            if self._start is not None:
                text = self._move_header(self._start + text, last=not block)
            if self._conversion.gaps:
                *lines, begun = f"{self._begun}{text}".split("\n")
                text = "".join(f"{self._divide(line)}\n" for line in lines)
                if not block:  # the end
                    text, begun = text + self._divide(begun), ""
                self._begun = begun
            self._left = text.encode("utf-8", self._errors)
            if not block:
                break
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def _move_header(self, text: str, *, last: bool) -> str:
        """Moves the empty lines at the beginning behind the first other one; "" while that one is not whole."""
        begin = text.lstrip("\ufeff\r\n")
        header, end, rest = begin.partition("\n")
        if not end and not last:
            self._start = text
            return ""
        self._start = None
        empty = ("\r\n" if header.endswith("\r") else "\n") * text[: len(text) - len(begin)].count("\n")
        return f"{header}\n{empty}{rest}"

    def _divide(self, line: str) -> str:
        """Divides a line of aligned columns by tabs."""
        assert self._conversion.gaps is not None
        return self._conversion.gaps.sub(lambda found: found[0] if found[0].strip() else "\t", line.strip(" \t\r"))
