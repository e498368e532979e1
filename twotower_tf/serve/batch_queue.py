"""A bounded queue in front of worker threads, which compute together what waits together.

A worker that is free takes all waiting jobs of one kind, up to a number of rows. So a request alone is never delayed,
and batches grow with the load. Where a batch fails, its jobs are computed one by one: only the faulty one fails.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from twotower_tf.serve.service_errors import ServiceError

Compute = Callable[[list[Any]], list[Any]]


@dataclass
class _Job:
    key: Hashable
    compute: Compute
    item: Any
    rows: int
    deadline: float
    answer: asyncio.Future[Any]


class BatchQueue:
    """Belongs to one event loop."""

    def __init__(
        self, name: str, workers: int, max_queue: int, max_batch: int = 1, observe: Callable[[int], None] | None = None
    ) -> None:
        """Starts no thread yet.

        Args:
            name: of the threads.
            workers: threads.
            max_queue: jobs that may wait.
            max_batch: rows that are computed together; a larger job is computed alone.
            observe: called with the rows of every batch.
        """
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._free = workers
        self._starting = False
        self._waiting: deque[_Job] = deque()
        self._max_queue, self._max_batch, self._observe = max_queue, max_batch, observe

    def __len__(self) -> int:
        """Returns the number of waiting jobs."""
        return len(self._waiting)

    async def run(self, key: Hashable, compute: Compute, item: Any, rows: int, deadline: float) -> Any:
        """Computes an item, together with waiting items of the same key.

        Args:
            key: of items that may be computed together.
            compute: gets items of one key and returns as many results, an exception for an item that fails; runs in a
                worker thread.
            item: to be computed.
            rows: how many rows of a batch it is.
            deadline: on the event loop's clock.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED where too many jobs wait; DEADLINE_EXCEEDED where it was not computed in
                time.
            Exception: what `compute` raises or returns for this item.
        """
        loop = asyncio.get_running_loop()
        if len(self._waiting) >= self._max_queue:
            raise ServiceError(
                "RESOURCE_EXHAUSTED", f"The queue is full ({self._max_queue} requests); send the request again later"
            )
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(_Job(key, compute, item, rows, deadline, answer))
        self._start_soon()
        try:
            return await asyncio.wait_for(answer, max(0.0, deadline - loop.time()))
        except asyncio.TimeoutError:
            raise ServiceError("DEADLINE_EXCEEDED", "Deadline exceeded") from None

    def close(self) -> None:
        """Ends the threads after what they compute now; what waits is not computed any more."""
        self._waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start_soon(self) -> None:
        """Starts after the requests that have arrived by now: the first of them does not leave without the others."""
        if self._free and not self._starting:
            self._starting = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        """Gives batches to the workers that are free."""
        self._starting = False
        loop = asyncio.get_running_loop()
        while self._free and self._waiting:
            jobs = self._take(loop.time())
            if jobs:
                self._free -= 1
                if self._observe:
                    self._observe(sum(job.rows for job in jobs))
                done = loop.run_in_executor(self._threads, _compute, jobs[0].compute, [job.item for job in jobs])
                done.add_done_callback(lambda done, jobs=jobs: self._finish(jobs, done.result()))  # type: ignore[misc]

    def _take(self, now: float) -> list[_Job]:
        """Takes the first waiting job and those that go with it; drops jobs that nobody waits for any more."""
        jobs: list[_Job] = []
        rows, left = 0, deque[_Job]()
        for job in self._waiting:
            if job.answer.done() or job.deadline <= now:
                continue  # `run` reports it
            if not jobs or (job.key == jobs[0].key and rows + job.rows <= self._max_batch):
                jobs.append(job)
                rows += job.rows
            else:
                left.append(job)
        self._waiting = left
        return jobs

    def _finish(self, jobs: list[_Job], results: list[Any]) -> None:
        self._free += 1
        for job, result in zip(jobs, results, strict=True):
            if job.answer.done():
                continue
            if isinstance(result, Exception):
                job.answer.set_exception(result)
            else:
                job.answer.set_result(result)
        self._start_soon()


def _compute(compute: Compute, items: list[Any]) -> list[Any]:
    """Returns a result or an exception per item."""
    try:
        results = compute(items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results of {len(items)} items")
        return results
    except Exception as error:
        if len(items) == 1:
            return [error]
    return [result for item in items for result in _compute(compute, [item])]
