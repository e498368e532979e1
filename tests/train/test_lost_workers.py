"""A worker that is killed or hangs in the middle of a training: the others end, and all resume from the checkpoint."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from twotower_tf.artifacts import RunPaths

pytestmark = pytest.mark.quality

FIELDS = ("batch_size=255", "epochs=6", "checkpoint_minutes=0.001")


def command(name, run_dir, *flags):
    sets = [f"--set=train.{field}" for field in FIELDS]
    return [sys.executable, "-m", "twotower_tf", name, f"--run_dir={run_dir}", *sets, *flags]


@pytest.fixture
def run_dir(trained, tmp_path):
    source, _ = trained
    shutil.copytree(source / "prepared", tmp_path / "prepared")
    shutil.copy(source / "config.json", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(trained, tmp_path_factory):
    """The weights of two workers that nothing happens to."""
    source, _ = trained
    run_dir = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(source / "prepared", run_dir / "prepared")
    shutil.copy(source / "config.json", run_dir)
    subprocess.run(command("launch", run_dir), check=True, capture_output=True, timeout=900)
    return weights(run_dir)


def weights(run_dir):
    (path,) = RunPaths(run_dir).checkpoints.glob("00006-000000000")
    with np.load(path / "weights.npz") as file:
        return dict(file)


def disturb(run_dir, worker, number, *flags):
    """Launches two workers, and sends a signal to one of them within an epoch; returns status, output and seconds."""
    with (run_dir / "output").open("w+") as output:
        process = subprocess.Popen(command("launch", run_dir, *flags), stdout=output, stderr=output)
        while not list(RunPaths(run_dir).checkpoints.glob("0000[0-4]-00000000[1-9]")):
            assert process.poll() is None
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        subprocess.run(["kill", f"-{number}", children[worker]], check=True)
        begin = time.monotonic()
        status = process.wait(900)
        output.seek(0)
        return status, output.read(), time.monotonic() - begin


@pytest.mark.parametrize("worker", [0, 1])
def test_a_killed_worker_leads_to_a_restart_and_the_same_model(worker, run_dir, undisturbed):
    status, output, _ = disturb(run_dir, worker, int(signal.SIGKILL), "--restarts=1")
    assert status == 0, output
    expected = f"launch: worker {worker} was ended by SIGKILL; starting again after the last checkpoint (1 of 1)"
    assert output.splitlines().count(expected) == 1 and "Traceback" not in output
    found = weights(run_dir)
    assert found.keys() == undisturbed.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, undisturbed[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_worker_that_hangs_is_not_waited_for_without_end(run_dir):
    status, output, seconds = disturb(run_dir, 1, int(signal.SIGSTOP), "--cluster_timeout=60")
    assert status == 75, output
    assert seconds < 300
    assert "[worker 0] twotower train: cluster: another worker has ended or does not answer; start all" in output
    assert "worker 0 ended with exit status 75; continue with --resume" in output and "Traceback" not in output
