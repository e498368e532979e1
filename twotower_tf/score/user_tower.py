"""Computes user vectors in bulk: distinct values are encoded once, the bundle's SavedModel does the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from twotower_tf import ragged
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.bundle.loaded_tower import Tower
from twotower_tf.bundle.signature_names import TOLERANCE
from twotower_tf.config import History
from twotower_tf.config.checks import list_causal_histories
from twotower_tf.config.history_encoders import is_causal
from twotower_tf.errors import ArtifactError
from twotower_tf.features import time_gaps
from twotower_tf.features.column_encoder import ColumnEncoder, encode_dictionary
from twotower_tf.features.inputs import KINDS, list_histories, rows_to_arrays
from twotower_tf.features.layout import NO_VALUE, VECTOR_LAYERS
from twotower_tf.features.tower_encoder import FROM_ENCODED, TowerEncoder

# Rows of one call; where a unit's calls begin never changes, so neither does the last bit of a vector.
STEP = 4096
SEQUENCE_PLACES = 1 << 13  # of one call whose histories are read place by place: tensors stay in a core's cache

Floats = npt.NDArray[np.float32]


class UserTower:
    """A bundle's user tower, called with encoded values."""

    def __init__(self, bundle: Bundle) -> None:
        """Loads it, and compares both ways into it on the bundle's canaries.

        Raises:
            ArtifactError: where the bundle was exported without what this needs, or its towers do not agree.
        """
        config = bundle.config
        self._loaded = Tower.of_bundle(bundle, "user")
        if FROM_ENCODED not in self._loaded.signatures:
            raise ArtifactError(
                f"{bundle.path}: the user tower has no signature {FROM_ENCODED!r}: an earlier version of twotower_tf "
                "exported it; export the run again"
            )
        self._tower = self._loaded.signature(FROM_ENCODED)
        self._side = TowerEncoder(config, bundle.statistics, "user")
        self._encoder = ColumnEncoder(config, bundle.statistics, "user")
        self._histories = list_histories(config)
        layout, causal = self._side.layout, list_causal_histories(self._histories)
        self._sequences = [layout.values[each.name] for each in causal]
        self._by_place = {*self._sequences, *(layout.gaps[each.name] for each in causal if each.name in layout.gaps)}
        self._dim = int(bundle.manifest["vector_dim"])
        self._hash = {each.name: self._history_function(each) for each in self._histories}
        self._check(bundle)

    def vectors(self, columns: Mapping[str, pa.Array], rows: int) -> Floats:
        """Computes the vectors of users.

        `columns`, by source name, are `[rows]`: texts, float64, int64 epoch seconds, lists of texts; a missing column
        and null mean no value.

        Returns:
            float32 `[rows, vector_dim]`, unit length.
        """
        encoded = self._encode(columns, rows)
        vectors = np.empty((rows, self._dim), np.float32)
        for part, longest in self._calls(encoded, rows):
            arguments = {
                key: tf.constant(array[part][:, :longest] if key in self._by_place else array[part])
                for key, array in encoded.items()
            }
            vectors[part] = self._tower(**arguments)[VECTOR_LAYERS["user"]].numpy()
        return vectors

    def _calls(self, encoded: Mapping[str, Any], rows: int) -> Iterator[tuple[Any, int | None]]:
        """Yields the rows of each call, and the places of their longest history that is read place by place.

        Rows of about one length are in one call, as many as fit into `SEQUENCE_PLACES`: padding costs like a value.
        """
        if not self._sequences:
            yield from ((slice(start, start + STEP), None) for start in range(0, rows, STEP))
            return
        counts = np.max([np.count_nonzero(encoded[key] != NO_VALUE, axis=1) for key in self._sequences], axis=0)
        order = np.argsort(counts, kind="stable")
        start = 0
        while start < rows:
            longest = np.maximum(1, counts[order[start : start + STEP]])  # ascending
            fitting = int(np.count_nonzero(np.arange(1, len(longest) + 1) * longest <= SEQUENCE_PLACES))
            part = order[start : start + max(1, fitting)]
            yield part, int(longest[len(part) - 1])
            start += len(part)

    def _encode(self, columns: Mapping[str, pa.Array], rows: int) -> dict[str, Any]:
        plain = {
            name: columns[name] if name in columns else pa.nulls(rows, KINDS[each.kind].arrow)
            for name, each in self._encoder.inputs.items()
        }
        encoded = dict(self._encoder.encode(plain))
        for each in self._histories:
            encoded |= self._history(each, columns, rows)
        return encoded

    def _history_function(self, history: History) -> Any:
        def encode(values: tf.Tensor) -> tf.Tensor:
            return self._side.encode_feature(history, {history.name: values[:, tf.newaxis]})[:, 0]

        return tf.function(encode, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)

    def _history(
        self, history: History, columns: Mapping[str, pa.Array], rows: int
    ) -> dict[str, npt.NDArray[np.int32]]:
        """Returns a history's encoded tensors int32 `[rows, longest]`: of its last `length` values."""
        lists, layout = columns.get(history.name), self._side.layout
        keys = [layout.values[history.name], *filter(None, [layout.gaps.get(history.name)])]
        if lists is None or not len(lists.flatten()):
            return {key: np.full((rows, 1), NO_VALUE, np.int32) for key in keys}
        codes, values = encode_dictionary(lists.flatten())
        texts = pc.fill_null(values.cast(pa.binary()), b"").to_numpy(zero_copy_only=False)
        buckets = self._hash[history.name](tf.constant(texts)).numpy()[codes]
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        owner = ragged.to_rows(lengths)
        there = buckets != NO_VALUE
        found = [buckets[there]]
        if history.time_gaps:
            found.append(_find_gaps(history, columns, owner, lengths, buckets)[there])
        owner = owner[there]
        counts = np.bincount(owner, minlength=rows)
        ends = np.cumsum(counts)
        kept = np.minimum(counts, history.length)
        place = np.arange(len(owner)) - (ends - kept)[owner]  # negative: older than what is kept
        late = place >= 0
        encoded = {}
        for key, flat in zip(keys, found, strict=True):
            encoded[key] = np.full((rows, max(1, int(kept.max(initial=0)))), NO_VALUE, np.int32)
            encoded[key][owner[late], place[late]] = flat[late]
        return encoded

    def _check(self, bundle: Bundle) -> None:
        people = [canary["user"] for canary in bundle.manifest["canaries"]]
        if not people:
            return
        arrays = rows_to_arrays(self._loaded.inputs, people)
        columns = {each.name: KINDS[each.kind].to_arrow(each, arrays[each.name]) for each in self._loaded.inputs}
        apart = np.abs(self.vectors(columns, len(people)) - self._loaded.vectors(arrays)).max()
        if not apart <= TOLERANCE:
            raise ArtifactError(
                f"{bundle.path}: values encoded in bulk give vectors {apart:.3g} away from those of the user tower; "
                "export again with this version of twotower_tf"
            )


