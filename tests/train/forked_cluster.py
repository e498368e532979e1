"""Trains with parameter servers on this machine, in forks of one process that has imported TensorFlow once.

    python -m tests.train.forked_cluster RUN_DIR WORKERS SERVERS VICTIM RETURNS FLAG ...

VICTIM, e.g. "ps 1", is killed as soon as there is a checkpoint within an epoch, and started again after RETURNS
seconds, both "" for no such thing. Prints the exit statuses by name as JSON; what the processes print is in
RUN_DIR/output.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

import tensorflow  # noqa: F401, E402

from twotower_tf.artifacts import RunPaths  # noqa: E402
from twotower_tf.cli import main  # noqa: E402
from twotower_tf.evaluate import validation  # noqa: F401, E402
from twotower_tf.train import parameter_servers, training_loop  # noqa: F401, E402

TIMEOUT = 400.0


def fork(arguments, output, environment):
    """Runs a command in a new process; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ |= environment
        with output.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = main.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Cluster:
    """The processes of one training by name, e.g. "ps 0"."""

    def __init__(self, run_dir, workers, servers, flags):
        self._arguments = ["train", f"--run_dir={run_dir}", "--strategy=parameter_server", *flags]
        self._outputs = run_dir / "output"
        self._outputs.mkdir(exist_ok=True)
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(1 + workers + servers)]
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        for each in sockets:
            each.close()
        self._jobs = {
            "chief": addresses[:1], "worker": addresses[1 : 1 + workers], "ps": addresses[1 + workers :]
        }  # fmt: skip
        self.children = {}
        for job, places in self._jobs.items():
            for index in range(len(places)):
                self.start(f"{job} {index}")

    def start(self, name):
        job, index = name.split()
        place = {"cluster": self._jobs, "task": {"type": job, "index": int(index)}}
        output = self._outputs / f"{job}-{index}"
        self.children[name] = fork(self._arguments, output, {"TF_CONFIG": json.dumps(place)})

    def kill(self, name):
        os.kill(self.children[name], signal.SIGKILL)
        os.waitpid(self.children.pop(name), 0)

    def wait(self):
        """Returns the exit status of every process; None for those that do not end, which are killed."""
        deadline, found = time.monotonic() + TIMEOUT, {}
        for name, child in self.children.items():
            pid, status = 0, 0
            while not pid and time.monotonic() < deadline:
                pid, status = os.waitpid(child, os.WNOHANG)
                time.sleep(0.02)
            if not pid:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            found[name] = os.waitstatus_to_exitcode(status) if pid else None
        return found


def run():
    run_dir, workers, servers, victim, returns, *flags = sys.argv[1:]
    cluster = Cluster(Path(run_dir), int(workers), int(servers), flags)
    if victim:
        chief = cluster.children["chief 0"]
        while os.waitid(os.P_PID, chief, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and not list(
            RunPaths(Path(run_dir)).checkpoints.glob("[0-9]*-*[1-9]*")
        ):
            time.sleep(0.01)
        cluster.kill(victim)
        if returns:
            time.sleep(float(returns))
            cluster.start(victim)
    print(json.dumps(cluster.wait()))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        run()
