"""Real worker processes on this machine: the same model as one process makes, and one line where something fails."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.train.compared_bundles import assert_same_answers
from twotower_tf.artifacts import RunPaths
from twotower_tf.cli import launch, main, train
from twotower_tf.cli.command import parse
from twotower_tf.config import TrainConfig
from twotower_tf.errors import FailedWorkerError
from twotower_tf.pipeline import Pipeline
from twotower_tf.train import local_cluster

# 701 rows are 350 and 351. Few steps: row-wise Adagrad divides a row's first gradient by its own size, so that rounding
# errors of small gradients grow. At batch 255, one unit in the last place of the initial weights moves a row by .1 in
# an epoch of a single process.
FIELDS = {"batch_size": 701, "epochs": 2, "monitor": "recall@20"}


@pytest.fixture(scope="module")
def both(trained, tmp_path_factory):
    """Two workers' run directory and what they printed, and the run directory of one process."""
    source, config = trained
    together, alone = tmp_path_factory.mktemp("together"), tmp_path_factory.mktemp("alone")
    for run_dir in (together, alone):
        shutil.copytree(source / "prepared", run_dir / "prepared")
        shutil.copy(source / "config.json", run_dir)
    sets = [f"--set=train.{name}={value}" for name, value in FIELDS.items()]
    done = subprocess.run(
        [sys.executable, "-m", "twotower_tf", "launch", "--workers=2", f"--run_dir={together}", *sets],
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr
    Pipeline(dataclasses.replace(config, train=TrainConfig(**FIELDS)), alone).train(force=True)
    return together, alone, done


def test_two_workers_make_the_model_of_one(both):
    together, alone, _ = both
    for name in ("weights", "optimizer"):
        files = [np.load(RunPaths(each).checkpoints / "00002-000000000" / f"{name}.npz") for each in (together, alone)]
        assert files[0].files == files[1].files
        for key in files[0].files:
            np.testing.assert_allclose(files[0][key], files[1][key], rtol=1e-3, atol=2e-5, err_msg=key)
    histories = [json.loads(RunPaths(each).train.read_text())["history"] for each in (together, alone)]
    for got, expected in zip(*histories, strict=True):
        for name in ("loss", "masked_share", "val_recall@20", "val_ndcg@10"):
            assert got[name] == pytest.approx(expected[name], rel=1e-3), name


@pytest.mark.quality
def test_the_bundle_of_two_workers_is_verified_and_answers_as_that_of_one(both, tmp_path):
    assert_same_answers(*both[:2], tmp_path)


def test_the_chief_alone_writes_and_reports(both):
    together, alone, done = both
    assert sorted(each.name for each in together.iterdir()) == sorted(each.name for each in alone.iterdir())
    writers = {each.name.split(".")[4] for each in (RunPaths(together).logs / "train").glob("events.*")}
    assert len(writers) == 1  # the process, in the names of TensorBoard's files
    lines = done.stdout.splitlines()
    assert [line for line in lines if "best epoch" in line] == [lines[-1]]
    assert lines[-1].startswith("[worker 0] 2 epochs, best epoch ")
    assert not [line for line in lines if not line.startswith("[worker 0] ")]


@pytest.fixture
def fake(monkeypatch):
    """Runs Python code in the place of `twotower train`; `status` is how worker 1 ends, when it does not resume."""

    def run(ending, workers=2, **options):
        code = f"""
import json, os, sys, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
print(index, *sys.argv[1:], flush=True)
if "--resume" not in sys.argv:
    if index == 1:
        time.sleep(0.5)
        {ending}
    time.sleep(100)
"""
        monkeypatch.setattr(local_cluster, "_INTERPRETER", (sys.executable, "-c", code))
        local_cluster.run_cluster(workers, ["--run_dir=r"], **options)

    return run


def test_a_cluster_starts_again_after_the_last_checkpoint(fake, capfd):
    begin = time.monotonic()
    fake("os.kill(os.getpid(), 9)", workers=3, restarts=1)
    assert time.monotonic() - begin < 60  # the other two do not sleep to their end
    lines = capfd.readouterr().out.splitlines()
    first = {f"[worker {index}] {index} --run_dir=r --strategy=multi_worker" for index in range(3)}
    again = {f"[worker {index}] {index} --run_dir=r --resume --strategy=multi_worker" for index in range(3)}
    assert set(lines[:3]) == first and set(lines[4:]) == again
    assert lines[3] == "launch: worker 1 was ended by SIGKILL; starting again after the last checkpoint (1 of 1)"


@pytest.mark.parametrize(
    ("ending", "restarts", "message", "status"),
    [
        ("os.kill(os.getpid(), 9)", 0, "worker 1 was ended by SIGKILL; continue with --resume", 137),
        ("sys.exit(75)", 0, "worker 1 ended with exit status 75; continue with --resume", 75),
        ("sys.exit(2)", 3, "worker 1 ended with exit status 2", 2),  # what is wrong stays wrong
    ],
)
def test_a_failed_cluster_is_one_line(fake, ending, restarts, message, status):
    with pytest.raises(FailedWorkerError) as caught:
        fake(ending, restarts=restarts)
    assert str(caught.value) == message and caught.value.exit_status == status


@pytest.fixture
def fake_servers(monkeypatch):
    """As `fake`, with one server and two workers; `ps` and `worker` are what these do, where they do not resume."""

    def run(worker="", ps="", chief="time.sleep(2)", **options):
        code = f"""
import json, os, sys, time
place = json.loads(os.environ["TF_CONFIG"])["task"]
name = place["type"] + str(place["index"])
mark = os.path.join({str(options.pop("marks"))!r}, name)
again = os.path.exists(mark)
open(mark, "w").close()
print("again" if again else "first", *sys.argv[1:], flush=True)
if name == "chief0":
    {chief}
    sys.exit(0)
if not again and name == "worker1":
    {worker or "pass"}
if not again and name == "ps0":
    {ps or "pass"}
time.sleep(100)
"""
        monkeypatch.setattr(local_cluster, "_INTERPRETER", (sys.executable, "-c", code))
        monkeypatch.setattr(local_cluster, "_LEAVING", 0.1)
        local_cluster.run_cluster(2, ["--run_dir=r"], servers=1, **options)

    return run


def test_a_worker_of_servers_is_started_again_by_itself(fake_servers, capfd, tmp_path):
    fake_servers(worker="os.kill(os.getpid(), 9)", restarts=1, marks=tmp_path)
    lines = capfd.readouterr().out.splitlines()
    assert lines.count("launch: worker 1 was ended by SIGKILL; starting it again") == 1
    assert [line for line in lines if "again --run_dir" in line] == [
        "[worker 1] again --run_dir=r --strategy=parameter_server"
    ]
    assert len(lines) == 6  # chief, worker 0 and ps 0 have started once


def test_the_training_goes_on_without_a_worker(fake_servers, capfd, tmp_path):
    fake_servers(worker="os.kill(os.getpid(), 9)", marks=tmp_path)
    assert len(capfd.readouterr().out.splitlines()) == 4


def test_a_server_that_ends_is_one_line_or_a_restart(fake_servers, capfd, tmp_path):
    with pytest.raises(FailedWorkerError, match="^ps 0 was ended by SIGKILL; continue with --resume$"):
        fake_servers(ps="os.kill(os.getpid(), 9)", chief="time.sleep(0 if again else 100)", marks=tmp_path)
    (tmp_path / "ps0").unlink()
    (tmp_path / "chief0").unlink()
    fake_servers(ps="os.kill(os.getpid(), 9)", chief="time.sleep(0 if again else 100)", restarts=1, marks=tmp_path)
    out = capfd.readouterr().out
    assert "launch: ps 0 was ended by SIGKILL; starting again after the last checkpoint (1 of 1)" in out
    assert "[ps 0] again --run_dir=r --resume --strategy=parameter_server" in out


def test_launch_hands_the_flags_of_train_on():
    given = ["--run_dir=r", "--set=train.epochs=3", "--set=loss=SampledSoftmax(correct=False)", "--resume"]
    values = parse("launch", launch, ["--workers=3", *given, "--restarts=2", "--cluster_timeout=30"])
    passed = train.list_arguments(values, ("workers", "restarts"))
    again = parse("train", train, passed)
    assert sorted(passed) == sorted(["--run_dir=r", *given[1:3], "--resume=True", "--cluster_timeout=30.0"])
    assert (again.run_dir, again.set, again.resume, again.cluster_timeout) == ("r", values.set, True, 30.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--strategy=multi_worker"], "TF_CONFIG: missing environment variable"),
        (["train", "--strategy=multi_worker", "--cluster_timeout=-1"], "--cluster_timeout: invalid value -1"),
        (["train", "--strategy=two"], "--strategy"),
        (["launch", "--strategy=single"], "--strategy: invalid value 'single' for launch"),
        (["launch", "--strategy=multi_worker", "--ps=2"], "(expected 'parameter_server'); leave it out"),
        (["train", "--strategy=parameter_server"], "TF_CONFIG: missing environment variable"),
        (["launch", "--workers=0"], "--workers"),
        (["launch", "--epochs=3"], "unknown flag '--epochs'"),
    ],
)
def test_wrong_flags_are_one_line(arguments, message, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert main.main([*arguments, f"--run_dir={tmp_path}"]) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith(f"twotower {arguments[0]}: ")


def test_mirrored_trains_in_one_process_where_there_is_one_device(monkeypatch, tmp_path):
    from twotower_tf.cli import train as command

    started = []
    monkeypatch.setattr(local_cluster, "run_cluster", lambda workers, arguments: started.append((workers, arguments)))
    monkeypatch.setattr(command, "_count_gpus", lambda: 4)
    assert main.main(["train", f"--run_dir={tmp_path}", "--strategy=mirrored", "--resume"]) == 0
    assert started == [(4, [f"--run_dir={tmp_path}", "--resume=True"])]
    monkeypatch.setattr(command, "_count_gpus", lambda: 1)
    assert main.main(["train", f"--run_dir={tmp_path}", "--strategy=mirrored"]) == 2  # not prepared
    assert len(started) == 1 and not os.listdir(tmp_path)
