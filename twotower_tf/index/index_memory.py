"""How much memory an index takes, said before it is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from twotower_tf.index.scann.tuning import SAMPLES

_FLOAT = 4
_ID_BYTES = 160  # of an id of about twenty characters: text, its place in the array and in the lookup table
_SCORES = 64 << 20  # blocks of scores of exact search, and the masks beside them, for each thread
_TRAINING_COPIES = 3  # of ScaNN's sample: as it is, less its partition's centre, and what is made of them
_TRAINING_SAMPLE = 250_000


@dataclass(frozen=True)
class Estimate:
    """Bytes of an index, without those of Python and its libraries.

    Attributes:
        size: items.
        dim: of their vectors.
        kind: of the index.
        build: at most while it is built and tuned, the vectors given among them.
        answer: while it answers.
    """

    size: int
    dim: int
    kind: Literal["exact", "scann"]
    build: int
    answer: int

    def __str__(self) -> str:
        return (
            f"index: {self.kind}, {self.size:,} items of {self.dim} dimensions: about {_told(self.build)} of memory "
            f"to build it, {_told(self.answer)} to answer from it"
        )


def estimate(size: int, dim: int, kind: Literal["exact", "scann"], threads: int) -> Estimate:
    """Estimates the memory of an index over `size` vectors [size, dim] float32."""
    vectors, ids, scores = size * dim * _FLOAT, size * _ID_BYTES, threads * _SCORES
    if kind == "exact":
        return Estimate(size, dim, kind, build=vectors + ids, answer=vectors + ids + scores)
    quantized = size * (dim // 2 + 12)  # half a byte for each dimension; partition and place of each item
    training = _TRAINING_COPIES * min(size, _TRAINING_SAMPLE) * dim * _FLOAT + SAMPLES * dim * _FLOAT
    # ScaNN keeps a copy of the vectors. A loaded index has that one; what is mapped of the file may leave memory.
    answer = vectors + quantized + ids + scores
    return Estimate(size, dim, kind, build=answer + vectors + training, answer=answer)


def _told(size: int) -> str:
    for unit, step in (("GB", 10**9), ("MB", 10**6)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size / 1000:.1f} kB"
