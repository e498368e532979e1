"""Sharing of hash buckets against numbers worked out by hand and by throwing values at random."""

import numpy as np
import pytest

from twotower_tf.features import bucket_counts


@pytest.mark.parametrize(
    ("values", "size", "expected"),
    [
        (0, 5, 0.0),
        (1, 5, 0.0),
        (2, 4, 0.25),
        (3, 2, 0.75),
        (10, 50, 0.166252),  # 1 - 0.98^9
        (100_000_000, 1_000_000_000, 0.0951626),  # 1 - exp(-0.1)
    ],
)
def test_expected_sharing(values: int, size: int, expected: float) -> None:
    assert bucket_counts.expected_sharing(values, size) == pytest.approx(expected, abs=1e-6)


def test_expected_sharing_is_what_chance_gives() -> None:
    rng = np.random.default_rng(3)
    shares = []
    for _ in range(400):
        thrown = rng.integers(0, 700, 500)
        shares.append(np.mean(np.bincount(thrown, minlength=700)[thrown] > 1))
    assert bucket_counts.expected_sharing(500, 700) == pytest.approx(np.mean(shares), abs=0.005)


@pytest.mark.parametrize(
    ("values", "size"),
    [
        (0, 10),
        (1, 10),
        (2, 10),  # 1 / 0.1
        (10, 86),  # 1 / (1 - 0.9^(1/9)) = 85.9
        (1000, 9500),  # 9482.7
        (100_000_000, 950_000_000),
        (1_000_000_000, 2_147_483_647),
    ],
)
def test_suggested(values: int, size: int) -> None:
    assert bucket_counts.suggest_buckets(values) == size


@pytest.mark.parametrize("values", [3, 17, 999, 12_345, 10_000_001])
@pytest.mark.parametrize("target", [0.01, 0.1, 0.3])
def test_the_suggestion_keeps_the_target_and_is_no_larger_than_it_must(values: int, target: float) -> None:
    size = bucket_counts.suggest_buckets(values, target)
    assert bucket_counts.expected_sharing(values, size) <= target
    assert size <= 10 or bucket_counts.expected_sharing(values, int(size / 1.1) - 1) > target
