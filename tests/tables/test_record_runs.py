"""Runs of lines against a reading line by line."""

import io
import random

import pytest

from twotower_tf.tables import record_runs
from twotower_tf.tables.record_runs import PLAIN, RunReader
from twotower_tf.tables.text_marks import CLOSED, OPEN, Marks, scan_line, skip_mark

PIECES = [b"a", b"bc", b",", b",", b'"', b'"', b'""', b"\n", b"\n", b"\r\n", b"\r", b" ", b"\\", "é".encode()]
FIELDS = [b'"a",', b',"b""c",', b'"x\ny",', b',"z"\n', b'\n"q",1\n', b'"w"\r\n', b'"",', b"1,2\n", b'"v"']
QUOTED = [b'"a"'] * 30 + [b'""'] * 9 + [b'","', b'"\n"', b'"b\nc"', b'"d', b'e"', b"f", b'"g""h"', b'"i" ', b""]
MARKS = [Marks(b",", b'"', b'"'), Marks(b",", b'"', b"\\"), Marks(b",", b"", b"")]


def divide(text, marks, longest):
    """Yields each record and its state, reading one line after the other."""
    lines = list(io.BytesIO(text))
    while lines:
        record = [lines.pop(0)]
        state, _ = scan_line(record[0], marks, skip_mark(record[0]))
        while state == OPEN and lines and not (longest and len(b"".join(record)) > longest):
            record.append(lines.pop(0))
            state, _ = scan_line(record[-1], marks, inside=True)
        if longest and state != CLOSED:
            lines = record[1:] + lines
            record = record[:1]
        yield b"".join(record), state if longest or state == OPEN else CLOSED


@pytest.mark.parametrize("marks", MARKS, ids=["doubled", "escaped", "unquoted"])
@pytest.mark.parametrize("longest", [0, 20, 10_000])
@pytest.mark.parametrize("block", [1, 5, 1 << 22])
def test_runs_are_the_records_of_a_reading_by_line(monkeypatch, marks, longest, block):
    monkeypatch.setattr(record_runs, "_BLOCK", block)
    monkeypatch.setattr(record_runs, "_LOOKED_AT", min(block, 1 << 15))
    rng = random.Random(f"{block} {longest}")
    for number in range(400):  # by turns broken anywhere, mostly well-formed, and with quotes around nearly all fields
        text = b"".join(rng.choices(PIECES if number % 2 else FIELDS * 3 + PIECES, k=rng.randint(0, 60)))
        if number % 4 == 3:
            text = b"".join(b",".join(rng.choices(QUOTED, k=3)) + b"\n" for _ in range(rng.randint(1, 20)))
        found = []
        for run in RunReader(io.BytesIO(text), marks, longest):
            if run.state == PLAIN:
                found += [(line, CLOSED) for line in io.BytesIO(run.text)]
            else:
                found.append((run.text, run.state if longest or run.state == OPEN else CLOSED))
        assert found == list(divide(text, marks, longest)), text


def test_quoted_lines_are_runs():
    lines = b'"a","b ""c""",\r\n"","",1\nx,"y",z\n' * 1000
    runs = [*RunReader(io.BytesIO(lines + b'"two\nlines",1\n' + lines), MARKS[0])]
    assert runs == [(lines, PLAIN), (b'"two\nlines",1\n', CLOSED), (lines, PLAIN)]
