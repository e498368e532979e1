"""Workers meet before they train: with one line on each of them where something is wrong, and never without end."""

import dataclasses
import socket
import threading
import time

import pytest

from twotower_tf import config as configuration
from twotower_tf.errors import ConfigError
from twotower_tf.train.cluster_task import ClusterTask
from twotower_tf.train.worker_meeting import find_problem, meet, wait_for_chief
from twotower_tf.train.workers import describe_training

REPORT = {"TensorFlow": "2.20.0", "configuration": "abc"}


@pytest.fixture
def tasks():
    """Three processes on this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    addresses = tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    names = ("worker 0", "worker 1", "worker 2")
    return [ClusterTask(names, addresses, index, timeout=20.0) for index in range(3)]


def run(pairs):
    """Lets processes meet, each in a thread; returns the error of each, or ""."""
    errors = [""] * len(pairs)

    def one(place, task, report, delay):
        time.sleep(delay)
        try:
            meet(task, report)
        except ConfigError as error:
            errors[place] = str(error)

    threads = [threading.Thread(target=one, args=(place, *pair), daemon=True) for place, pair in enumerate(pairs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return errors


def test_all_go_on_when_all_have_come_in_any_order(tasks):
    begin = time.monotonic()
    assert run([(task, REPORT, delay) for task, delay in zip(tasks, (0.6, 0.0, 0.3), strict=True)]) == ["", "", ""]
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("name", REPORT)
def test_a_difference_ends_all_with_the_same_line(tasks, name):
    other = {**REPORT, name: "another"}
    errors = run([(tasks[0], REPORT, 0), (tasks[1], REPORT, 0), (tasks[2], other, 0.3)])
    expected = (
        f"cluster: worker 2 ({tasks[2].addresses[2]}) has {name} another, worker 0 has {REPORT[name]}; "
        "start all processes with the same"
    )
    assert errors == [expected] * 3


def test_another_configuration_is_named_by_its_field(tasks, trained):
    """Where the log lies may differ between machines."""
    run_dir, config = trained
    other = configuration.override(config, ["data.root='/elsewhere'", "train.epochs=7", "seed=3"])
    reports = [
        describe_training(tasks[0], each, run_dir, resume=False, warm_start="") for each in (config, other, config)
    ]
    assert find_problem(tasks[0], 2, False, reports[0], reports[2]) == ""
    line = find_problem(tasks[0], 2, False, reports[0], reports[1])
    assert line == (
        f"cluster: worker 2 ({tasks[2].addresses[2]}) has seed 3, worker 0 has {config.seed}; start all processes with "
        "the same"
    )


def test_a_worker_that_never_comes_is_named_to_all_others(tasks):
    short = [dataclasses.replace(task, timeout=1.0) for task in tasks]
    errors = run([(short[0], REPORT, 0), (short[2], REPORT, 0)])
    expected = f"cluster: worker 1 ({tasks[0].addresses[1]}) did not come within 1 seconds; start it, or raise "
    assert errors == [expected + "--cluster_timeout"] * 2


def test_several_that_never_come_are_named(tasks):
    (line,) = run([(dataclasses.replace(tasks[0], timeout=0.2), REPORT, 0)])
    missing = ", ".join(tasks[0].describe(index) for index in (1, 2))
    assert line == (
        f"cluster: {missing} did not come within 0.2 seconds; start each of them, or raise --cluster_timeout"
    )


def test_a_chief_that_never_comes_is_named(tasks):
    (line,) = run([(dataclasses.replace(tasks[1], timeout=0.5), REPORT, 0)])
    assert line.startswith(f"cluster: worker 0 ({tasks[0].addresses[0]}) did not answer within 0.5 seconds")


def test_a_process_waits_for_the_chief_without_being_counted(tasks):
    """As where the chief prepares something first, which the others then read."""
    begin, waited = time.monotonic(), []

    def wait():
        wait_for_chief(tasks[1])
        waited.append(time.monotonic() - begin)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert run([(tasks[0], REPORT, 0.4), (tasks[1], REPORT, 1.0), (tasks[2], REPORT, 0.4)]) == ["", "", ""]
    waiting.join(20)
    assert waited and waited[0] >= 0.4
    with pytest.raises(ConfigError, match="did not answer within 0.1 seconds"):
        wait_for_chief(dataclasses.replace(tasks[1], timeout=0.1))


def test_a_port_in_use_is_one_line(tasks):
    host, port = tasks[1].addresses[1].split(":")
    with socket.create_server((host, int(port))):
        (line,) = run([(tasks[1], REPORT, 0)])
    assert line.startswith(f"TF_CONFIG: the port of worker 1 ({host}:{port}) cannot be opened: in use by another")


def test_what_is_not_a_worker_is_not_counted(tasks):
    def knock():
        for text in (b"GET / HTTP/1.1\r\n\r\n", b'{"index": 9}\n', b'{"index": "1"}\n', b""):
            for _ in range(100):
                try:
                    with socket.create_connection(("127.0.0.1", int(tasks[0].addresses[0].split(":")[1]))) as other:
                        other.sendall(text)
                        other.shutdown(socket.SHUT_WR)
                    break
                except OSError:
                    time.sleep(0.02)

    stranger = threading.Thread(target=knock, daemon=True)
    stranger.start()
    assert run([(tasks[0], REPORT, 0), (tasks[1], REPORT, 0.5), (tasks[2], REPORT, 0.5)]) == ["", "", ""]
    stranger.join(30)
