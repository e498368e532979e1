"""Trains in processes of its own that are killed, for `test_resume`; TensorFlow is imported once, before they fork.

    python -m tests.train.killing RUN_DIR SEED,SEED,...

RUN_DIR is prepared. Prints one JSON line per moment: how far the killed training had come, and whether the resumed one
ended with the undisturbed one's weights, bit for bit.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

import numpy as np  # noqa: E402

from twotower_tf import config as configuration  # noqa: E402
from twotower_tf.artifacts import RunPaths  # noqa: E402
from twotower_tf.train import training_loop  # noqa: E402


def begin(run_dir, resume):
    """Trains in a new process and returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        training_loop.train(configuration.load_run(run_dir), run_dir, resume=resume)
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def copied(source, run_dir):
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    (run_dir / "prepared").symlink_to((source / "prepared").resolve())
    shutil.copy(source / "config.json", run_dir)
    return run_dir


def wait_for(child, run_dir, count):
    """Until so many checkpoints were seen, or the child has ended."""
    seen = set()
    while len(seen) < count and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        seen |= {path.name for path in RunPaths(run_dir).checkpoints.glob("[0-9]*")}
        time.sleep(0.005)


def state(run_dir):
    """Every weight and number of optimizer state of the newest checkpoint, as bytes."""
    newest = max(path for path in RunPaths(run_dir).checkpoints.iterdir() if path.name[0] != ".")
    files = {name: np.load(newest / f"{name}.npz") for name in ("weights", "optimizer")}
    return newest.name, {f"{name}/{key}": file[key].tobytes() for name, file in files.items() for key in file}


def history(run_dir):
    untimed = ("examples_per_second", "step_ms", "input_bound_fraction")
    epochs = json.loads(RunPaths(run_dir).train.read_text())["history"]
    return [{name: value for name, value in epoch.items() if name not in untimed} for epoch in epochs]


def main():
    source, seeds = Path(sys.argv[1]), [int(seed) for seed in sys.argv[2].split(",")]
    undisturbed = copied(source, source / "undisturbed")
    finish(begin(undisturbed, resume=False))
    name, expected = state(undisturbed)
    for seed in seeds:
        run_dir = copied(source, source / f"killed-{seed}")
        child = begin(run_dir, resume=False)
        rng = random.Random(seed)
        # After the first checkpoint within an epoch, or at any moment: also before it, and while one is being written.
        # Checkpoints are waited for, not seconds: a machine is slow in one run and fast in the next.
        wait_for(child, run_dir, rng.randrange(6) if seed else 1)
        time.sleep(rng.uniform(0.0, 0.2) if seed else 0.0)
        os.kill(child, signal.SIGKILL)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        left = sorted(path.name for path in run_dir.glob("checkpoints/[0-9]*"))
        finish(begin(run_dir, resume=True))
        found, got = state(run_dir)
        print(
            json.dumps(
                {
                    "killed": killed,
                    "left": left[-1] if left else "",
                    "same": (found, got) == (name, expected),
                    "files": len(got),
                    "histories": [history(run_dir), history(undisturbed)],
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
