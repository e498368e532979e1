"""The queue: what is computed together, what is refused, and what fails alone."""

import asyncio
import threading

import pytest

from twotower_tf.serve.batch_queue import BatchQueue
from twotower_tf.serve.service_errors import ServiceError


class Worker:
    """Doubles numbers, and remembers the batches; waits for `go` where there is one."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()
        self.go.set()

    def __call__(self, items):
        self.go.wait(10)
        self.batches.append(list(items))
        if 13 in items:
            raise ValueError("13")
        return [2 * each for each in items]


def run(scenario, **options):
    async def main():
        queue = BatchQueue("test", **{"workers": 1, "max_queue": 100, "max_batch": 4, **options})
        try:
            return await scenario(queue)
        finally:
            queue.close()

    return asyncio.run(main())


def submit(queue, worker, item, key="same", rows=1, seconds=10.0):
    return asyncio.ensure_future(queue.run(key, worker, item, rows, asyncio.get_running_loop().time() + seconds))


def test_what_waits_is_computed_together_by_kind_and_size():
    worker = Worker()
    worker.go.clear()

    async def scenario(queue):
        jobs = [submit(queue, worker, 0)]
        await asyncio.sleep(0.05)  # the only worker has it
        jobs += [submit(queue, worker, item, "odd" if item % 2 else "even") for item in range(1, 12)]
        await asyncio.sleep(0)
        worker.go.set()
        return await asyncio.gather(*jobs)

    assert run(scenario) == [2 * each for each in range(12)]
    assert worker.batches == [[0], [1, 3, 5, 7], [2, 4, 6, 8], [9, 11], [10]]


def test_what_arrives_together_is_computed_together_though_the_worker_is_free():
    worker = Worker()

    async def scenario(queue):
        return await asyncio.gather(*(submit(queue, worker, item) for item in range(3)))

    assert run(scenario) == [0, 2, 4] and worker.batches == [[0, 1, 2]]


def test_a_computation_may_return_the_error_of_one_item():
    async def scenario(queue):
        jobs = [submit(queue, lambda items: [ValueError(each) if each == 1 else each for each in items], item)
                for item in range(3)]  # fmt: skip
        return await asyncio.gather(*jobs, return_exceptions=True)

    first, error, last = run(scenario)
    assert (first, last) == (0, 2) and isinstance(error, ValueError)


def test_rows_count_and_a_large_job_is_alone():
    worker = Worker()
    worker.go.clear()

    async def scenario(queue):
        jobs = [submit(queue, worker, 0)]
        await asyncio.sleep(0.05)
        jobs += [submit(queue, worker, 1, rows=3), submit(queue, worker, 2, rows=2), submit(queue, worker, 3, rows=9)]
        await asyncio.sleep(0)
        worker.go.set()
        await asyncio.gather(*jobs)

    run(scenario)
    assert worker.batches == [[0], [1], [2], [3]]


def test_only_the_faulty_job_of_a_batch_fails():
    worker = Worker()
    worker.go.clear()

    async def scenario(queue):
        jobs = [submit(queue, worker, 0)]
        await asyncio.sleep(0.05)
        jobs += [submit(queue, worker, item) for item in (1, 13, 2)]
        await asyncio.sleep(0)
        worker.go.set()
        return await asyncio.gather(*jobs, return_exceptions=True)

    first, one, fault, two = run(scenario)
    assert (first, one, two) == (0, 2, 4) and isinstance(fault, ValueError)


def test_a_full_queue_refuses_and_a_deadline_ends_the_wait():
    worker = Worker()
    worker.go.clear()

    async def scenario(queue):
        running = submit(queue, worker, 0)
        await asyncio.sleep(0.05)
        late, waiting = submit(queue, worker, 1, seconds=0.05), submit(queue, worker, 2)
        await asyncio.sleep(0)
        refused = submit(queue, worker, 3)
        with pytest.raises(ServiceError) as full:
            await refused
        with pytest.raises(ServiceError) as passed:
            await late
        worker.go.set()
        return full.value.code, passed.value.code, await running, await waiting

    assert run(scenario, max_queue=2) == ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", 0, 4)
    assert worker.batches == [[0], [2]]  # what nobody waits for is not computed
