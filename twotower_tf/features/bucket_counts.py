"""Computes the share of values in common hash buckets, and the number of buckets that keeps it small.

Values fall into buckets as if by chance, so each of the other n - 1 values misses a value's bucket with probability
1 - 1/B, and the expected share of values that share their bucket is 1 - (1 - 1/B)^(n - 1) (classical occupancy: Feller,
An Introduction to Probability Theory and Its Applications, vol. 1, chapter II.5).
"""

from __future__ import annotations

import math

from twotower_tf.config import MAX_BUCKETS

TARGET = 0.1  # of the values may share a bucket
FEWEST = 10


def expected_sharing(values: int, buckets: int, hashes: int = 1) -> float:
    """Returns the expected share of distinct values that share their bucket, or with two hashes both, with another."""
    if hashes == 2:  # the same id, or the same two rows in either order, which have one sum
        pairs = 2.0 / buckets**2 - 1.0 / buckets**3
        return -math.expm1((values - 1) * (math.log1p(-1.0 / MAX_BUCKETS) + math.log1p(-pairs))) if values > 1 else 0.0
    return -math.expm1((values - 1) * math.log1p(-1.0 / buckets)) if values > 1 else 0.0


def suggest_buckets(values: int, target: float = TARGET) -> int:
    """Suggests buckets with an expected sharing of at most `target`, rounded up to two digits."""
    if values < 2:
        return FEWEST
    exact = -1.0 / math.expm1(math.log1p(-target) / (values - 1))
    step = int(10 ** max(0, math.floor(math.log10(exact)) - 1))
    return min(MAX_BUCKETS, max(FEWEST, math.ceil(exact / step) * step))
