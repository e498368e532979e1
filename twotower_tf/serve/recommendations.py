"""Recommends items to the users of several requests at once: one call of the tower, one search per kind of wish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twotower_tf.bundle.signature_names import SERVING_DEFAULT
from twotower_tf.features.layout import VECTOR_LAYERS
from twotower_tf.index.eligible import Eligible, Ineligible
from twotower_tf.retrieval.item_retriever import ItemRetriever
from twotower_tf.serve.served_version import ServedVersion
from twotower_tf.serve.service_errors import ServiceError
from twotower_tf.serve.signature_tensors import Arrays

Answer: TypeAlias = dict[str, Any]
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Query:
    """The users of one request, and what they want.

    Attributes:
        users: inputs of the user tower by name, or vectors [users, vector_dim] float32.
        rows: number of users.
        k: number of items, as `ItemRetriever.check_k` returns it.
        names: adds the items' names.
        allowed: the items that pass the filter; None without a filter.
        excluded: items that single users may not have, of as many users.
    """

    users: Arrays | Floats
    rows: int
    k: int
    names: bool
    allowed: Eligible | None
    excluded: Ineligible | None


def recommend_batch(served: ServedVersion, queries: Sequence[Query]) -> list[list[Answer]]:
    """Returns an answer per user of each query.

    Without a filter, the blocklist is that of this moment.

    Args:
        served: a version in use.
        queries: all with inputs that may be joined (see `signature_tensors.batch_key`), or all with vectors.

    Raises:
        ServiceError: where the graph fails.
    """
    vectors = _compute_vectors(served, queries)
    alike: dict[tuple[int, bool, int], list[int]] = {}
    for place, each in enumerate(queries):
        alike.setdefault((each.k, each.names, id(each.allowed)), []).append(place)
    answers: list[list[Answer]] = [[] for _ in queries]
    for places in alike.values():
        found = _search(served.retriever, [queries[place] for place in places], [vectors[place] for place in places])
        for place, part in zip(places, found, strict=True):
            answers[place] = part
    return answers


def _compute_vectors(served: ServedVersion, queries: Sequence[Query]) -> list[Floats]:
    """Returns the vectors of each query's users."""
    given = [each.users for each in queries if not isinstance(each.users, dict)]
    if given:
        return given
    inputs = [each.users for each in queries if isinstance(each.users, dict)]
    vectors = [outputs[VECTOR_LAYERS["user"]] for outputs in served.compute_batch(SERVING_DEFAULT, inputs)]
    for each, found in zip(queries, vectors, strict=True):
        if len(found) != each.rows:
            raise ServiceError("INVALID_ARGUMENT", f"invalid inputs: {each.rows} rows give {len(found)} vectors")
    return vectors


def _search(retriever: ItemRetriever, queries: Sequence[Query], vectors: Sequence[Floats]) -> list[list[Answer]]:
    """Finds the items of queries that want the same."""
    first = queries[0]
    starts = np.cumsum([0, *(each.rows for each in queries)])
    excluded = None
    if any(each.excluded is not None for each in queries):
        pairs = [(start, each.excluded) for start, each in zip(starts[:-1], queries, strict=True)]
        given = [(start, part) for start, part in pairs if part is not None]
        users = np.concatenate([start + each.queries for start, each in given])
        excluded = Ineligible(users, np.concatenate([each.rows for _, each in given]), int(starts[-1]))
    allowed = retriever.allowed() if first.allowed is None else first.allowed
    found = retriever.answer(np.concatenate(vectors), first.k, excluded, allowed, names=first.names)
    return [found[start:end] for start, end in zip(starts[:-1], starts[1:], strict=True)]
