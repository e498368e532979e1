"""Who is there while a cluster with servers trains: processes that end, hang, come back, or are others."""

import socket
import threading
import time

import pytest

from twotower_tf.errors import ConfigError, LostWorkerError
from twotower_tf.train.cluster_task import ClusterTask
from twotower_tf.train.membership import Contact, Membership

REPORT = {"TensorFlow": "2.20.0", "configuration": "abc"}
NAMES = ("chief 0", "worker 0", "ps 0")


@pytest.fixture
def tasks():
    """Three processes on this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
    addresses = tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    return [ClusterTask(NAMES, addresses, index, 10.0, "parameter_server") for index in range(3)]


class Process:
    """Another process, as a thread: `result` is how it ends."""

    def __init__(self, task, report=REPORT):
        self.result, self.contact, self._task, self._report = None, None, task, report
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.contact = Contact(self._task, self._report)
            self.contact.wait_for_end()
            self.result = "done"
        except (ConfigError, LostWorkerError) as error:
            self.result = str(error)

    def end(self):
        self.contact._connection.close()

    def join(self):
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.result


def start(tasks, log):
    membership = Membership(tasks[0], REPORT, log.append)
    others = [Process(task) for task in tasks[1:]]
    membership.wait_for_all({"addresses": "all"})
    membership.check()
    wait(lambda: all(each.contact for each in others))
    return membership, others


def wait(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_end_when_the_training_is_done(tasks):
    membership, others = start(tasks, [])
    assert [each.contact.answer["addresses"] for each in others] == ["all"] * 2
    wait(lambda: len(membership.peak_bytes) == 2)
    assert membership.peak_bytes["ps 0"] > 1 << 20
    membership.close(done=True)
    assert [each.join() for each in others] == ["done"] * 2


def test_a_chief_that_ends_leaves_one_line(tasks):
    membership, others = start(tasks, [])
    membership.close(done=False)
    for each in others:
        assert each.join().startswith(f"cluster: chief 0 ({tasks[0].addresses[0]}) has ended or does not answer; start")


def test_a_worker_may_end_and_return(tasks):
    log = []
    membership, (worker, server) = start(tasks, log)
    worker.end()
    name = f"worker 0 ({tasks[1].addresses[1]})"
    wait(lambda: log)
    membership.check()
    again = Process(tasks[1])
    wait(lambda: len(log) == 2)
    assert log == [
        f"cluster: {name} has ended; the training goes on without it, and it may be started again",
        f"cluster: {name} is back",
    ]
    other = Process(tasks[1], {**REPORT, "TensorFlow": "2.21.0"})
    assert "two processes are worker 0" in other.join()
    membership.check()
    membership.close(done=True)
    assert [again.join(), server.join()] == ["done"] * 2


def test_a_server_that_ends_ends_the_training(tasks):
    membership, (_, server) = start(tasks, [])
    server.end()
    with pytest.raises(LostWorkerError, match="ps 0 .* has ended, and the rows that it held are lost; .*--resume"):
        membership.wait_for_loss(10.0)
    membership.close(done=False)


def test_a_silent_worker_and_the_absence_of_all_are_noticed(tasks, monkeypatch):
    monkeypatch.setattr(Contact, "_beat", lambda self: None)
    quick = [ClusterTask(task.names, task.addresses, task.index, 1.0, task.strategy) for task in tasks]
    membership, _ = start(quick, [])
    with pytest.raises(LostWorkerError, match=r"\(127.0.0.1:\d+\) has not answered for 1 seconds"):
        membership.wait_for_loss(10.0)
    membership.close(done=False)


def test_a_cluster_without_workers_is_not_waited_for_without_end(tasks):
    quick = [ClusterTask(task.names, task.addresses, task.index, 1.0, task.strategy) for task in tasks]
    membership, (worker, _) = start(quick, [])
    worker.end()
    with pytest.raises(LostWorkerError, match="no worker has been there for 1 seconds"):
        membership.wait_for_loss(10.0)
    membership.close(done=False)


def test_a_missing_process_and_another_version_are_one_line_for_all(tasks):
    quick = [ClusterTask(task.names, task.addresses, task.index, 1.0, task.strategy) for task in tasks]
    membership = Membership(quick[0], REPORT)
    worker = Process(quick[1])
    expected = f"cluster: ps 0 ({quick[0].addresses[2]}) did not come within 1 seconds; start it, or raise"
    with pytest.raises(ConfigError) as caught:
        membership.wait_for_all({})
    assert str(caught.value).startswith(expected) and worker.join() == str(caught.value)
    membership = Membership(tasks[0], REPORT)
    others = [Process(tasks[1]), Process(tasks[2], {**REPORT, "TensorFlow": "2.21.0"})]
    with pytest.raises(ConfigError, match="ps 0 .* has TensorFlow 2.21.0, chief 0 has 2.20.0; start all"):
        membership.wait_for_all({})
    assert "TensorFlow 2.21.0" in others[1].join()
