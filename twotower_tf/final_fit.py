"""Plans the final fit of a run, and finds the model that a run directory stands for.

A final fit trains on the training and the validation part together, for the number of epochs that the validation run
(`train`) chose. It is a run directory of its own, `RUN_DIR/final`, prepared from the same files: samplers, popularity,
masks and statistics are those of both parts, and the test part is the same. A finished one is the model of `evaluate`
on the test part, of `export`, and of runs that continue this one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from twotower_tf import artifacts, run_stages
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.run_stages import Stages


def plan_final_fit(config: ExperimentConfig, run_dir: Path) -> ExperimentConfig:
    """Returns the configuration of the final fit, of whose `train.epochs` the last is the best one of the run.

    Learning rates decay by epochs: they are those of the run's epochs.

    Raises:
        ArtifactError: where the run has no finished training.
        ConfigError: where it has no validation rows.
    """
    paths = RunPaths(run_dir)
    trained = Stages(run_dir).is_done("train", run_stages.compute_stage_key(config, run_dir, "train"))
    if not trained or not paths.train.exists():
        raise ArtifactError(
            f"{run_dir}: no finished training from which a final fit could take its number of epochs; "
            "run `twotower train` first, after an interruption with --resume"
        )
    if not Prepared.open(run_dir).num_rows("valid"):
        raise ConfigError(
            f"data.split: {run_dir} has no validation rows, so a final fit would train on the same rows again; "
            "use the model as it is, or hold out a validation part"
        )
    epochs = artifacts.read_json(paths.train, "run directory")["best_epoch"]
    return with_validation(config, epochs)


def with_validation(config: ExperimentConfig, epochs: int) -> ExperimentConfig:
    """Returns the configuration of a training on the training and the validation part for so many epochs."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, train_on_valid=True),
        train=dataclasses.replace(config.train, epochs=epochs),
    )


def find_warm_start(run_dir: Path) -> str:
    """Returns what the training of a run was started from, or ""."""
    return str(Stages(run_dir).fact("train", "warm_start") or "")


def plan_preparation(config: ExperimentConfig, run_dir: Path, given: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the arguments of `Pipeline.prepare` for the final fit: those given, or those of the run's preparation.

    Raises:
        ConfigError: where Spark prepared the run, whose options are not recorded.
        DataError: where the files of the run have changed since they were prepared.
    """
    stages = Stages(run_dir)
    if not given and stages.fact("prepare", "engine") == "spark":
        raise ConfigError(
            f"{run_dir} was prepared with Spark, whose options are not recorded; "
            "use `twotower run --final --engine=spark`, or Pipeline.final_fit(prepare={'spark': ...})"
        )
    recorded = {
        name: stages.fact("prepare", name) or value for name, value in (("memory_limit", "4GB"), ("threads", 0))
    }
    return {**(given or recorded), "since": find_continued(config, run_dir)}


def find_continued(config: ExperimentConfig, run_dir: Path) -> str:
    """Returns the directory that the run was prepared `--since`, or "".

    Raises:
        DataError: where the files of the run have changed since they were prepared.
    """
    stages = Stages(run_dir)
    since = stages.fact("prepare", "since") or ""
    key = run_stages.compute_stage_key(config, run_dir, "prepare", **run_stages.list_preparation_inputs(config, since))
    if not stages.is_done("prepare", key):
        raise DataError(
            f"{run_dir}: its input files have changed since they were prepared, so the final fit would have another "
            "test part; run `twotower prepare` and `twotower train` again"
        )
    return str(since)


def find_run(run_dir: Path) -> Path:
    """Returns the directory of a run's model: that of its final fit where there is one.

    Raises:
        ArtifactError: where the final fit is unfinished.
    """
    final = RunPaths(run_dir).final
    if not RunPaths(final).config.exists():
        return run_dir
    if not Stages(run_dir).fact("final", "finished"):
        raise ArtifactError(
            f"{final}: the final fit is not finished; continue it with `twotower train --final --resume`, or remove "
            "this directory to use the model of the validation run"
        )
    return final


def choose_model(config: ExperimentConfig, run_dir: Path, split: str) -> tuple[ExperimentConfig, Path, dict[str, Any]]:
    """Returns configuration and directory of the model of a split's figures, and a part of the stages' keys.

    Raises:
        ArtifactError: where the final fit is unfinished.
    """
    path = run_dir if split == "valid" else find_run(run_dir)
    if path == run_dir:
        return config, path, {}
    epochs = configuration.load_run(path).train.epochs
    return with_validation(config, epochs), path, {"final": Stages(run_dir).fact("final", "key")}


def find_model(path: Path) -> Path:
    """Returns the newest version where `path` is an export directory, the final fit of a run directory, else `path`.

    Raises:
        ArtifactError: where it is a version whose towers have changed since they were published, or a run with an
            unfinished final fit.
    """
    from twotower_tf.bundle import bundle

    found = bundle.list_versions(path)
    path = path / str(found[-1]) if found else find_run(path)
    if (path / bundle.MANIFEST).is_file():
        bundle.Bundle.read(path, check="light").check_files("variables", f"{bundle.ITEM_TOWER}/variables")
    return path
