"""What REST and gRPC have in common: requests to answers, through the queues, of one version each."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from twotower_tf.bundle.signature_names import ITEM_IDS, MODEL_VERSION, RECOMMEND, SCORES, SERVING_DEFAULT
from twotower_tf.features.inputs import make_object_array
from twotower_tf.serve import signature_tensors
from twotower_tf.serve.batch_queue import BatchQueue
from twotower_tf.serve.model_manager import ModelManager
from twotower_tf.serve.recommendations import Answer, Query, Users, recommend_batch
from twotower_tf.serve.remote_tower import RemoteTower
from twotower_tf.serve.served_version import ServedVersion
from twotower_tf.serve.service_errors import invalid
from twotower_tf.serve.service_metrics import ServiceMetrics
from twotower_tf.serve.service_options import ServiceOptions
from twotower_tf.serve.signature_tensors import Arrays

K, EXCLUDE, FILTER = "k", "exclude", "filter"
EXTRAS = (K, EXCLUDE, FILTER)  # inputs that signature `recommend` has here in addition to the features
_FILTER_THREADS, _MOST_FILTERS = 2, 32
_LARGE = 2_000  # values: converting so many takes some milliseconds

Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Wish:
    """What a user wants of a recommendation, apart from the features.

    Attributes:
        k: number of items.
        exclude: per user, ids of items not to answer.
        filter: SQL expression over the catalogue's columns; "" for all items.
        names: adds the items' names.
    """

    k: Any
    exclude: Any = None
    filter: str = ""
    names: bool = False


class RetrievalService:
    """Answers requests. Belongs to one event loop.

    Attributes:
        options: of the service.
        manager: the versions.
        metrics: of the service.
        stopping: whether it is about to end.
    """

    def __init__(self, options: ServiceOptions, manager: ModelManager, metrics: ServiceMetrics) -> None:
        """Starts no thread yet."""
        self.options, self.manager, self.metrics = options, manager, metrics
        self.stopping = False
        self._queue = BatchQueue(
            "compute", options.count_workers(), options.max_queue, options.max_batch, metrics.batch_rows.observe
        )
        self._filters = BatchQueue("filter", _FILTER_THREADS, _MOST_FILTERS)
        self._large = BatchQueue("large", 1, options.max_queue)
        self._remote = RemoteTower(options) if options.user_tower else None
        metrics.watch_queue(lambda: len(self._queue))

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
        return self.manager.ready and not self.stopping

    def deadline(self, seconds: float | None = None) -> float:
        """Returns the moment, on the event loop's clock, until which a request may take."""
        limit = self.options.timeout_seconds
        return asyncio.get_running_loop().time() + (limit if seconds is None else seconds)

    async def work(self, size: int, function: Callable[[Given], Result], given: Given, deadline: float) -> Result:
        """Calls a function; in a thread where its input or output is large, so that no other request waits for it.

        Args:
            size: about how many values are converted.
            function: called with `given`.
            given: what is converted.
            deadline: on the event loop's clock.

        Raises:
            ServiceError: where it cannot be done in time.
            Exception: what `function` raises.
        """
        if size < _LARGE:
            return function(given)
        result: Result = await self._large.run(
            object(), lambda items: [function(each) for each in items], given, 1, deadline
        )
        return result

    async def predict(self, served: ServedVersion, signature: str, arrays: Arrays, deadline: float) -> Arrays:
        """Computes the outputs of a signature; `recommend` is answered from the index.

        Args:
            served: a version in use.
            signature: one of its signatures, or `recommend`.
            arrays: its inputs, and for `recommend` any of `EXTRAS`.
            deadline: on the event loop's clock.

        Raises:
            ServiceError, DataError: where it cannot be computed.
        """
        if signature == RECOMMEND:
            return await self._recommend_arrays(served, arrays, deadline)
        return await self._compute(served, signature, arrays, deadline)

    async def recommend(
        self, served: ServedVersion, rows: Sequence[Mapping[str, Any]], wish: Wish, deadline: float
    ) -> tuple[list[Answer], int]:
        """Recommends items to users given by their feature values, in the forms of the log.

        Returns:
            An answer per user, and the version that they are of.

        Raises:
            ServiceError, DataError: where it cannot be computed.
        """
        self._check_rows(len(rows))
        if self._remote is None:
            key = (served, RECOMMEND, "rows")
            return await self._answer(served, key, list(rows), len(rows), wish, deadline), served.version
        size = len(rows) * len(served.inputs)
        arrays = await self.work(size, served.encode_rows, rows, deadline)
        return await self._recommend(served, arrays, wish, deadline)

    async def similar(self, served: ServedVersion, item: Any, wish: Wish, deadline: float) -> Answer:
        """Finds the items nearest to an item.

        Raises:
            ServiceError, DataError: where it cannot be computed.
        """
        retriever = served.retriever

        def find(items: list[Any]) -> list[Answer]:
            return [retriever.similar(each, wish.k, wish.filter, names=wish.names) for each in items]

        answer: Answer = await self._filters.run(object(), find, item, 1, deadline)
        return answer

    async def close(self) -> None:
        """Ends the threads and connections."""
        self._queue.close()
        self._filters.close()
        self._large.close()
        if self._remote is not None:
            await self._remote.close()

    async def _compute(self, served: ServedVersion, signature: str, arrays: Arrays, deadline: float) -> Arrays:
        """Computes the outputs of a signature, together with those of other requests."""
        rows = self._check_rows(max((len(each) for each in arrays.values() if each.ndim), default=1))
        same = signature_tensors.batch_key(served.signatures[signature], arrays)
        key = object() if same is None else (served, signature, same)
        outputs: Arrays = await self._queue.run(
            key, functools.partial(served.compute_batch, signature), arrays, rows, deadline
        )
        return outputs

    async def _recommend(
        self, served: ServedVersion, arrays: Arrays, wish: Wish, deadline: float
    ) -> tuple[list[Answer], int]:
        rows = self._check_rows(max((len(each) for each in arrays.values() if each.ndim), default=1))
        if self._remote is None:
            same = signature_tensors.batch_key(served.signatures[SERVING_DEFAULT], arrays)
            key = object() if same is None else (served, RECOMMEND, same)
            return await self._answer(served, key, arrays, rows, wish, deadline), served.version
        vectors, version = await self._remote.embed(arrays, rows, deadline)
        if version != served.version:
            served = await self.manager.wait_for(version, deadline)
        with served.used():
            return await self._answer(served, (served, RECOMMEND, "vectors"), vectors, rows, wish, deadline), version

    async def _answer(
        self, served: ServedVersion, key: Hashable, users: Users, rows: int, wish: Wish, deadline: float
    ) -> list[Answer]:
        """Finds the items of each user, together with those of other requests: in one step, from features to items."""
        retriever = served.retriever
        k, allowed = retriever.check_k(wish.k), None
        excluded = retriever.exclusions(wish.exclude, rows)
        if wish.filter:
            allowed = await self._filters.run(object(), lambda filters: [*map(retriever.allowed, filters)], wish.filter,
                                              1, deadline)  # fmt: skip
        query = Query(users, rows, k, wish.names, allowed, excluded)
        answers: list[Answer] = await self._queue.run(
            key, functools.partial(recommend_batch, served), query, rows, deadline
        )
        return answers

    async def _recommend_arrays(self, served: ServedVersion, arrays: Arrays, deadline: float) -> Arrays:
        """Answers signature `recommend`: raw features in, tables out."""
        features = {name: array for name, array in arrays.items() if name not in EXTRAS or name in served.raw_inputs}
        extras = {name: array for name, array in arrays.items() if name not in features}
        answers, version = await self._recommend(served, features, _read_extras(served, extras), deadline)
        size = sum(len(each[SCORES]) for each in answers)
        return await self.work(size, lambda found: _write_tables(found, version), answers, deadline)

    def _check_rows(self, rows: int) -> int:
        """Returns the number of rows of a request.

        Raises:
            ServiceError: where they are too many.
        """
        if rows > self.options.max_instances:
            raise invalid(f"invalid number of instances {rows} (expected at most {self.options.max_instances})")
        return rows