def _find_gaps(
    history: History,
    columns: Mapping[str, pa.Array],
    owner: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int32],
) -> npt.NDArray[np.int32]:
    """Finds the buckets of the gaps of histories that follow each other, as `time_gaps.find_gaps` does.

    Args:
        history: with `time_gaps`.
        columns: has the items' times, as many as items or none by row, and the event's time.
        owner: `[values]` the row of each value.
        lengths: `[rows]` values of each.
        ids: `[values]`, -1 for no value.

    Returns:
        int32 `[values]`, -1 for no gap.
    """
    times, moments = np.zeros(len(ids), np.int64), columns.get(history.time_gaps)
    lists = columns.get(history.times_name)
    if lists is None or moments is None:
        return np.full(len(ids), NO_VALUE, np.int32)
    given = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    even = given == lengths  # the others are rows without times, or that are not answered
    flat = pc.fill_null(lists.flatten(), 0).to_numpy(zero_copy_only=False)
    times[even[owner]] = flat[even[ragged.to_rows(given)]]
    until = pc.fill_null(moments, 0).to_numpy(zero_copy_only=False)[owner]
    if is_causal(history.encoder):
        used = np.flatnonzero((ids != NO_VALUE) | (times != 0))
        last = np.zeros(len(lengths), np.int64)
        last[owner[used]] = used  # of a row's places the last one stays
        later = np.flatnonzero(np.arange(len(ids)) < last[owner])
        until[later] = times[later + 1]
    return time_gaps.find_buckets(times, until)
