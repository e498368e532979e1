"""Clusters of parameter servers on this machine, whose processes are forks of one that has imported TensorFlow once."""

import json
import os
import signal
import socket
import sys
import time
import traceback

os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf  # noqa: F401, E402

from twotower_tf.cli import main  # noqa: E402
from twotower_tf.evaluate import validation  # noqa: F401, E402
from twotower_tf.train import parameter_servers, training_loop  # noqa: F401, E402


def fork(arguments, output, environment):
    """Runs a command in a new process; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ |= environment
        with open(output, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = main.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if "NATURAL" in os.environ:
            sys.exit(status)
        os._exit(status)


def find_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return found


class Cluster:
    """The processes of one training: `children` and `outputs` by name, e.g. "ps 0"."""

    def __init__(self, run_dir, arguments, workers=2, servers=2, logs=None):
        addresses = find_addresses(1 + workers + servers)
        self._jobs = {
            "chief": addresses[:1], "worker": addresses[1 : 1 + workers], "ps": addresses[1 + workers :]
        }  # fmt: skip
        self._arguments = ["train", f"--run_dir={run_dir}", "--strategy=parameter_server", *arguments]
        self._logs = logs or run_dir
        self.children, self.outputs = {}, {}
        for job, places in self._jobs.items():
            for index in range(len(places)):
                self.start(job, index)

    def start(self, job, index):
        name = f"{job} {index}"
        place = {"cluster": self._jobs, "task": {"type": job, "index": index}}
        self.outputs[name] = self._logs / f"output-{job}-{index}"
        self.children[name] = fork(self._arguments, self.outputs[name], {"TF_CONFIG": json.dumps(place)})

    def kill(self, name):
        os.kill(self.children[name], signal.SIGKILL)
        os.waitpid(self.children[name], 0)

    def wait(self, seconds=300):
        """Returns the exit status of every process; those that do not end are killed, and have None."""
        deadline, found = time.monotonic() + seconds, {}
        for name, child in self.children.items():
            pid, status = 0, 0
            while not pid and time.monotonic() < deadline:
                pid, status = os.waitpid(child, os.WNOHANG)
                time.sleep(0.02)
            if not pid:
                os.kill(child, signal.SIGUSR1 if "DUMP" in os.environ else signal.SIGKILL)
                time.sleep(1.0)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            found[name] = os.waitstatus_to_exitcode(status) if pid else None
        return found
