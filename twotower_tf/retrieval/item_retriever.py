"""Retrieves items for vectors from one bundle's index: filter, exclusions, blocklist, names. Runs no tower.

What is blocked in the export root's `blocklist.txt` is never answered, from the moment the file says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.bundle.bundle import Bundle
from twotower_tf.bundle.item_columns import ItemColumns
from twotower_tf.errors import DataError
from twotower_tf.index.eligible import Eligible, Ineligible
from twotower_tf.index.searcher import Answers
from twotower_tf.prepare.text_forms import apply_form
from twotower_tf.retrieval import filtered_search
from twotower_tf.retrieval.blocklist import BLOCKLIST
from twotower_tf.retrieval.item_filter import ItemFilter
from twotower_tf.retrieval.item_names import ItemNames
from twotower_tf.retrieval.limits import MAX_K
from twotower_tf.tables.values import as_text


class ItemRetriever:
    """A bundle's index, loaded once; may be used from several threads.

    Attributes:
        bundle: what it answers from.
        max_k: the largest k that is answered.
        searcher: the index.
    """

    def __init__(
        self, bundle: Bundle, threads: int = 0, blocklist: str | Path | None = None, max_k: int = MAX_K
    ) -> None:
        """Loads the index.

        Args:
            bundle: an opened bundle.
            threads: that search at once; 0 is one per core.
            blocklist: a file of item ids that nobody may get, one a line, read again whenever it has changed; by
                default `blocklist.txt` in the export root.
            max_k: the largest k that is answered.

        Raises:
            ArtifactError: where a file of the index is missing or changed.
            DataError: where the blocklist given is not there, or one cannot be read.
        """
        self.bundle = bundle
        self.max_k = max_k
        self._item_form = bundle.text_forms("item").get(bundle.config.data.item_id, "")
        self.searcher = bundle.searcher(threads)
        if blocklist is not None and not Path(blocklist).is_file():
            raise DataError(f"blocklist {blocklist}: no such file")
        listed = Path(blocklist) if blocklist is not None else bundle.path.parent / BLOCKLIST
        self._item_filter = ItemFilter(lambda: ItemColumns(bundle), self.searcher.items, listed, self._item_form)
        self._names = ItemNames(bundle)

    def allowed(self, filter: str = "") -> Eligible | None:
        """Returns the items that pass a filter and are not blocked at this moment; None if all are allowed.

        Raises:
            DataError: for a filter that cannot be used.
        """
        return self._item_filter.allowed(filter)

    def check_k(self, k: Any) -> int:
        """Returns how many items are searched: k, or all if there are fewer.

        Raises:
            DataError: for a k that cannot be used.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= self.max_k:
            raise DataError(
                f"k: invalid value {k!r} (expected a whole number from 1 to {self.max_k}); max_k sets the largest"
            )
        return min(int(k), len(self.searcher.items))

    def exclusions(self, exclude: Sequence[Iterable[Any]] | None, num_queries: int) -> Ineligible | None:
        """Returns the excluded index rows of each query; None without lists.

        Args:
            exclude: per query, ids of items not to answer; ids outside the catalogue are passed over.
            num_queries: of the search to come.

        Raises:
            DataError: for another number of lists, or what is not a list.
        """
        if exclude is None:
            return None
        if not isinstance(exclude, Sized) or isinstance(exclude, str | bytes | Mapping):
            raise DataError(f"exclude: invalid value {exclude!r} (expected a list of item ids per user)")
        if len(exclude) != num_queries:
            raise DataError(f"exclude: invalid number of lists {len(exclude)} (expected {num_queries}, one per user)")
        for ids in exclude:
            if isinstance(ids, str | bytes) or not isinstance(ids, Sequence | set | frozenset):
                raise DataError(f"exclude: invalid value {ids!r} (expected a list of item ids per user)")
        return Ineligible.of([[self._item_text(item) for item in ids] for ids in exclude], self.searcher.items)

    def answer(
        self,
        vectors: npt.ArrayLike,
        k: int,
        excluded: Ineligible | None = None,
        allowed: Eligible | None = None,
        *,
        names: bool = False,
    ) -> list[dict[str, Any]]:
        """Finds the k best items for each vector.

        Args:
            vectors: [num_queries, vector_dim] float32, unit length.
            k: as `check_k` returns it.
            excluded: as `exclusions` returns it, of as many queries.
            allowed: as `allowed` returns it.
            names: adds "item_names" to every answer, "" for an item without a name.

        Returns:
            `{"item_ids": [...], "scores": [...], "model_version": V}` per vector, best first. A list is shorter than k
            only where no more items pass that are neither excluded nor blocked.

        Raises:
            DataError: as `Searcher.search` says.
        """
        found = filtered_search.search(self.searcher, vectors, k, excluded, allowed)
        return [self._answer(found, part, names) for part in _parts(found)]

    def similar(self, item_id: Any, k: int, filter: str = "", *, names: bool = False) -> dict[str, Any]:
        """Finds the k items whose vectors are nearest to an item's, without the item itself.

        Args:
            item_id: an item's id, or else its name; it may be blocked, or not pass the filter, itself.
            k: items requested, from 1 to `max_k`.
            filter: a boolean SQL expression over the columns of `bundle.items` that every answer satisfies.
            names: as of `answer`.

        Returns:
            `{"item": id, "item_ids": [...], "scores": [...], "model_version": V}`.

        Raises:
            DataError: for an item that is not in the catalogue, a name that several items have, an unusable k, or a
                filter that cannot be used.
        """
        k = self.check_k(k)
        item = self._item_text(item_id)
        row = self.searcher.items.row(item)
        if row is None:
            row = self._names.find_row(as_text(item_id))
            item = str(self.searcher.items.ids[row])
        itself = Ineligible(np.array([0]), np.array([row]), 1)
        (answer,) = self.answer(self.searcher.items.vectors[[row]], k, itself, self.allowed(filter), names=names)
        return {"item": item, **answer}

    def _answer(self, found: Answers, part: slice, names: bool) -> dict[str, Any]:
        named = {"item_names": self._names.of_rows(found.rows[part])} if names else {}
        return {
            "item_ids": found.item_ids[part].tolist(),
            **named,
            "scores": found.scores[part].tolist(),
            "model_version": self.bundle.version,
        }

    def _item_text(self, item: Any) -> str:
        """Returns an item's id as in the catalogue."""
        return apply_form(as_text(item), self._item_form)


def _parts(answers: Answers) -> Iterator[slice]:
    """Yields the place of each query's answers."""
    for start, end in zip(answers.offsets[:-1], answers.offsets[1:], strict=True):
        yield slice(start, end)
