"""TF_CONFIG: who trains with whom, and what is wrong with it in one line."""

import json

import pytest

from twotower_tf.errors import ConfigError
from twotower_tf.train.cluster_task import read_task

TWO = {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}


def read(cluster, kind="worker", index=0, timeout=5.0, strategy="multi_worker"):
    document = {"cluster": cluster, "task": {"type": kind, "index": index}, "environment": "cloud"}
    return read_task(timeout, strategy, {"TF_CONFIG": json.dumps(document)})


def test_the_chief_comes_first():
    chief = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    assert [read(chief, "chief").index, read(chief, index=0).index, read(chief, index=1).index] == [0, 1, 2]
    assert read(chief, index=1).addresses == ("a:1", "b:1", "c:1")
    assert read(chief, index=1).describe(0) == "chief 0 (a:1)"
    assert read(TWO).is_chief and not read(TWO, index=1).is_chief


def test_processes_on_one_host_are_counted():
    hosts = {"worker": ["a:1", "b:1", "a:2", "[::1]:3", "a:3"]}
    assert [read(hosts, index=index).local_index for index in range(5)] == [0, 0, 1, 0, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "TF_CONFIG: missing environment variable .*twotower launch"),
        ("{'cluster'", "TF_CONFIG: invalid JSON: .*expected"),
        ("[]", "TF_CONFIG: invalid document"),
        ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG: invalid document"),
    ],
)
def test_an_unusable_variable_is_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_task(5.0, environment={"TF_CONFIG": text})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "message"),
    [
        ({}, "worker", 0, "cluster: missing job 'worker'"),
        (TWO, "evaluator", 0, r"task.type: invalid value 'evaluator' \(expected a job of the cluster: 'worker'\)"),
        (TWO, "chief", 0, "task.type: invalid value 'chief'"),
        (TWO, None, 0, "task.type: invalid value None"),
        (TWO, "worker", 2, r"task.index: invalid value 2 \(expected 0 to 1"),
        (TWO, "worker", "0", r"task.index: invalid value '0'"),
        (TWO, "worker", None, r"task.index: invalid value None"),
        (TWO, "worker", True, r"task.index: invalid value True"),
        (
            {**TWO, "ps": ["a:1"]},
            "worker",
            0,
            "cluster: invalid job 'ps' .*, or train with --strategy=parameter_server$",
        ),
        ({"worker": "a:1"}, "worker", 0, "cluster.worker: invalid value 'a:1'"),
        ({"worker": ["a"]}, "worker", 0, r"cluster.worker: invalid address 'a' \(expected HOST:PORT"),
        ({"worker": ["a:70000"]}, "worker", 0, "cluster.worker: invalid address 'a:70000'"),
        ({"worker": ["a:1", "a:1"]}, "worker", 0, "cluster.worker: the address a:1 stands twice"),
        ({"worker": ["a:1"], "chief": ["b:1", "c:1"]}, "worker", 0, "cluster.chief: invalid number"),
    ],
)
def test_a_wrong_cluster_is_one_line(cluster, kind, index, message):
    with pytest.raises(ConfigError, match=message):
        read(cluster, kind, index)


def test_a_wait_without_end_is_refused():
    with pytest.raises(ConfigError, match="--cluster_timeout: invalid value 0"):
        read(TWO, timeout=0)


SERVED = {"ps": ["c:1", "d:1"], "worker": ["b:1"], "chief": ["a:1"]}


def test_a_cluster_with_servers_has_its_processes_in_order():
    task = read(SERVED, "ps", 1, strategy="parameter_server")
    assert task.has_servers and not task.is_chief and not read(TWO).has_servers
    assert task.names == ("chief 0", "worker 0", "ps 0", "ps 1") and task.place(task.index) == ("ps", 1)
    assert task.list_addresses() == SERVED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ps": []}, r"cluster: missing job 'ps' \(expected .*\"chief\": "),
        ({"worker": []}, "cluster: missing job 'worker'"),
        ({"chief": []}, "cluster: missing job 'chief'"),
        ({"evaluator": ["e:1"]}, "cluster: invalid job 'evaluator' .*'chief', 'worker' and 'ps' for --strategy=param"),
        ({"ps": ["a:1"]}, "cluster.ps: the address a:1 stands twice"),
    ],
)
def test_a_wrong_cluster_with_servers_is_one_line(change, message):
    with pytest.raises(ConfigError, match=message):
        read({**SERVED, **change}, "chief", strategy="parameter_server")
