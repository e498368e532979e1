"""Objectives with a planted optimum, in the place of trainings; processes of a search import them."""

import math
import os
import signal
import time
from concurrent.futures import Future

from twotower_tf.tune.run_trial import run_trial

BEST_LR = 0.02
EPOCHS = 5


class Inline:
    """Runs trials in the process of the test."""

    def __init__(self, threads):
        self.threads = threads

    def start(self, task):
        outcome = Future()
        outcome.set_result(run_trial(task))
        return outcome

    def close(self):
        pass


def height(config):
    """Of the planted hill: 1 at the best learning rate with residual towers, lower by the squared log distance."""
    away = math.log10(config.train.initial_lr / BEST_LR)
    return 1.0 - away * away - (0.0 if config.model.residual else 0.2)


def climb(config, run_dir, report):
    """Reaches the hill's height in five epochs; each is reported."""
    with (run_dir / "epochs").open("a") as file:
        for epoch in range(1, EPOCHS + 1):
            file.write(f"{os.getpid()}\n")
            report(epoch, height(config) * epoch / EPOCHS)
    return height(config), EPOCHS, EPOCHS


def climb_slowly(config, run_dir, report):
    """Writes which process runs the trial, and waits; the process of the second trial kills itself."""
    (run_dir / "pid").write_text(str(os.getpid()))
    if run_dir.name == "00001":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    return climb(config, run_dir, report)


def climb_until_killed(config, run_dir, report):
    """Never ends from the third trial on, until the file `go` is there."""
    (run_dir / "pid").write_text(str(os.getpid()))
    while int(run_dir.name) >= 2 and not (run_dir.parent / "go").exists():
        time.sleep(0.02)
    return climb(config, run_dir, report)
