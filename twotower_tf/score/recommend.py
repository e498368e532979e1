"""The items for a user, and the items like an item, from one bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower_tf.data.values import as_text
from twotower_tf.errors import ArtifactError, DataError
from twotower_tf.features.argument_names import argument_names
from twotower_tf.features.inputs import rows_to_arrays, side_inputs
from twotower_tf.index.bundle import Bundle

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float32]

_ROWS_PER_BATCH = 4096


class Recommender:
    """A bundle's user tower and index, loaded once.

    Attributes:
        bundle: what it answers from.
        inputs: of the user tower.
    """

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        """Loads the user tower and the index.

        Args:
            bundle: opened, so its files are checked.
            threads: that search at once; 0 is one per core.
        """
        self.bundle = bundle
        self.inputs = side_inputs(bundle.config, "user")
        self._arguments = argument_names([each.name for each in self.inputs])
        self._model = tf.saved_model.load(str(bundle.path))  # held: its signatures do not keep the weights alive
        self._tower = self._model.signatures["serving_default"]
        self._searcher = bundle.searcher(threads)

    def recommend(
        self, rows: Sequence[Mapping[str, Any]], k: int, exclude: Sequence[Sequence[Any]] | None = None
    ) -> list[dict[str, Any]]:
        """The k best items for each user.

        Args:
            rows: one mapping of feature values per user; an absent feature is no value.
            k: items asked for, at least 1.
            exclude: per user, ids of items not to answer; ids outside the catalogue are passed over.

        Returns:
            `{"user": the row, "item_ids": [...], "scores": [...], "model_version": V}` per user, best first. A list is
            shorter than k only where the catalogue, or the index, has no more items that are not excluded.

        Raises:
            DataError: for an unknown feature (listing the known ones), a value of the wrong type, an unusable k, or
                lists to exclude for another number of users.
        """
        _check_k(k)
        excluded = self._excluded(rows, exclude)
        found = self._search(self.vectors(rows), k, excluded)
        version = self.bundle.version
        return [
            {"user": dict(row), "item_ids": ids, "scores": scores, "model_version": version}
            for row, (ids, scores) in zip(rows, found, strict=True)
        ]

    def recommend_frame(self, users: pd.DataFrame, k: int) -> pd.DataFrame:
        """The k best items for each row of a data frame.

        Args:
            users: one row per user, one column per feature; a feature without a column, NaN, None and NA are no value.
            k: items asked for, at least 1.

        Returns:
            One row per answer: `user`, the row's index label in `users`; `rank`, from 1; `item_id`; `item_name`;
            `score`, the cosine similarity; `model_version`.

        Raises:
            DataError: as `recommend` says.
        """
        import pandas as pd

        rows = users.astype(object).where(users.notna(), None).to_dict("records")
        catalogue = self.bundle.items
        names = dict(zip(catalogue["item_id"].to_pylist(), catalogue["item_name"].to_pylist(), strict=True))
        answers = [
            (label, rank, item, names[item], score, answer["model_version"])
            for label, answer in zip(users.index, self.recommend(rows, k), strict=True)
            for rank, (item, score) in enumerate(zip(answer["item_ids"], answer["scores"], strict=True), 1)
        ]
        columns = ["user", "rank", "item_id", "item_name", "score", "model_version"]
        frame: pd.DataFrame = pd.DataFrame(answers, columns=columns)
        return frame

    def similar(self, item_id: Any, k: int) -> dict[str, Any]:
        """The k items whose vectors are nearest to an item's, without the item itself.

        Returns:
            `{"item": id, "item_ids": [...], "scores": [...], "model_version": V}`.

        Raises:
            DataError: for an item outside the catalogue or an unusable k.
        """
        _check_k(k)
        item = as_text(item_id)
        row = self._searcher.items.row(item)
        if row is None:
            raise DataError(f"item {item!r}: not among the {self.bundle.manifest['items']} items of {self.bundle.path}")
        ((ids, scores),) = self._search(self._searcher.items.vectors[[row]], k, [np.array([row])])
        return {"item": item, "item_ids": ids, "scores": scores, "model_version": self.bundle.version}

    def vectors(self, rows: Sequence[Mapping[str, Any]]) -> Floats:
        """The users' vectors `[rows, vector_dim]` float32, unit length.

        Raises:
            DataError: as `recommend` says.
        """
        parts = [self._embed(rows[start : start + _ROWS_PER_BATCH]) for start in range(0, len(rows), _ROWS_PER_BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, self.bundle.manifest["vector_dim"]), np.float32)

    def _embed(self, rows: Sequence[Mapping[str, Any]]) -> Floats:
        arrays = rows_to_arrays(self.inputs, rows)
        answer = self._tower(**{self._arguments[name]: tf.constant(array) for name, array in arrays.items()})
        versions = set(answer["model_version"].numpy().tolist())
        if versions != {self.bundle.version}:
            raise ArtifactError(
                f"{self.bundle.path}: the user tower answers as version {', '.join(map(str, sorted(versions)))}, "
                f"the manifest is of {self.bundle.version}; export again"
            )
        return np.asarray(answer["user_vector"].numpy(), np.float32)

    def _excluded(
        self, rows: Sequence[Mapping[str, Any]], exclude: Sequence[Sequence[Any]] | None
    ) -> list[npt.NDArray[np.int64]]:
        """Index rows not to answer, per user."""
        if exclude is None:
            return [np.empty(0, np.int64)] * len(rows)
        if len(exclude) != len(rows):
            raise DataError(f"exclude: one list per user is expected; came {len(exclude)} for {len(rows)} users")
        for ids in exclude:
            if isinstance(ids, str | bytes) or not isinstance(ids, Sequence | set | frozenset):
                raise DataError(f"exclude: a list of item ids per user is expected; came {ids!r}")
        row_of = self._searcher.items.row
        known = [{row_of(as_text(item)) for item in ids} - {None} for ids in exclude]
        return [np.array(sorted(found), np.int64) for found in known]  # type: ignore[type-var]

    def _search(
        self, vectors: Floats, k: int, excluded: Sequence[npt.NDArray[np.int64]]
    ) -> list[tuple[list[str], list[float]]]:
        """The k nearest rows that are not excluded: as many more are fetched as could fall away."""
        answers: list[tuple[list[str], list[float]]] = [([], [])] * len(vectors)
        fetch = np.array([k + _next_power_of_two(len(rows)) for rows in excluded], np.int64)
        for size in np.unique(fetch):  # users with a long list do not make the search of the others longer
            asked = np.flatnonzero(fetch == size)
            found = self._searcher.search(vectors[asked], int(size))
            for place, user in enumerate(asked):
                kept = np.flatnonzero(~np.isin(found.rows[place], excluded[int(user)]))[:k]
                answers[user] = (found.item_ids[place][kept].tolist(), found.scores[place][kept].tolist())
        return answers


def _check_k(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise DataError(f"k: a whole number of at least 1 is expected; came {k!r}")


def _next_power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length() if size else 0
