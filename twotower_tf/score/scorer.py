"""Computes output rows from rows of a user table, in local workers and in Spark executors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower_tf import ragged
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.index.eligible import Eligible, Ineligible
from twotower_tf.index.searcher import Searcher
from twotower_tf.retrieval import filtered_search
from twotower_tf.score import exclusions
from twotower_tf.score.answer_stats import AnswerStats
from twotower_tf.score.answer_tables import Layout
from twotower_tf.score.exclusions import Exclusions
from twotower_tf.score.job import ALLOWED, EXCLUDED, SEEN, Job
from twotower_tf.score.type_columns import ColumnTyper, Users, take_column
from twotower_tf.score.unit_reader import Bad, Rows
from twotower_tf.score.user_tower import STEP, UserTower

Floats = npt.NDArray[np.float32]


class Scorer:
    """Scores users for an output of this layout."""

    def __init__(self, job: Job, bundle: Bundle) -> None:
        """Loads the bundle's tower and index, and what restricts the answers."""
        self._job = job
        self._tower = UserTower(bundle)
        self._typer = ColumnTyper(job.user_id, job.columns, job.times, bundle.config.data.null_values)
        self._searcher: Searcher | None = bundle.searcher(job.threads) if job.k else None
        journal = Path(job.journal)
        allowed, excluded = journal / ALLOWED, journal / EXCLUDED
        self._allowed = Eligible(np.load(allowed)) if allowed.is_file() else None
        form = bundle.text_forms("user").get(job.user_id, "")
        self._excluded = Exclusions(excluded, form) if excluded.is_dir() else None
        self._items = bundle.manifest["items"] if job.k else 0
        ids = self._searcher.items.ids if self._searcher is not None else None
        names = bundle.columns(["item_name"])["item_name"] if job.names else None
        self.layout = Layout(bundle.version, job.format, job.k or bundle.manifest["vector_dim"], ids, names)

    def stats(self) -> AnswerStats:
        """Returns empty statistics."""
        return AnswerStats(self._items)

    def tables(self, rows: Rows, stats: AnswerStats, bad: list[Bad]) -> Iterator[pa.Table]:
        """Answers an open unit, table by table; counts answers in `stats` and puts rows without one into `bad`."""
        place = 0
        for table in rows.batches:
            yield self.table(table, place, stats, bad)
            place += table.num_rows

    def table(self, raw: pa.Table, place: int, stats: AnswerStats, bad: list[Bad]) -> pa.Table:
        """Answers rows whose first has this place in its unit, which is a multiple of the tower's step."""
        users, found = self._typer.type_rows(raw, place)
        bad += found
        seconds = {name: pa.array(np.full(len(users), at, np.int64)) for name, at in self._job.at.items()}
        vectors = self._tower.vectors({**users.columns, **seconds}, len(users))
        everyone = users.good.all()
        ids = users.ids if everyone else users.ids.filter(pa.array(users.good))
        if self._searcher is None:
            stats.add(len(ids), np.empty(0, np.int32), np.empty(0, np.float32))
            return self.layout.vectors(ids, vectors if everyone else vectors[users.good])
        parts = [
            self._search(vectors[start : start + STEP], self._gone(users, raw, slice(start, start + STEP)))
            for start in range(0, len(users), STEP)
        ]
        counts, rows, scores = (np.concatenate(each) for each in zip(*parts, strict=True))
        if not everyone:
            kept = np.repeat(users.good, counts)
            counts, rows, scores = counts[users.good], rows[kept], scores[kept]
        stats.add(len(ids), rows, scores)
        return self.layout.answers(ids, ragged.to_offsets(counts), rows, scores)

    def _gone(self, users: Users, raw: pa.Table, part: slice) -> Ineligible | None:
        """Returns the items excluded for these users."""
        if self._excluded is not None:
            return self._excluded.of(users.ids[part])
        return exclusions.read_lists(take_column(raw, SEEN)[part]) if self._job.seen else None

    def _search(
        self, vectors: Floats, gone: Ineligible | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Floats]:
        """Returns counts, rows and scores of the answers to a step's users."""
        assert self._searcher is not None
        if gone is None and self._allowed is None:
            found = self._searcher.search(vectors, self._job.k)
            return np.full(len(vectors), found.rows.shape[1]), found.rows.reshape(-1), found.scores.reshape(-1)
        answers = filtered_search.search(self._searcher, vectors, self._job.k, gone, self._allowed)
        return np.diff(answers.offsets), answers.rows, answers.scores
