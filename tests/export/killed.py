"""Kills exports and refreshes with signal 9: a script that imports TensorFlow once and forks for each attempt.

killed.py export|refresh RUN_DIR ROOT MOMENT...   at points of the code
killed.py export|refresh RUN_DIR ROOT random COUNT SEED   after random times

One JSON object per attempt: how it ended, which versions are there, what is wrong with each, what else is left. After
random attempts, and after the last one, the command is run again, and verify says what is there then: each attempt has
a directory of its own, and one process goes through them all at the end.
"""

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from twotower_tf import artifacts, config
from twotower_tf.bundle import manifest, saved_model_edits, vector_formats, verify_bundle, verify_staging
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.export import refresh_bundle

MOMENTS = {  # name: (where, attribute, which call, whether it is still done)
    "saving a tower": (saved_model_edits, "write", 1, False),
    "writing vectors": (vector_formats, "write", 1, True),
    "before the manifest": (manifest, "write", 1, False),
    "verifying": (verify_staging, "run_verify", 1, False),
    "syncing": (artifacts, "sync_to_disk", 6, True),
    "before the rename": (os, "rename", 1, False),
    "after the rename": (os, "rename", 1, True),
    "removing old versions": (os, "rename", 2, True),
}


def arm(moment):
    if (
        moment != "verifying"
    ):  # the version that is to be killed need not be verified, which starts TensorFlow once more
        verify_staging.run_verify = lambda directory: subprocess.CompletedProcess([], 0, "", "")
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


def forked(work, seconds=None, *given):
    """Runs `work` in a fork, killed after so many seconds; returns exit status (negative: signal) and time taken."""
    started = time.monotonic()
    child = os.fork()
    if not child:
        status = 1
        try:
            work(*given)
            status = 0
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - started


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


def afterwards(root, work, thorough, again):
    """What is there after a kill, and after the next run."""
    left = sorted(path.name for path in root.iterdir() if not path.name.isdigit() and path.name != ".lock")
    said = {"versions": check(root, verify_bundle.verify if thorough else Bundle.open), "left": left}
    if again:
        try:
            work(root)
            said["again"] = 0
        except Exception as error:
            said["again"] = str(error)
        said["after"] = check(root, verify_bundle.verify)
        said["clean"] = not [path for path in root.iterdir() if not path.name.isdigit()]
    return said


def main(kind, run_dir, root, *moments):
    run_dir, root = Path(run_dir), Path(root)
    items = root.parent / "items.csv"

    def work(root, moment=None, keep=0):
        if moment:
            arm(moment)
        if kind == "export":
            from twotower_tf.export import export_bundle

            export_bundle.export(config.load_run(run_dir), run_dir, root, keep=keep)
        else:
            refresh_bundle.refresh(root, items, keep=keep)

    def copied(number):
        return shutil.copytree(root, root.parent / f"killed-{number}" / root.name)

    if kind == "export":  # once, not in every fork
        importlib.import_module("twotower_tf.export.export_bundle")
    attempts = [(moment, None) for moment in moments]
    random_moments = moments[0] == "random"
    if random_moments:
        _, seconds = forked(lambda: work(copied("never")))
        generator = random.Random(int(moments[2]))
        attempts = [("random", generator.uniform(0, 1.1 * seconds)) for _ in range(int(moments[1]))]
    places, statuses = [copied(number) for number in range(len(attempts))], []
    for (moment, seconds), place in zip(attempts, places, strict=True):
        armed, keep = None if random_moments else moment, 1 if moment == "removing old versions" else 0
        statuses.append(forked(work, seconds, place, armed, keep)[0])

    def check():
        for (moment, _), place, status in zip(attempts, places, statuses, strict=True):
            again = random_moments or place == places[-1]
            said = afterwards(place, work, random_moments, again)
            print(json.dumps({"moment": moment, "status": status, **said}), flush=True)

    # One process looks at them all: TensorFlow is started once, and never in the process that goes on forking.
    status, _ = forked(check)
    if status:
        raise SystemExit(status)
    foreign = [name for name in ("twotower_tf.model", "twotower_tf.train", "tf_keras") if name in sys.modules]
    print(json.dumps({"imported": foreign}))


if __name__ == "__main__":
    main(*sys.argv[1:])
