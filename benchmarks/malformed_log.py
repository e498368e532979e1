"""Damages a share of a log's rows, in the ways that logs are found damaged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

Fields = list[bytes]

# positions of columns of `avazu_log`: click, hour, ..., device_id
_DAMAGE: tuple[Callable[[Fields], Fields], ...] = (
    lambda row: [b"maybe", *row[1:]],  # a label that is not 0 or 1
    lambda row: [row[0], b"yesterday", *row[2:]],  # a time of another form
    lambda row: [*row[:11], b"", *row[12:]],  # no user
    lambda row: row[:7],  # too few fields
    lambda row: [*row, b"x", b"y"],  # too many
    lambda row: [*row[:4], b"\xff\xfe", *row[5:]],  # not UTF-8
    lambda row: [*row[:5], b'"' + row[5], *row[6:]],  # a quote that is not closed
)


def write(clean: Path, path: Path, share: float, seed: int = 17) -> None:
    """Copies an Avazu-shaped log; so large a share of its rows is damaged, each in one of seven ways."""
    rng = random.Random(seed)
    with clean.open("rb") as source, path.open("wb") as out:
        out.write(source.readline())
        for line in source:
            if rng.random() < share:
                line = b",".join(rng.choice(_DAMAGE)(line.rstrip(b"\n").split(b","))) + b"\n"
            out.write(line)
