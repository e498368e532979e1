"""Recommends items to users, and finds similar items, from one bundle.

What is blocked in the export root's `blocklist.txt` is never answered, from the moment the file says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from twotower_tf import resources
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.bundle.loaded_tower import Tower
from twotower_tf.errors import ConfigError, DataError, unknown_name
from twotower_tf.features.inputs import client_inputs, rows_to_arrays
from twotower_tf.retrieval.bundle_probability import require_probability
from twotower_tf.retrieval.item_retriever import ItemRetriever
from twotower_tf.retrieval.limits import MAX_K
from twotower_tf.tables.frame_values import is_gap, list_scalars
from twotower_tf.tables.time_parser import TimeParser

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float32]

_loaded_in = 0  # the process in which TensorFlow loaded a tower first


class Recommender:
    """A bundle's user tower and index, loaded once."""

    def __init__(
        self, bundle: Bundle | str | Path, threads: int = 0, blocklist: str | Path | None = None, max_k: int = MAX_K
    ) -> None:
        """Loads the user tower and the index; within a CPU quota, limits libraries' threads as `Pipeline` does.

        Args:
            bundle: an opened bundle, or an export directory, of which the newest version is opened.
            threads: that search at once; 0 is one per core.
            blocklist: a file of item ids that nobody may get, one a line, read again whenever it has changed; by
                default `blocklist.txt` in the export root.
            max_k: the largest k that is answered.

        Raises:
            ArtifactError: where the export directory holds no version, or one that has changed.
            DataError: where the blocklist given is not there, or one cannot be read.
            ConfigError: where this process was forked from one that had made a Recommender.
        """
        global _loaded_in
        _loaded_in = _loaded_in or os.getpid()
        self._process = _loaded_in
        self._check_process()
        resources.limit_library_threads()
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle)
        self.bundle = bundle
        self.inputs = client_inputs(bundle.config, bundle.text_forms("user"))
        self._times = TimeParser.of_manifest(bundle.manifest)
        self._tower = Tower.of_bundle(bundle, "user")
        self._retriever = ItemRetriever(bundle, threads, blocklist, max_k)

    @overload
    def recommend(
        self, rows: Mapping[str, Any], k: int, exclude: Iterable[Any] | None = ..., filter: str = ..., *,
        names: bool = ..., probability: bool = ...,
    ) -> dict[str, Any]: ...  # fmt: skip

    @overload
    def recommend(
        self, rows: Sequence[Mapping[str, Any]], k: int, exclude: Sequence[Iterable[Any]] | None = ...,
        filter: str = ..., *, names: bool = ..., probability: bool = ...,
    ) -> list[dict[str, Any]]: ...  # fmt: skip

    def recommend(
        self,
        rows: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        k: int,
        exclude: Any = None,
        filter: str = "",
        *,
        names: bool = False,
        probability: bool = False,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Recommends the k best items for each user.

        Args:
            rows: one mapping of feature values per user, or the mapping of one user; an absent feature has no value. A
                time is read in the form that the log has (`data.time_form`). The user's id may stand next to features
                although the model does not read it.
            k: items requested, from 1 to `max_k`.
            exclude: per user, ids of items not to answer; ids outside the catalogue are passed over. Of one user, its
                ids.
            filter: a boolean SQL expression over the columns of `bundle.items` that every answer satisfies; "" for all.
            names: adds "item_names" to every answer, "" for an item without a name.
            probability: adds "probabilities" of a label 1, for models that were trained on labels to give them.

        Returns:
            `{"user": the row, "item_ids": [...], "scores": [...], "model_version": V}` per user, best first; one such
            answer for one mapping. A list is shorter than k only where no more items pass that are neither excluded nor
            blocked.

        Raises:
            DataError: for an unknown feature (listing the known ones), a value of the wrong type, an unusable k,
                lists to exclude for another number of users, or a filter that cannot be used.
            ConfigError: in a process that was forked after the Recommender was made; for `probability` of a model that
                gives none.
        """
        if isinstance(rows, Mapping):
            one = None if exclude is None else [exclude]
            return self.recommend([rows], k, one, filter, names=names, probability=probability)[0]
        self._check_process()
        clicks = require_probability(self.bundle) if probability else None
        retriever = self._retriever
        k = retriever.check_k(k)
        excluded = retriever.exclusions(exclude, len(rows))
        allowed = retriever.allowed(filter)
        found = retriever.answer(self.vectors(rows), k, excluded, allowed, names=names)
        answers = [{"user": dict(row), **answer} for row, answer in zip(rows, found, strict=True)]
        if clicks is not None:
            for answer in answers:
                answer["probabilities"] = clicks.of_cosines(answer["scores"]).tolist()
        return answers

    def recommend_frame(
        self, users: pd.DataFrame, k: int, filter: str = "", exclude: str | Sequence[Iterable[Any]] | None = None
    ) -> pd.DataFrame:
        """Recommends the k best items for each row of a data frame.

        Args:
            users: one row per user, one column per feature; a feature without a column, NaN, None and NA mean no value.
                Columns that are not a feature are ignored.
            k: items requested, from 1 to `max_k`.
            filter: as of `recommend`.
            exclude: the name of a column of `users` that holds lists of item ids, or one list per row; those items are
                not answered.

        Returns:
            One row per answer: `user`, the row's index label in `users`; `rank`, from 1; `item_id`; `item_name`;
            `score`, the cosine similarity; `model_version`.

        Raises:
            DataError: as `recommend` says; if no column is a feature; if the column `exclude` does not exist.
            ConfigError: as `recommend` says.
        """
        import pandas as pd

        known = {each.name for each in self.inputs}
        columns = [name for name in users.columns if name in known]
        if len(users.columns) and not columns:
            raise DataError(
                f"users: no feature among the columns {', '.join(map(repr, users.columns))} (expected at least one of "
                f"{', '.join(sorted(known))}); rename them"
            )
        if isinstance(exclude, str):
            if exclude not in users.columns:
                raise DataError(f"exclude: {unknown_name('column of users', exclude, map(str, users.columns))}")
            exclude = [[] if is_gap(ids) else ids for ids in users[exclude]]
        values = [list_scalars(users[name]) for name in columns]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
        rows = rows or [{} for _ in users.index]  # a frame without columns
        found = self.recommend(rows, k, exclude, filter, names=True)
        answers = [
            (label, rank, item, name, score, answer["model_version"])
            for label, answer in zip(users.index, found, strict=True)
            for rank, (item, name, score) in enumerate(
                zip(answer["item_ids"], answer["item_names"], answer["scores"], strict=True), 1
            )
        ]
        titles = ["user", "rank", "item_id", "item_name", "score", "model_version"]
        frame: pd.DataFrame = pd.DataFrame(answers, columns=titles)
        return frame

    def similar(self, item_id: Any, k: int, filter: str = "", *, names: bool = False) -> dict[str, Any]:
        """Finds the k items whose vectors are nearest to an item's, without the item itself.

        Args:
            item_id: an item's id, or else its name; it may be blocked, or not pass the filter, itself.
            k: items requested, from 1 to `max_k`.
            filter: as of `recommend`.
            names: as of `recommend`.

        Returns:
            `{"item": id, "item_ids": [...], "scores": [...], "model_version": V}`.

        Raises:
            DataError: for an item that is not in the catalogue, a name that several items have, an unusable k, or a
                filter that cannot be used.
            ConfigError: as `recommend` says.
        """
        self._check_process()
        return self._retriever.similar(item_id, k, filter, names=names)

    def vectors(self, rows: Sequence[Mapping[str, Any]]) -> Floats:
        """Computes the users' vectors `[rows, vector_dim]` float32, unit length.

        Raises:
            DataError, ConfigError: as `recommend` says.
        """
        self._check_process()
        return self._tower.vectors(rows_to_arrays(self.inputs, rows, self._times, self.bundle.config.data.user_id))

    def _check_process(self) -> None:
        """Refuses a forked process: TensorFlow's threads do not exist there, and a call would wait for them forever."""
        if self._process != os.getpid():
            raise ConfigError(
                f"Recommender: invalid in process {os.getpid()}, which was forked after process {self._process} made a "
                "Recommender (TensorFlow's threads do not survive a fork); make the first one in each process after "
                "the fork, or start processes by spawn"
            )
