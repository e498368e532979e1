"""Small logs to draw from, and tests of what was drawn."""

import numpy as np

from twotower_tf.sampling.pairs import Pairs
from twotower_tf.sampling.row_sampler import PositivesBatch

USERS, ITEMS, COLD = 40, 60, 56


def positives(seed=0, per_user=8):
    """Positives of 40 users among 60 items, low numbers more often, the last four never; user 39 likes all but six."""
    rng = np.random.default_rng(seed)
    popularity = np.where(np.arange(ITEMS) < COLD, 1.0 / np.arange(1, ITEMS + 1), 0.0)
    liked = [rng.choice(ITEMS, per_user, replace=False, p=popularity / popularity.sum()) for _ in range(USERS - 1)]
    liked.append(np.arange(2, COLD))
    users = np.repeat(np.arange(USERS), [len(each) for each in liked])
    return Pairs(users, np.concatenate(liked), USERS, ITEMS)


def one_row(known, user, index=0, place=0):
    """A row of a user's positive."""
    return PositivesBatch(np.array([index]), np.array([user]), known.of(user)[place : place + 1])


def repeated(row, times):
    return PositivesBatch(*(np.repeat(part, times) for part in (row.index, row.users, row.own)))


def sample(sampler, row, draws=1_000_000, seed=5):
    """How often each item comes in a million draws for one row."""
    drawn = sampler.draw(np.random.default_rng(seed), repeated(row, draws // 1000), 1000)
    return np.bincount(drawn.ravel(), minlength=ITEMS)


def fits(counts, probability):
    """Whether counts are a sample with these probabilities: chi-square, one false alarm in ten thousand."""
    probability = np.asarray(probability, np.float64)
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-9)
    kept = probability > 0
    expected = counts.sum() * probability[kept]
    freedom = kept.sum() - 1
    statistic = ((counts[kept] - expected) ** 2 / expected).sum()
    # The 0.9999 quantile after Wilson and Hilferty (1931); 3.719 is the normal one.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.719 * np.sqrt(2 / (9 * freedom))) ** 3 if freedom else 1e-9
    return not counts[~kept].any() and statistic <= limit
