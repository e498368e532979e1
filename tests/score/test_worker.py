"""A worker process: what it imports, and which errors reach the parent."""

import errno
import subprocess
import sys

import pyarrow as pa
import pytest

from twotower_tf.errors import ArtifactError
from twotower_tf.score import worker


def test_keras_is_not_imported():
    code = """
import sys
from twotower_tf.score import worker
worker.import_module = lambda name: None
worker.warm_up()
for name in ("keras", "keras.src.optimizers"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        print("no", name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["no keras", "no keras.src.optimizers"]


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's error, which the parent cannot unpickle without TensorFlow."""


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (ArtifactError("bundle: damaged"), ArtifactError, "bundle: damaged"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/part"), OSError, "No space left on device: '/a/part'"),
        (pa.ArrowMemoryError("malloc of 9 bytes"), MemoryError, "malloc of 9 bytes"),
        (ResourceExhaustedError("OOM when allocating"), MemoryError, "OOM when allocating"),
        (ZeroDivisionError("by zero"), RuntimeError, "a worker failed: by zero\nTraceback"),
    ],
)
def test_errors_reach_the_parent_in_types_that_it_knows(monkeypatch, raised, kind, text):
    monkeypatch.setattr(worker, "_scorer", None)

    def load(job):
        raise raised

    with pytest.raises(kind) as found:
        worker.run_unit(load, _job(), None, None, 64)
    assert type(found.value) is kind and text in str(found.value)


def _job():
    class Job:
        threads = 1

    return Job()
