"""Recognises how a JSON file arranges its objects: one per line, one array, or objects over several lines."""

from __future__ import annotations

import json

from twotower_tf.tables import input_files, text_encoding
from twotower_tf.tables.input_files import InputFile

LINES = "newline_delimited"
ARRAY = "array"
DOCUMENTS = "unstructured"  # objects that follow each other, each over several lines
_START = 1 << 20  # bytes, within which the first object of DOCUMENTS ends


def find_layout(source: InputFile) -> str:
    """Returns the layout of a JSON file by its first bytes, as DuckDB names it (`format` of read_json_objects).

    Raises:
        DataError: for a file that cannot be read.
    """
    with input_files.reading(source), text_encoding.open_text(source) as file:
        start = file.read(_START).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        # of objects, rather than a line with one array
        return ARRAY if start[1:].lstrip()[:1] in (b"{", b"]", b"") else LINES
    first = start.split(b"\n", 1)[0]
    return DOCUMENTS if start.startswith(b"{") and not _is_json(first) and _begins_with_object(start) else LINES


def is_whole(source: InputFile) -> bool:
    """Tests whether a file can only be read as a whole: JSON that is not one object per line."""
    return source.suffix in input_files.JSON and find_layout(source) != LINES


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _begins_with_object(start: bytes) -> bool:
    try:
        found, _ = json.JSONDecoder().raw_decode(start.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict)
