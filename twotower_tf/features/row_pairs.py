"""Computes the two rows of an id with two hashes (`Hash(hashes=2)`): one formula for NumPy and TensorFlow."""

from __future__ import annotations

from typing import Any

from twotower_tf.config import MAX_BUCKETS

_FACTOR, _SUMMAND = 1_103_515_245, 12_345
PRIME = MAX_BUCKETS  # 2^31 - 1


def pair_rows(ids: Any, buckets: Any) -> tuple[Any, Any]:
    """Computes the rows of ids: the remainder by `buckets`, and that of a universal hash of the id.

    The hash is (a x + b) mod p mod buckets, with p = 2^31 - 1 (Carter and Wegman, "Universal Classes of Hash
    Functions", 1979): of two ids that share the first row, one pair in `buckets` shares the second one too.

    Args:
        ids: int64 array or tensor of any shape, from 0 to 2^31 - 2; no product exceeds int64.
        buckets: rows of the feature; an integer, or an array or a tensor that broadcasts.

    Returns:
        the first and the second rows, of the shape of `ids`.
    """
    return ids % buckets, (ids * _FACTOR + _SUMMAND) % PRIME % buckets
