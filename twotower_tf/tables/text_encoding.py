"""Reads text files of any encoding and line end as UTF-8 with lines that end in LF.

The readers, and everything that counts lines, see UTF-8. A file in another encoding, or one whose lines end in CR alone
(as old spreadsheets write it), is decoded on the way, or copied for DuckDB.
"""

from __future__ import annotations

import codecs
import io
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


class Conversion(NamedTuple):
    """The encoding of a file that has to be changed, and whether its lines end in CR alone."""

    encoding: str
    returns: bool


def find_conversion(source: InputFile) -> Conversion | None:
    """Returns what has to be changed in a text file; None where it is UTF-8 with LF or CR LF, or cannot be read."""
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
    return Conversion(encoding, returns) if returns or encoding != "utf-8" else None


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
    """Returns a source's options for a copy in UTF-8."""
    return replace(source.options, text=replace(source.options.text, encoding="utf-8"))


class _Decoder(io.RawIOBase):
    """A stream of UTF-8 over a file in another encoding."""

    def __init__(self, file: IO[bytes], name: str, conversion: Conversion) -> None:
        self._file, self._name, self._conversion = file, name, conversion
        self._decoder = codecs.getincrementaldecoder(conversion.encoding)()
        self._left = b""

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
            self._left = text.encode("utf-8", "surrogatepass")
            if not block:
                break
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
