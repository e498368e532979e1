"""Training with parameter servers, in processes of its own, against training in one process."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests import test_final_fit
from tests.train import test_options, test_rows_of_users
from tests.train.compared_bundles import assert_same_answers
from tests.train.option_cases import CASES
from tests.train.test_replicas import experiments
from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import GivenSplit, SamplingConfig, TrainConfig
from twotower_tf.errors import ConfigError
from twotower_tf.pipeline import Pipeline
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import parameter_servers

options = test_options.prepared
users = test_rows_of_users.world
FIELDS = {"batch_size": 128, "epochs": 3, "monitor": "recall@20", "checkpoint_minutes": 1000.0}


def copy_run(source, target):
    shutil.copytree(source / "prepared", target / "prepared")
    shutil.copy(source / "config.json", target)
    return target


def train(run_dir, *flags, workers=2, servers=2, victim="", returns="", **fields):
    """Trains with servers; returns the exit statuses and what each process has printed."""
    sets = [f"--set=train.{name}={value}" for name, value in {**FIELDS, **fields}.items()]
    return run_cluster(run_dir, workers, servers, *sets, *flags, victim=victim, returns=returns)


def run_cluster(run_dir, workers, servers, *flags, victim="", returns=""):
    command = [sys.executable, "-m", "tests.train.forked_cluster", str(run_dir), str(workers), str(servers)]
    done = subprocess.run([*command, victim, returns, *flags], stdout=subprocess.PIPE, check=True, timeout=500)
    printed = {each.name.replace("-", " "): each.read_text() for each in (run_dir / "output").iterdir()}
    return json.loads(done.stdout), printed


@pytest.fixture(scope="module")
def alone(trained, tmp_path_factory):
    """The run directory of one process."""
    source, config = trained
    run_dir = copy_run(source, tmp_path_factory.mktemp("alone"))
    Pipeline(dataclasses.replace(config, train=TrainConfig(**FIELDS)), run_dir).train(force=True)
    return run_dir


def figures(run_dir):
    return json.loads(RunPaths(run_dir).train.read_text())


def files(run_dir):
    found = RunPaths(run_dir).checkpoints / f"{figures(run_dir)['epochs']:05d}-000000000"
    return {
        (name, key): value for name in ("weights", "optimizer") for key, value in np.load(found / f"{name}.npz").items()
    }


def test_two_workers_and_two_servers_reach_the_recall_of_one_process(trained, alone, tmp_path):
    """In twice the epochs: two workers compute from weights that are one update old, which costs most at the start."""
    run_dir = copy_run(trained[0], tmp_path)
    statuses, printed = train(run_dir, epochs=6)
    assert statuses == dict.fromkeys(("chief 0", "worker 0", "worker 1", "ps 0", "ps 1"), 0), printed
    assert printed["chief 0"].splitlines()[-1].startswith("6 epochs, best epoch ")
    assert not printed["ps 0"] and not printed["worker 1"]
    best, expected = figures(run_dir)["best"], figures(alone)["best"]
    assert best > expected - 0.03, (best, expected)
    assert {key: value.shape for key, value in files(run_dir).items()} == {
        key: value.shape for key, value in files(alone).items()
    }
    assert sorted(figures(run_dir)["processes_peak_rss_bytes"]) == ["ps 0", "ps 1", "worker 0", "worker 1"]


@pytest.mark.quality
def test_one_worker_makes_the_model_of_one_process(trained, alone, tmp_path):
    """One worker computes one step after the other: every number is the same, but for rounding."""
    run_dir = copy_run(trained[0], tmp_path)
    statuses, printed = train(run_dir, workers=1, servers=3)
    assert set(statuses.values()) == {0}, printed
    found, expected = files(run_dir), files(alone)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-4, err_msg=str(key))


@pytest.mark.parametrize("name", CASES)
def test_what_needs_an_order_of_steps_is_refused(name, tmp_path):
    """Every kind of negatives and every loss: two kinds are refused, in one line with the strategies that do them."""
    case = CASES[name]
    refused = [each for each in case.negatives if type(each).__name__ in ("Queue", "Mined")]
    config = test_options.experiment(tmp_path, case)
    if not refused:
        parameter_servers.check_supported(config)
        return
    with pytest.raises(ConfigError) as caught:
        parameter_servers.check_supported(config)
    assert str(caught.value) == (
        f"sampling.negatives: invalid {type(refused[0]).__name__}() for --strategy=parameter_server (workers have no "
        "common order of steps, which this one needs; every loss and all other negatives work); leave it out, or train "
        "with --strategy=single, mirrored or multi_worker"
    )


@pytest.mark.quality
@pytest.mark.parametrize("name", ["click, weighted", "users", "sequences"])
def test_other_losses_and_rows_train_as_in_one_process(name, options, users, tmp_path_factory):
    source, config = experiments(options, users, tmp_path_factory.mktemp("log"))(name)
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, epochs=2, monitor=""),
        sampling=SamplingConfig(tuple(each for each in config.sampling.negatives if each.type != "Queue")),
    )
    losses = []
    for servers in (0, 2):
        run_dir = tmp_path_factory.mktemp("run")
        shutil.copytree(source / "prepared", run_dir / "prepared")
        artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
        if servers:
            statuses, printed = run_cluster(run_dir, 1, servers)
            assert set(statuses.values()) == {0}, printed
        else:
            Pipeline(config, run_dir).train(force=True)
        losses.append([each["loss"] for each in figures(run_dir)["history"]])
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)


@pytest.mark.quality
@pytest.mark.parametrize("servers", [0, 1])
def test_a_final_fit_is_that_of_one_process(servers, tmp_path):
    """Validation rows are training rows, which every process finds as soon as the chief has prepared them."""
    test_final_fit.write_log(tmp_path / "log")
    config = test_final_fit.experiment(tmp_path / "log", "event", GivenSplit(column="part"))
    pipeline = Pipeline(config, tmp_path / "run")
    pipeline.prepare()
    pipeline.train()
    shutil.copytree(tmp_path / "run", tmp_path / "together")
    if servers:
        statuses, printed = run_cluster(tmp_path / "together", 1, servers, "--final")
        assert set(statuses.values()) == {0} and len(statuses) == 3, printed
    else:
        command = [sys.executable, "-m", "twotower_tf", "launch", f"--run_dir={tmp_path / 'together'}", "--final"]
        subprocess.run(command, check=True, timeout=400)
    pipeline.final_fit()
    found, expected = (test_final_fit.read_weights(tmp_path / name / "final") for name in ("together", "run"))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
    assert Prepared.open(tmp_path / "together" / "final").num_rows("train") == 280


@pytest.fixture
def run_dir(trained, tmp_path):
    return copy_run(trained[0], tmp_path)


KILLED = {"checkpoint_minutes": 0.001, "batch_size": 64}


@pytest.mark.quality
def test_the_training_goes_on_without_a_killed_worker(run_dir):
    statuses, printed = train(run_dir, victim="worker 1", **KILLED)
    assert statuses == dict.fromkeys(("chief 0", "worker 0", "ps 0", "ps 1"), 0), printed
    lines = [line for line in printed["chief 0"].splitlines() if line.startswith("cluster: ")]
    assert len(lines) == 1 and "worker 1 (" in lines[0] and "has ended; the training goes on without it" in lines[0]
    assert figures(run_dir)["epochs"] == 3


@pytest.mark.quality
def test_a_killed_worker_returns(run_dir):
    statuses, printed = train(run_dir, victim="worker 1", returns="0.5", **KILLED)
    assert set(statuses.values()) == {0} and len(statuses) == 5, printed
    assert printed["chief 0"].count("is back\n") == 1


@pytest.mark.quality
def test_a_killed_server_is_one_line_and_the_training_resumes(run_dir, alone):
    statuses, printed = train(run_dir, victim="ps 1", **KILLED)
    assert statuses == dict.fromkeys(("chief 0", "worker 0", "worker 1", "ps 0"), 75)
    for name, text in printed.items():
        reason = "chief 0 " if name != "chief 0" else "ps 1 "
        errors = [line for line in text.splitlines() if line.startswith("twotower train: ")]
        assert name == "ps 1" or (len(errors) == 1 and f"cluster: {reason}" in errors[0] and "--resume" in errors[0])
        assert "Traceback" not in text
    state = json.loads((sorted(RunPaths(run_dir).checkpoints.glob("0*"))[-1] / "state.json").read_text())
    assert state["epochs"] < 3
    statuses, printed = train(run_dir, "--resume", **KILLED)
    assert set(statuses.values()) == {0} and len(statuses) == 5, printed
    history = figures(run_dir)["history"]
    assert [each["epoch"] for each in history] == [1, 2, 3]
    assert history[: state["epochs"]] == state["history"]
    assert figures(run_dir)["best"] > figures(alone)["best"] - 0.07


@pytest.mark.quality
def test_a_bundle_is_verified_and_answers_as_that_of_one_process(run_dir, alone, tmp_path_factory):
    """Of one worker, whose model is that of one process."""
    statuses, printed = train(run_dir, workers=1)
    assert set(statuses.values()) == {0}, printed
    assert_same_answers(run_dir, alone, tmp_path_factory.mktemp("exports"))
