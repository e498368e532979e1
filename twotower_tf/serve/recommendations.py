"""Recommends items to the users of several requests at once: encoded together, one call of the tower, one search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twotower_tf.bundle.signature_names import SERVING_DEFAULT
from twotower_tf.errors import DataError
from twotower_tf.features.layout import VECTOR_LAYERS
from twotower_tf.index.eligible import Eligible, Ineligible
from twotower_tf.retrieval.item_retriever import ItemRetriever
from twotower_tf.serve.served_version import ServedVersion
from twotower_tf.serve.service_errors import invalid
from twotower_tf.serve.signature_tensors import Arrays

Answer: TypeAlias = dict[str, Any]
Floats: TypeAlias = npt.NDArray[np.float32]
Row: TypeAlias = Mapping[str, Any]
Users: TypeAlias = list[Row] | Arrays | Floats


@dataclass(frozen=True)
class Query:
    """The users of one request, and what they want.

    Attributes:
        users: rows of feature values in the forms of the log, inputs of the user tower by name, or vectors
            [users, vector_dim] float32.
        rows: number of users.
        k: number of items, as `ItemRetriever.check_k` returns it.
        names: adds the items' names.
        allowed: the items that pass the filter; None without a filter.
        excluded: items that single users may not have, of as many users.
    """

    users: Users
    rows: int
    k: int
    names: bool
    allowed: Eligible | None
    excluded: Ineligible | None


def recommend_batch(served: ServedVersion, queries: Sequence[Query]) -> list[list[Answer] | Exception]:
    """Returns an answer per user of each query, or the error of its rows.

    Without a filter, the blocklist is that of this moment.

    Args:
        served: a version in use.
        queries: all with rows, all with inputs that may be joined (see `signature_tensors.batch_key`), or all with
            vectors.

    Raises:
        ServiceError: where the graph fails.
    """
    vectors = _compute_vectors(served, queries)
    results: list[list[Answer] | Exception] = [each if isinstance(each, Exception) else [] for each in vectors]
    alike: dict[tuple[int, bool, int], list[int]] = {}
    for place, each in enumerate(queries):
        if not isinstance(vectors[place], Exception):
            alike.setdefault((each.k, each.names, id(each.allowed)), []).append(place)
    for places in alike.values():
        table = np.concatenate([vectors[place] for place in places])
        found = _search(served.retriever, [queries[place] for place in places], table)
        for place, part in zip(places, found, strict=True):
            results[place] = part
    return results


def encode_batch(served: ServedVersion, queries: Sequence[Sequence[Row]]) -> list[Arrays | Exception]:
    """Returns the inputs of each query's rows, or the error of its rows: all are encoded in one step if they can be."""
    try:
        joined = served.encode_rows([row for rows in queries for row in rows])
    except DataError:
        return [_try_encode(served, rows) for rows in queries]
    ends = np.cumsum([len(rows) for rows in queries])
    return [
        {name: array[start:end] for name, array in joined.items()}
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def _try_encode(served: ServedVersion, rows: Sequence[Row]) -> Arrays | Exception:
    try:
        return served.encode_rows(rows)
    except DataError as error:
        return error


def _compute_vectors(served: ServedVersion, queries: Sequence[Query]) -> list[Any]:
    """Returns the vectors of each query's users [users, vector_dim] float32, or the error of its rows."""
    users: list[Any] = [each.users for each in queries]
    if isinstance(users[0], np.ndarray):
        return users
    if isinstance(users[0], list):
        users = encode_batch(served, users)
    good = [place for place, each in enumerate(users) if not isinstance(each, Exception)]
    if good:
        outputs = served.compute_batch(SERVING_DEFAULT, [users[place] for place in good])
        for place, each in zip(good, outputs, strict=True):
            users[place] = each[VECTOR_LAYERS["user"]]
            if len(users[place]) != queries[place].rows:
                users[place] = invalid(f"invalid inputs: {queries[place].rows} rows have {len(users[place])} vectors")
    return users


def _search(retriever: ItemRetriever, queries: Sequence[Query], vectors: Floats) -> list[list[Answer]]:
    """Finds the items of queries that want the same; `vectors` [users, vector_dim] are of all their users."""
    first = queries[0]
    starts = np.cumsum([0, *(each.rows for each in queries)])
    excluded = None
    if any(each.excluded is not None for each in queries):
        pairs = [(start, each.excluded) for start, each in zip(starts[:-1], queries, strict=True)]
        given = [(start, part) for start, part in pairs if part is not None]
        users = np.concatenate([start + each.queries for start, each in given])
        excluded = Ineligible(users, np.concatenate([each.rows for _, each in given]), int(starts[-1]))
    allowed = retriever.allowed() if first.allowed is None else first.allowed
    found = retriever.answer(vectors, first.k, excluded, allowed, names=first.names)
    return [found[start:end] for start, end in zip(starts[:-1], starts[1:], strict=True)]
