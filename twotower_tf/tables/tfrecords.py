"""Reads TFRecord files of `tf.Example`: records with checksums, features as canonical texts.

A record is its length, a checksum of the length, the bytes, and a checksum of them
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details). A record with damaged bytes is set
aside by its number; after a damaged length no later record can be found, and the file is an error.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from twotower_tf.errors import DataError
from twotower_tf.tables import input_files
from twotower_tf.tables.crc32c import masked_crc32c
from twotower_tf.tables.csv_records import MalformedRecord
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.values import as_text

_BATCH_RECORDS, _BATCH_BYTES = 4096, 16 << 20
_LONGEST = 1 << 30  # a longer record is a damaged length

Row = dict[str, str | None]


def read_examples(
    source: InputFile, wanted: Callable[[str], bool]
) -> Iterator[tuple[list[Row], list[MalformedRecord]]]:
    """Yields the examples of a file: good ones in order, as texts by feature name (None: missing), and malformed ones.

    Several values of one feature are joined by `|`. Features that are not wanted may have any content, and are None.

    Raises:
        DataError: for a file that is truncated, damaged beyond a record, or not a TFRecord file.
    """
    number = 0
    names: dict[bytes, str | None] = {}
    for payloads, good in _checked(source):
        rows, bad = [], []
        for payload, whole in zip(payloads, good, strict=True):
            number += 1
            try:
                if not whole:
                    raise ValueError("damaged: its checksum does not match")
                rows.append(_row(payload, names, wanted, source.options.null_values))
            except ValueError as error:
                bad.append(MalformedRecord(source, number, str(error)))
        yield rows, bad


# https://github.com/tensorflow/tensorflow/blob/v2.20.0/tensorflow/core/example/feature.proto, where a map is a list of
# entries; names of features are bytes, for they need not be UTF-8
_PROTO = """
name: "twotower/example.proto" package: "twotower" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type {
  name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type_name: ".twotower.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type_name: ".twotower.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type_name: ".twotower.Int64List" oneof_index: 0 }
}
message_type {
  name: "Entry"
  field { name: "key" number: 1 type: TYPE_BYTES }
  field { name: "value" number: 2 type_name: ".twotower.Feature" }
}
message_type {
  name: "Features" field { name: "feature" number: 1 label: LABEL_REPEATED type_name: ".twotower.Entry" }
}
message_type { name: "Example" field { name: "features" number: 1 type_name: ".twotower.Features" } }
"""


def _build_class() -> Any:
    """Builds the class of `tf.Example` messages, without TensorFlow."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("twotower.Example"))


_EXAMPLE = _build_class()


def _name(key: bytes) -> str | None:
    """Decodes a feature's name; None where it is not UTF-8, so that no configuration can name it."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


def _row(
    payload: bytes, names: dict[bytes, str | None], wanted: Callable[[str], bool], null_values: Collection[str]
) -> Row:
    """Parses one example into texts, without `null_values`; `names` caches decoded names."""
    try:
        entries = _EXAMPLE.FromString(payload).features.feature
    except DecodeError:
        raise ValueError("not a tf.Example") from None
    row: Row = {}
    for entry in entries:
        if entry.key not in names:
            names[entry.key] = _name(entry.key)
        name, feature = names[entry.key], entry.value
        if name is None:
            continue
        if not wanted(name):
            row[name] = None
            continue
        kind = feature.WhichOneof("kind")
        values = getattr(feature, kind).value if kind else ()
        try:
            if kind == "float_list":
                texts = [as_text(np.float32(value)) for value in values]
            else:
                texts = [as_text(value) for value in values]
        except UnicodeDecodeError:
            raise ValueError(f"feature {name!r}: not UTF-8") from None
        row[name] = "|".join(text for text in texts if text and text not in null_values) or None
    return row


def _checked(source: InputFile) -> Iterator[tuple[list[bytes], list[bool]]]:
    """Yields batches of payloads, and whether the checksum of each matches."""
    done = 0
    with input_files.reading(source), input_files.open_bytes(source.path) as file:
        while batch := read_records(file, source, done):
            for number, (length, length_sum, _, _) in enumerate(batch, done + 1):
                if masked_crc32c(length) != length_sum:
                    raise DataError(
                        f"{source.name} record {number}: the length is damaged, so that no later record can be found; "
                        "write the file again"
                    )
            yield (
                [payload for *_, payload, _ in batch],
                [masked_crc32c(payload) == sum_ for *_, payload, sum_ in batch],
            )
            done += len(batch)


def read_records(file: IO[bytes], source: InputFile, done: int) -> list[tuple[bytes, int, bytes, int]]:
    """Reads the next records unchecked: length, its checksum, bytes, their checksum.

    Raises:
        DataError: where the file ends within a record; `done` records were read before.
    """
    found: list[tuple[bytes, int, bytes, int]] = []
    size = 0
    while len(found) < _BATCH_RECORDS and size < _BATCH_BYTES:
        header = file.read(12)
        if not header:
            break
        length, length_sum = struct.unpack("<QI", header) if len(header) == 12 else (0, 0)
        if length > _LONGEST:
            # reported as a damaged length, with the records before it
            found.append((header[:8], length_sum ^ 1, b"", 0))
            break
        body = file.read(length + 4)
        if len(header) < 12 or len(body) < length + 4:
            number = done + len(found) + 1
            kind = "truncated in" if number > 1 else "not a TFRecord file, or truncated in"
            raise DataError(f"{source.name}: {kind} record {number}; write the file again")
        found.append((header[:8], length_sum, body[:-4], struct.unpack("<I", body[-4:])[0]))
        size += length
    return found