def _write_tables(answers: list[Answer], version: int) -> Arrays:
    """Writes answers as the outputs of signature `recommend`; short rows end with "" and NaN."""
    width = max((len(each[ITEM_IDS]) for each in answers), default=0)
    ids = [[item.encode() for item in each[ITEM_IDS]] + [b""] * (width - len(each[ITEM_IDS])) for each in answers]
    scores = np.full((len(answers), width), np.nan, np.float32)
    for row, each in zip(scores, answers, strict=True):
        row[: len(each[SCORES])] = each[SCORES]
    return {
        ITEM_IDS: make_object_array(ids).reshape(len(answers), width),
        SCORES: scores,
        MODEL_VERSION: np.full(len(answers), version, np.int64),
    }


def _read_extras(served: ServedVersion, extras: Arrays) -> Wish:
    """Reads the inputs of `recommend` that are not features.

    Raises:
        ServiceError: for one of another type or shape.
    """
    kinds = {K: np.integer, EXCLUDE: np.object_, FILTER: np.object_}
    for name, array in extras.items():
        if not np.issubdtype(array.dtype, kinds[name]) or (array.ndim != 2 if name == EXCLUDE else array.size != 1):
            expected = "strings [batch, any]" if name == EXCLUDE else f"one {'int64' if name == K else 'string'}"
            raise invalid(f"{name}: invalid tensor (expected {expected})")
    try:
        exclude = [[item.decode() for item in row if item] for row in extras[EXCLUDE]] if EXCLUDE in extras else None
        predicate = extras[FILTER].item().decode() if FILTER in extras else ""
    except UnicodeDecodeError:
        raise invalid("exclude, filter: invalid text (expected UTF-8)") from None
    return Wish(int(extras[K].item()) if K in extras else served.default_k, exclude, predicate)
