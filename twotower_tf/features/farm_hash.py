"""Computes FarmHash's Fingerprint64 of many texts at once: the hash of TensorFlow's columns of hash buckets.

The function is `farmhashna::Hash64` of https://github.com/google/farmhash, whose values never change. It has one
formula per range of lengths. Each is applied to all texts of its range, in NumPy's unsigned arithmetic, which wraps
around as that of C does. TensorFlow's own operation gives the same values, but loading TensorFlow takes seconds.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower_tf.tables.arrow_numbers import view_as_arrow

Words: TypeAlias = Any  # an array of uint64
Places: TypeAlias = npt.NDArray[np.int64]

_K0, _K1, _K2 = (np.uint64(each) for each in (0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F))
_CAT = np.uint64(0xC6A4A7935BD1E995)
_BLOCK = 64
_EMPTY = pa.Array.from_buffers(
    pa.large_binary(), 1, [None, *view_as_arrow(np.zeros(2, np.int64)).buffers()[1:], pa.py_buffer(b"")]
)[0]
_AT_ONCE = 1 << 15  # texts, whose numbers fit into a core's cache


def compute_fingerprints(texts: pa.Array) -> Words:
    """Returns uint64 `[n]` fingerprints of an Arrow array `[n]` of texts (in UTF-8) or bytes; null is hashed as ""."""
    texts = texts.cast(pa.large_binary()).fill_null(_EMPTY)
    _, offsets, content = texts.buffers()
    found = np.full(len(texts), _K2)  # that of ""
    if not len(texts) or content is None:
        return found
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    buffer = np.frombuffer(content, np.uint8)
    for start in range(0, len(texts), _AT_ONCE):
        _fill(found[start : start + _AT_ONCE], buffer, ends[start : start + _AT_ONCE + 1])
    return found


def _fill(found: Words, content: npt.NDArray[np.uint8], ends: Places) -> None:
    """Writes the fingerprints of texts that are not empty."""
    starts, lengths = ends[:-1], ends[1:] - ends[:-1]
    for shortest, longest, formula in _FORMULAS:
        rows = np.flatnonzero((lengths >= shortest) & (lengths <= longest))
        if len(rows) == len(found):
            found[:] = formula(_Texts(content, starts, lengths))
        elif len(rows):
            found[rows] = formula(_Texts(content, starts[rows], lengths[rows]))


def combine_fingerprints(first: Words, second: Words) -> Words:
    """Returns TensorFlow's FingerprintCat64 of fingerprints, uint64 `[n]`: how a crossed column joins its parts."""
    found = (first ^ _CAT) ^ (_mix(second * _CAT) * _CAT)
    return _mix(_mix(found * _CAT) * _CAT)


class _Texts:
    """Texts `[n]` of one range of lengths, as places in one buffer of bytes."""

    def __init__(self, content: npt.NDArray[np.uint8], starts: Places, lengths: Places) -> None:
        self.content, self.starts, self.lengths = content, starts, lengths
        self.size = lengths.astype(np.uint64)
        self.factor = _K2 + self.size * np.uint64(2)

    def word(self, place: int, kind: str = "<u8") -> Words:
        """Returns the number at a place of each text; a negative place counts from the end."""
        size = np.dtype(kind).itemsize
        everywhere = np.ndarray((len(self.content) - size + 1,), kind, self.content, strides=(1,))
        return everywhere[self.starts + place + (self.lengths if place < 0 else 0)].astype(np.uint64)

    def byte(self, places: Places | int) -> Words:
        """Returns the byte at a place of each text."""
        return self.content[self.starts + places].astype(np.uint64)


def _rotate(value: Words, by: int) -> Words:
    return (value >> np.uint64(by)) | (value << np.uint64(64 - by))


def _mix(value: Words) -> Words:
    return value ^ (value >> np.uint64(47))


def _hash_pair(first: Words, second: Words, factor: Words) -> Words:
    mixed = _mix((first ^ second) * factor)
    return _mix((second ^ mixed) * factor) * factor


