"""On published data, whose items often stand in the order of popularity, a model of one vector scores like chance."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twotower_tf.evaluate import baselines
from twotower_tf.evaluate.protocol import ItemLists, Queries
from twotower_tf.evaluate.ranking import rank, rank_scores

KS = (20, 100)


def read(path: Path) -> dict[int, set[int]]:
    """Lists `user item item ...`, one user a line."""
    lines = [[int(word) for word in line.split()] for line in path.read_text().splitlines()]
    return {user: set(items) for user, *items in lines}


def lists(sets: list[set[int]]) -> ItemLists:
    queries = np.repeat(np.arange(len(sets)), [len(items) for items in sets])
    return ItemLists.from_pairs(queries, np.array([item for items in sets for item in sorted(items)]), len(sets))


@pytest.mark.quality
@pytest.mark.parametrize("name", ["gowalla", "movielens-1m-m1"])
def test_a_constant_model_scores_like_chance(name: str, published: Callable[[str], Path]) -> None:
    folder = published(name)
    seen, wanted = read(folder / "train.txt"), read(folder / "test.txt")
    users = [user for user in wanted if wanted[user] - seen.get(user, set())]
    size = 1 + max(item for part in (seen, wanted) for items in part.values() for item in items)
    rows = np.arange(len(users))
    asked = Queries(
        rows, rows, lists([wanted[u] - seen.get(u, set()) for u in users]), lists([seen.get(u, set()) for u in users])
    )
    one = np.full((1, 16), 0.25, np.float32)
    constant = rank(one.repeat(len(users), axis=0), one.repeat(size, axis=0), asked, KS).per_query()
    chance = rank_scores(baselines.random_scorer(size, 17), size, asked, KS).per_query()
    for metric, values in chance.items():
        error = values.std() / np.sqrt(len(values))
        print(f"{name} {metric}: constant {constant[metric].mean():.6f}, random {values.mean():.6f} ± {error:.6f}")
        assert constant[metric].mean() == pytest.approx(values.mean(), abs=4 * error)
