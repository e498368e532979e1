"""The item-KNN baseline: items that were positives of the same users as the items of the query's user.

The score of item i for a user with the distinct positives H is the sum over h in H of the cosine of the columns of the
users x items matrix of training positives: n(h, i) / sqrt(n(h) n(i)), n(h, i) users with both, n(i) users with i; an
item is not its own neighbour (Sarwar et al., "Item-based collaborative filtering recommendation algorithms", 2001,
section 3.1.1; all neighbours count, not the nearest alone). DuckDB counts the pairs, and spills beyond its memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower_tf import artifacts, ragged
from twotower_tf.evaluate.protocol import ItemLists, Queries
from twotower_tf.evaluate.ranking import Scorer
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.sql import Connection
from twotower_tf.tables.duckdb_engine import fetch_row, open_engine

MOST_PAIRS = 2_000_000_000  # of items that one user had: about a minute on two cores
MOST_NEIGHBOURS = 1 << 26  # pairs of items that share a user: 0.5 GB
_DENSE_ITEMS = 8192  # catalogues up to this size are multiplied as a matrix of at most 256 MB
_PAIR_PRODUCTS = 2400  # multiplications of a matrix product that take as long as counting one pair, measured
_BLOCK_BYTES = 32 << 20  # of a block of users
_ROWS_PER_READ = 1 << 20
_MEMORY = "2GB"  # of DuckDB
# Scores are rounded to multiples of this share of the number of a user's items: the error of a float32 sum of as many
# terms, each at most 1, is smaller, so that items with equal scores stay tied.
_RESOLUTION = 2.0**-18

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Neighbours:
    """The similarities of all pairs of items with a common user: a matrix, or compressed sparse rows of it.

    Attributes:
        size: number of items.
        matrix: [num_items, num_items] float32; None where the rows are sparse.
        starts: [num_items + 1] int64, start of each item's neighbours.
        items: [num_pairs] int32, the neighbours.
        cosines: [num_pairs] float32.
    """

    def __init__(self, matrix: Floats | None, starts: Ints, items: npt.NDArray[np.int32], cosines: Floats) -> None:
        self.matrix, self.starts, self.items, self.cosines = matrix, starts, items, cosines
        self.size = len(starts) - 1 if matrix is None else len(matrix)

    @classmethod
    def of_matrix(cls, matrix: Floats) -> Neighbours:
        """Takes a whole matrix."""
        return cls(matrix, np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))

    def scores(self, queries: Ints, items: npt.NDArray[np.integer], num_queries: int) -> Floats:
        """Sums the similarities of each query's items, pairs of ascending queries and items; an item twice counts once.

        Returns:
            [num_queries, num_items] float32.
        """
        query, item = np.divmod(np.unique(queries * self.size + items), self.size)
        counts = np.bincount(query, minlength=num_queries)
        if self.matrix is not None:
            own = np.zeros((num_queries, self.size), np.float32)
            own[query, item] = 1.0
            found: Floats = own @ self.matrix
        else:
            ends = np.cumsum(counts)
            rows = [self._sum(item[end - count : end]) for end, count in zip(ends, counts, strict=True)]
            found = np.stack(rows)
        found /= np.maximum(counts, 1).astype(np.float32)[:, np.newaxis] * np.float32(_RESOLUTION)
        return np.rint(found, out=found)

    def _sum(self, items: Ints) -> Floats:
        """Sums the similarities of a few items, [num_items] float32."""
        places = [np.arange(self.starts[item], self.starts[item + 1]) for item in items]
        if not places:
            return np.zeros(self.size, np.float32)
        chosen = np.concatenate(places)
        return np.bincount(self.items[chosen], self.cosines[chosen], minlength=self.size).astype(np.float32)


def item_knn_scorer(prepared: Prepared, queries: Queries, split: str, run_dir: Path) -> Scorer | None:
    """Builds the scorer of a split's queries, by the training positives of their users.

    On the test split, the validation positives belong to a user's items, as to the model's histories.

    Returns:
        None where there are more than `MOST_PAIRS` or `MOST_NEIGHBOURS` pairs.
    """
    found = count_neighbours(prepared.sequence("train"), prepared.sequence_users("train"), prepared.num_items, run_dir)
    if found is None:
        return None
    which = "seen" if split == "test" else "train"
    starts = prepared.sequence_users(which)
    history = ItemLists(starts[queries.user_rows], starts[queries.user_rows + 1], prepared.sequence(which))

    def score(start: int, stop: int) -> Floats:
        return found.scores(*history.block(start, stop), stop - start)

    return score


def count_neighbours(sequence: npt.NDArray[np.int32], starts: Ints, num_items: int, run_dir: Path) -> Neighbours | None:
    """Computes the similarities of items.

    `sequence` has the item rows of the training positives, user by user; `starts`, [num_users + 1], the start of each
    user's part. DuckDB may spill in `run_dir`.

    Returns:
        None where there are more than `MOST_PAIRS` or `MOST_NEIGHBOURS` pairs.
    """
    users = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    with (
        artifacts.scratch_directory(Path(run_dir) / "item_knn") as work,
        open_engine(work / "engine", _MEMORY, 0, directories=[work], ordered=False) as connection,
    ):
        connection.register("positives", pa.table({"u": users, "i": np.asarray(sequence)}))
        connection.execute("CREATE TABLE pairs AS SELECT DISTINCT u, i FROM positives")
        query = "SELECT coalesce(sum(n * n), 0) FROM (SELECT count(*) AS n FROM pairs GROUP BY u)"
        (pairs,) = fetch_row(connection, query)
        if num_items <= _DENSE_ITEMS and 2 * len(starts) * num_items**2 < _PAIR_PRODUCTS * pairs:
            return Neighbours.of_matrix(_multiply(np.asarray(sequence), starts, num_items))
        return _read_neighbours(connection, num_items) if pairs <= MOST_PAIRS else None


def _multiply(sequence: npt.NDArray[np.int32], starts: Ints, num_items: int) -> Floats:
    """Computes the matrix of similarities by matrix products over blocks of users."""
    counts = np.zeros((num_items, num_items), np.float32)  # whole numbers, exact below 2^24 users
    users = max(1, _BLOCK_BYTES // (4 * num_items))
    for first in range(0, len(starts) - 1, users):
        ends = starts[first : first + users + 1]
        block = np.zeros((len(ends) - 1, num_items), np.float32)
        block[np.repeat(np.arange(len(ends) - 1), np.diff(ends)), sequence[ends[0] : ends[-1]]] = 1.0
        counts += block.T @ block
    sizes = np.sqrt(np.maximum(counts.diagonal(), 1.0))
    counts /= sizes
    counts /= sizes[:, np.newaxis]
    np.fill_diagonal(counts, 0.0)
    return counts


def _read_neighbours(connection: Connection, num_items: int) -> Neighbours | None:
    connection.execute(
        """
        CREATE TABLE neighbours AS
        SELECT a.i AS first, b.i AS second, count(*) AS n FROM pairs AS a JOIN pairs AS b ON a.u = b.u AND a.i < b.i
        GROUP BY ALL
        """
    )
    total = 2 * fetch_row(connection, "SELECT count(*) FROM neighbours")[0]
    if total > MOST_NEIGHBOURS:
        return None
    query = """
        WITH sizes AS (SELECT i, count(*) AS n FROM pairs GROUP BY i), directed AS (
            SELECT first, second, n FROM neighbours UNION ALL SELECT second, first, n FROM neighbours
        )
        SELECT first, second, CAST(directed.n / sqrt(a.n * b.n) AS FLOAT) AS cosine
        FROM directed JOIN sizes AS a ON a.i = first JOIN sizes AS b ON b.i = second
        ORDER BY first
        """
    items, cosines = np.empty(total, np.int32), np.empty(total, np.float32)
    counts, done = np.zeros(num_items, np.int64), 0
    for batch in connection.sql(query).to_arrow_reader(_ROWS_PER_READ):
        first, items[done : done + len(batch)], cosines[done : done + len(batch)] = map(np.asarray, batch.columns)
        counts += np.bincount(first, minlength=num_items)
        done += len(batch)
    return Neighbours(None, ragged.to_offsets(counts), items, cosines)