def _hash_to_3(texts: _Texts) -> Words:
    low = texts.byte(0) + (texts.byte(texts.lengths // 2) << np.uint64(8))
    high = texts.size + (texts.byte(texts.lengths - 1) << np.uint64(2))
    return _mix((low * _K2) ^ (high * _K0)) * _K2


def _hash_to_7(texts: _Texts) -> Words:
    first = texts.size + (texts.word(0, "<u4") << np.uint64(3))
    return _hash_pair(first, texts.word(-4, "<u4"), texts.factor)


def _hash_to_16(texts: _Texts) -> Words:
    a, b = texts.word(0) + _K2, texts.word(-8)
    c = _rotate(b, 37) * texts.factor + a
    d = (_rotate(a, 25) + b) * texts.factor
    return _hash_pair(c, d, texts.factor)


def _hash_to_32(texts: _Texts) -> Words:
    a, b = texts.word(0) * _K1, texts.word(8)
    c, d = texts.word(-8) * texts.factor, texts.word(-16) * _K2
    return _hash_pair(_rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + _K2, 18) + c, texts.factor)


def _hash_to_64(texts: _Texts) -> Words:
    factor = texts.factor
    a, b = texts.word(0) * _K2, texts.word(8)
    c, d = texts.word(-8) * factor, texts.word(-16) * _K2
    y = _rotate(a + b, 43) + _rotate(c, 30) + d
    z = _hash_pair(y, a + _rotate(b + _K2, 18) + c, factor)
    e, f = texts.word(16) * factor, texts.word(24)
    g, h = (y + texts.word(-32)) * factor, (z + texts.word(-24)) * factor
    return _hash_pair(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + a, 18) + g, factor)


def _hash_longer(texts: _Texts) -> Words:
    """Hashes texts of more than one block: all blocks but the rest, then the last 64 bytes."""
    start = np.full(len(texts.size), 81, np.uint64)
    state = np.zeros((7, len(start)), np.uint64)  # x, y, z, and two pairs v and w
    state[0] = start * _K2 + texts.word(0)
    state[1] = start * _K1 + np.uint64(113)
    state[2] = _mix(state[1] * _K2 + np.uint64(113)) * _K2
    blocks = (texts.lengths - 1) // _BLOCK
    for number in range(int(blocks.max())):
        rows = np.flatnonzero(blocks > number)
        block = _Texts(texts.content, texts.starts[rows] + number * _BLOCK, texts.lengths[rows])
        state[:, rows] = _absorb(block, state[:, rows], _K1, np.uint64(1))
    factor = _K1 + ((state[2] & np.uint64(0xFF)) << np.uint64(1))
    state[5] += (texts.size - np.uint64(1)) & np.uint64(_BLOCK - 1)
    state[3] += state[5]
    state[5] += state[3]
    last = _Texts(texts.content, texts.starts + texts.lengths - _BLOCK, texts.lengths)
    x, y, z, v, v_next, w, w_next = _absorb(last, state, factor, np.uint64(9))
    return _hash_pair(_hash_pair(v, w, factor) + _mix(y) * _K0 + z, _hash_pair(v_next, w_next, factor) + x, factor)


def _absorb(block: _Texts, state: Words, factor: Words, weight: np.uint64) -> Words:
    """Returns the state `[7, n]` after a block of 64 bytes."""
    x, y, z, v, v_next, w, w_next = state
    x = (_rotate(x + y + v + block.word(8), 37) * factor) ^ (w_next * weight)
    y = _rotate(y + v_next + block.word(48), 42) * factor + v * weight + block.word(40)
    z = _rotate(z + w, 33) * factor
    v, v_next = _absorb_half(block, 0, v_next * factor, x + w)
    w, w_next = _absorb_half(block, _BLOCK // 2, z + w_next, y + block.word(16))
    return np.stack([z, y, x, v, v_next, w, w_next])  # x and z change places


def _absorb_half(block: _Texts, place: int, a: Words, b: Words) -> tuple[Words, Words]:
    first, second, third, fourth = (block.word(place + step) for step in (0, 8, 16, 24))
    a = a + first
    b = _rotate(b + a + fourth, 21)
    total = a + second + third
    return total + fourth, b + _rotate(total, 44) + a


_FORMULAS = (
    (1, 3, _hash_to_3),
    (4, 7, _hash_to_7),
    (8, 16, _hash_to_16),
    (17, 32, _hash_to_32),
    (33, 64, _hash_to_64),
    (65, np.iinfo(np.int64).max, _hash_longer),
)
