"""Records the stages of a run directory: what each depends on, which are finished, what a new configuration changes.

`stages.json` in the run directory keeps a key for each stage that was begun: the digest of everything that the stage
depends on. Beginning a stage removes its entry and those of later stages, so no entry outlives what it was made from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import PreparedPaths, RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ConfigError
from twotower_tf.prepare import schema
from twotower_tf.run_lock import check_new_run

SCHEMA_VERSION = 1
STAGES = ("prepare", "train", "final", "evaluate", "export")
# The stage whose result each stage depends on. A final fit is a part of the keys of later stages where there is one.
_AFTER = {"train": "prepare", "final": "train", "evaluate": "train", "export": "evaluate"}
# The parts of the configuration that each stage reads, in addition to those of the stages before it.
_PARTS = {
    "prepare": configuration.PREPARED,
    "train": ("model", "sampling", "loss", "train", "evaluation"),
    "final": (),
    "evaluate": ("evaluation",),
    "export": ("name", "index"),
}
# Fields of the evaluation that no training depends on: its metrics steer it only through train.monitor.
_REPORTED = ("ks", "slices", "recent_days")


class Stages:
    """The record of finished stages of one run directory.

    Args:
        run_dir: the run directory; without `stages.json` no stage is finished.

    Raises:
        ArtifactError: where `stages.json` is damaged or of another schema version.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = RunPaths(run_dir).stages
        self._entries: dict[str, Any] = {}
        if self._path.exists():
            self._entries = artifacts.read_json(self._path, "run directory", SCHEMA_VERSION)["stages"]

    def is_done(self, stage: str, key: str) -> bool:
        """Returns whether `stage` was finished with this key."""
        entry = self._entries.get(stage)
        return bool(entry and entry["finished"] and entry["key"] == key)

    def is_interrupted(self, stage: str, key: str) -> bool:
        """Returns whether `stage` was begun with this key and not finished."""
        entry = self._entries.get(stage)
        return bool(entry and not entry["finished"] and entry["key"] == key)

    def fact(self, stage: str, name: str) -> Any:
        """Returns what `begin` or `finish` recorded for `stage` under `name`, or None."""
        return self._entries.get(stage, {}).get(name)

    def begin(self, stage: str, key: str, **facts: Any) -> None:
        """Records that `stage` has begun, and removes the entries of all later stages."""
        kept = STAGES[: STAGES.index(stage)]
        self._entries = {name: entry for name, entry in self._entries.items() if name in kept}
        self._entries[stage] = {"key": key, "finished": False, **facts}
        self._write()

    def finish(self, stage: str, **facts: Any) -> None:
        """Records that `stage` is finished."""
        self._entries[stage] |= {"finished": True, **facts}
        self._write()

    def _write(self) -> None:
        artifacts.write_json(self._path, {"schema_version": SCHEMA_VERSION, "stages": self._entries})


# --- which configuration a run directory has ----------------------------------------------------------------------


def adopt_config(run_dir: Path, config: ExperimentConfig, *, overwrite: bool, resume: bool = False) -> None:
    """Writes `config` to the run directory, before anything else is written there.

    Args:
        run_dir: a run directory, or a new or empty one.
        config: the configuration of every later stage.
        overwrite: removes a model that was trained with another configuration, instead of refusing.
        resume: lets the schedule of the training (`train.*`) change under a model.

    Raises:
        ConfigError: where the directory holds a model of another configuration and `overwrite` is not given.
        ArtifactError: where the directory holds something else, or is of another schema version.
    """
    paths = RunPaths(run_dir)
    if not paths.config.exists():
        check_new_run(run_dir)
    elif paths.checkpoints.exists():
        changed = list_differences(configuration.load_run(run_dir), config, "prepare", "train")
        if resume:
            changed = [difference for difference in changed if not difference.startswith("train.")]
        if changed and not overwrite:
            raise ConfigError(
                f"{run_dir} holds a model trained with another configuration ({_name_first(changed)}); "
                "choose another --run_dir, or --overwrite to replace it"
            )
        if changed:
            remove_model(paths)
    else:
        configuration.load_run(run_dir)  # another schema version is refused, not replaced
    artifacts.write_text(paths.config, configuration.to_json(config))


