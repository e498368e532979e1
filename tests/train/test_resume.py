"""Killed at any moment and resumed, a training ends where the undisturbed one ends, bit for bit on one thread."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import InBatch, Queue, SamplingConfig, TrainConfig, Uniform

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def prepared(trained, tmp_path):
    """A prepared run whose training has everything that is drawn or remembered from step to step."""
    run_dir, config = trained
    shutil.copytree(run_dir / "prepared", tmp_path / "prepared")
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dropout=0.2),
        sampling=SamplingConfig((InBatch(), Uniform(per_positive=2), Queue(size=200))),
        train=TrainConfig(
            batch_size=256, epochs=2, initial_lr=0.01, monitor="", steps_per_execution=3, checkpoint_minutes=0.002
        ),
    )
    artifacts.write_text(RunPaths(tmp_path).config, configuration.to_json(config))
    return tmp_path


def kill(run_dir, seeds):
    script = [sys.executable, "-m", "tests.train.killing", str(run_dir), ",".join(map(str, seeds))]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(moment):
    assert moment["same"] and moment["files"] > 20
    resumed, undisturbed = moment["histories"]
    assert len(resumed) == len(undisturbed) == 2
    for one, other in zip(resumed, undisturbed, strict=True):
        assert one.keys() == other.keys() and {"loss", "in_batch_top_10"} <= one.keys()
        np.testing.assert_allclose([*one.values()], [*other.values()], rtol=1e-5)


@pytest.mark.quality
def test_a_training_killed_within_an_epoch_ends_where_the_undisturbed_one_ends(prepared):
    (moment,) = kill(prepared, [0])
    assert moment["killed"] and not moment["left"].endswith("-000000000")
    check(moment)


@pytest.mark.quality
def test_ten_random_moments(prepared):
    config = configuration.override(configuration.load_run(prepared), ["train.batch_size=64"])  # longer
    artifacts.write_text(RunPaths(prepared).config, configuration.to_json(config))
    moments = kill(prepared, range(1, 11))
    assert sum(moment["killed"] for moment in moments) >= 5 and len({moment["left"] for moment in moments}) >= 4
    for moment in moments:
        check(moment)
