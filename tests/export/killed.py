"""Kills exports and refreshes with signal 9: a script that imports TensorFlow once and forks for each attempt.

killed.py export|refresh RUN_DIR ROOT MOMENT...   at points of the code
killed.py export|refresh RUN_DIR ROOT random COUNT SEED   after random times

One JSON object per attempt: how it ended, which versions are there, what is wrong with each, what else is left. After
random attempts, and after the last one, the command is run again, and verify says what is there then.
"""

import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from twotower_tf import artifacts, config
from twotower_tf.export import formats, fresh, manifest, refresh, saved_model, verify
from twotower_tf.index.bundle import Bundle

MOMENTS = {  # name: (where, attribute, which call, whether it is still done)
    "saving a tower": (saved_model, "write", 1, False),
    "writing vectors": (formats, "write", 1, True),
    "before the manifest": (manifest, "write", 1, False),
    "trying it": (fresh, "check", 1, False),
    "syncing": (artifacts, "sync", 6, True),
    "before the rename": (os, "rename", 1, False),
    "after the rename": (os, "rename", 1, True),
    "removing old versions": (os, "rename", 2, True),
}


def arm(moment):
    where, name, which, done = MOMENTS[moment]
    real, calls = getattr(where, name), [0]

    def die(*args, **kwargs):
        calls[0] += 1
        if calls[0] < which:
            return real(*args, **kwargs)
        if done:
            real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(where, name, die)


def forked(work, seconds=None):
    """Runs `work` in a fork; returns its exit status (negative: signal) and the time it took."""
    started = time.monotonic()
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - started


def told_by_fork(work):
    """What `work` returns in a fork, as JSON: TensorFlow must not run in the process that goes on forking."""
    read, write = os.pipe()

    def tell():
        os.write(write, json.dumps(work()).encode())

    forked(tell)
    os.close(write)
    with os.fdopen(read) as told:
        return json.loads(told.read())


def check(root, by):
    """What is wrong with each version, which `by` raises: "" where it passes."""
    found = {}
    for version in sorted(int(path.name) for path in root.iterdir() if path.name.isdigit()):
        try:
            by(root, version)
            found[version] = ""
        except Exception as error:
            found[version] = str(error)
    return found


def main(kind, run_dir, root, *moments):
    run_dir, root = Path(run_dir), Path(root)
    items = root.parent / "items.csv"

    def work(moment=None, keep=0):
        if moment:
            arm(moment)
        if kind == "export":
            from twotower_tf.export import export

            export.export(config.load_run(run_dir), run_dir, root, keep=keep)
        else:
            refresh.refresh(root, items, keep=keep)

    pristine = root.parent / "pristine"
    shutil.copytree(root, pristine)
    attempts = [(moment, None) for moment in moments]
    if moments[0] == "random":
        _, seconds = forked(work)
        generator = random.Random(int(moments[2]))
        attempts = [("random", generator.uniform(0, 1.1 * seconds)) for _ in range(int(moments[1]))]
    if kind == "export":  # once, not in every fork
        importlib.import_module("twotower_tf.export.export")
    for number, (moment, seconds) in enumerate(attempts, 1):
        shutil.rmtree(root)
        shutil.copytree(pristine, root)
        keep = 1 if moment == "removing old versions" else 0
        status, _ = forked(lambda moment=moment, keep=keep: work(None if moment == "random" else moment, keep), seconds)
        thorough = moment == "random"
        told = told_by_fork(lambda by=verify.verify if thorough else Bundle.open: check(root, by))
        left = sorted(path.name for path in root.iterdir() if not path.name.isdigit())
        said = {"moment": moment, "status": status, "versions": told, "left": left}
        if thorough or number == len(attempts):
            said["again"], _ = forked(work)
            said["after"] = told_by_fork(lambda: check(root, verify.verify))
            said["clean"] = not [path for path in root.iterdir() if not path.name.isdigit()]
        print(json.dumps(said), flush=True)
    foreign = [name for name in ("twotower_tf.model", "twotower_tf.train", "tf_keras") if name in sys.modules]
    print(json.dumps({"imported": foreign}))


if __name__ == "__main__":
    main(*sys.argv[1:])