def remove_model(paths: RunPaths) -> None:
    """Removes everything that training and later stages wrote."""
    for directory in (paths.checkpoints, paths.logs):
        shutil.rmtree(directory, ignore_errors=True)
    paths.train.unlink(missing_ok=True)
    remove_results(paths)


def remove_results(paths: RunPaths) -> None:
    """Removes what a new preparation or training makes stale: the final fit and the evaluation's results."""
    shutil.rmtree(paths.final, ignore_errors=True)
    remove_figures(paths)


def remove_figures(paths: RunPaths) -> None:
    """Removes the evaluation's results, which are of another model from now on."""
    for file in (paths.metrics, paths.item_map, paths.report):
        file.unlink(missing_ok=True)


def read_configs(run_dir: Path, config: str, changes: Sequence[str]) -> tuple[ExperimentConfig, ExperimentConfig]:
    """Returns the configuration that a prepared run records, and the requested one.

    Args:
        run_dir: the prepared run.
        config: `--config`: the file of the requested configuration, or "" for the recorded one.
        changes: `--set`: applied to either.

    Raises:
        ConfigError: where the requested one needs other prepared data, or is invalid.
        ArtifactError: where `run_dir` is not a run directory.
    """
    recorded = configuration.load_run(run_dir)
    wanted = configuration.load(config, changes) if config else configuration.override(recorded, changes)
    require_same_data(run_dir, wanted)
    return recorded, wanted


def require_same_data(run_dir: Path, config: ExperimentConfig) -> None:
    """Checks that `run_dir` was prepared with the data and features of `config`.

    Raises:
        ConfigError: naming the first field that differs.
    """
    changed = list_differences(configuration.load_run(run_dir), config, "prepare")
    if changed:
        raise ConfigError(
            f"{run_dir} was prepared with another configuration ({_name_first(changed)}); "
            "run twotower prepare with this one first"
        )


def list_differences(old: ExperimentConfig, new: ExperimentConfig, *stages: str) -> list[str]:
    """Returns `FIELD was OLD, now NEW` for every field that those stages read and that differs, except `data.root`."""
    before, after = (configuration.flatten(_select_parts(config, stages)) for config in (old, new))
    fields = [*before, *(field for field in after if field not in before)]
    return [
        f"{field} was {_show(before, field)}, now {_show(after, field)}"
        for field in fields
        if before.get(field) != after.get(field)
    ]


def _name_first(changed: Sequence[str]) -> str:
    return changed[0] + (f", and {len(changed) - 1} more" if len(changed) > 1 else "")


def _show(leaves: dict[str, Any], field: str) -> str:
    return json.dumps(leaves[field], ensure_ascii=False) if field in leaves else "absent"


def _select_parts(config: ExperimentConfig, stages: Sequence[str]) -> dict[str, Any]:
    """Returns the parts of the configuration that `stages` read, as JSON values."""
    whole: dict[str, Any] = json.loads(configuration.to_json(config))
    del whole["data"]["root"]
    document = {part: whole[part] for stage in stages for part in _PARTS[stage]}
    if "evaluate" not in stages and "evaluation" in document:
        for field in _REPORTED:
            del document["evaluation"][field]
    return document


# --- what a stage depends on --------------------------------------------------------------------------------------


def compute_stage_key(config: ExperimentConfig, run_dir: Path, stage: str, **more: Any) -> str:
    """Returns the digest of what `stage` depends on: configuration, the result of the stage before it, and `more`."""
    document = {"config": _select_parts(config, (stage,)), **more}
    if stage in _AFTER:
        document["after"] = Stages(run_dir).fact(_AFTER[stage], "key")
    return artifacts.fingerprint(document)


def list_preparation_inputs(config: ExperimentConfig, since: str) -> dict[str, Any]:
    """Returns what `prepare` reads besides the configuration: every input file's name, size and time of change.

    With `since`, also the digest of the manifest of the run that it continues.

    Raises:
        DataError: where an input file is missing.
    """
    sources = [source for table in schema.TABLES for source in schema.find_table(config.data, table)]
    stats = [(source.name, source.path.stat()) for source in sources]
    found: dict[str, Any] = {"inputs": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]}
    if since:
        manifest = PreparedPaths(RunPaths(Path(since)).prepared).manifest
        found["since"] = artifacts.sha256_file(manifest) if manifest.is_file() else since
    return found
