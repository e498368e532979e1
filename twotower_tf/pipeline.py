"""The stages of a run directory: what each depends on, which are finished, what a new configuration makes stale.

`stages.json` in the run directory keeps, for each stage that was begun, a key: the digest of everything the stage
depends on. Beginning a stage forgets it and every later one, so an entry never outlives what it was made from.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import PreparedPaths, RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ConfigError
from twotower_tf.prepare import schema
from twotower_tf.prepare.spark.spark_session import SparkOptions
from twotower_tf.progress import Progress
from twotower_tf.run_lock import check_new, reading
from twotower_tf.tables import input_files

SCHEMA_VERSION = 1
STAGES = ("prepare", "train", "evaluate", "export")
# The parts of the configuration that enter each stage, beside those of the stages before it.
_PARTS = {
    "prepare": configuration.PREPARED,
    "train": ("model", "sampling", "loss", "train", "evaluation"),
    "evaluate": ("evaluation",),
    "export": ("name", "index"),
}


class Stages:
    """What is finished in one run directory."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "stages.json"
        self._entries: dict[str, Any] = {}
        if self._path.exists():
            self._entries = artifacts.read_json(self._path, "run directory", SCHEMA_VERSION)["stages"]

    def is_done(self, stage: str, key: str) -> bool:
        """Whether `stage` was finished from exactly this."""
        entry = self._entries.get(stage)
        return bool(entry and entry["finished"] and entry["key"] == key)

    def is_interrupted(self, stage: str, key: str) -> bool:
        """Whether `stage` was begun from exactly this and not finished."""
        entry = self._entries.get(stage)
        return bool(entry and not entry["finished"] and entry["key"] == key)

    def fact(self, stage: str, name: str) -> Any:
        """What `finish` recorded of `stage` under `name`, or None."""
        return self._entries.get(stage, {}).get(name)

    def begin(self, stage: str, key: str) -> None:
        """Records that `stage` is under way, and forgets all that is made from its result."""
        kept = STAGES[: STAGES.index(stage)]
        self._entries = {name: entry for name, entry in self._entries.items() if name in kept}
        self._entries[stage] = {"key": key, "finished": False}
        self._write()

    def finish(self, stage: str, **facts: Any) -> None:
        """Records that `stage` is finished."""
        self._entries[stage] |= {"finished": True, **facts}
        self._write()

    def _write(self) -> None:
        artifacts.write_json(self._path, {"schema_version": SCHEMA_VERSION, "stages": self._entries})


# --- which configuration a run directory has ----------------------------------------------------------------------


def adopt(run_dir: Path, config: ExperimentConfig, *, overwrite: bool, resume: bool = False) -> None:
    """Makes `config` the run directory's configuration, before anything else is written there.

    A model trained with another configuration is lost only where `overwrite` says so; `resume` lets the schedule of
    the training (`train.*`) change under a model.

    Raises:
        ConfigError: where the directory holds a model of another configuration and `overwrite` is not given.
        ArtifactError: where the directory is not ours, or of another version.
    """
    paths = RunPaths(run_dir)
    if not paths.config.exists():
        check_new(run_dir)
    elif paths.checkpoints.exists():
        changed = differences(configuration.load_run(run_dir), config, "prepare", "train")
        if resume:
            changed = [difference for difference in changed if not difference.startswith("train.")]
        if changed and not overwrite:
            raise ConfigError(
                f"{run_dir} holds a model trained with another configuration ({_first(changed)}); "
                "choose another --run_dir, or --overwrite to replace it"
            )
        if changed:
            forget_model(paths)
    else:
        configuration.load_run(run_dir)  # of another version: refused, not replaced
    artifacts.write_text(paths.config, configuration.to_json(config))


def forget_model(paths: RunPaths) -> None:
    """Removes all that training and later stages wrote."""
    for directory in (paths.checkpoints, paths.logs):
        shutil.rmtree(directory, ignore_errors=True)
    paths.train.unlink(missing_ok=True)
    forget_figures(paths)


def forget_figures(paths: RunPaths) -> None:
    """Removes the evaluation's results: they are of other data or another model than the one to come."""
    for file in (paths.metrics, paths.report):
        file.unlink(missing_ok=True)


def asked(run_dir: Path, config: str, changes: Sequence[str]) -> tuple[ExperimentConfig, ExperimentConfig]:
    """The configuration that a prepared run records, and the one asked for: of the file, or as recorded, with changes.

    Args:
        run_dir: of the run.
        config: `--config`, or "".
        changes: `--set`.

    Raises:
        ConfigError: where it wants other data than what was prepared, or is unusable.
        ArtifactError: where `run_dir` is no run directory.
    """
    recorded = configuration.load_run(run_dir)
    wanted = configuration.override(configuration.load(config) if config else recorded, changes)
    require_same_data(run_dir, wanted)
    return recorded, wanted


def require_same_data(run_dir: Path, config: ExperimentConfig) -> None:
    """Checks that what was prepared in `run_dir` is what `config` asks for.

    Raises:
        ConfigError: naming the first field that differs.
    """
    changed = differences(configuration.load_run(run_dir), config, "prepare")
    if changed:
        raise ConfigError(
            f"{run_dir} was prepared with another configuration ({_first(changed)}); "
            "run twotower prepare with this one first"
        )


def differences(old: ExperimentConfig, new: ExperimentConfig, *stages: str) -> list[str]:
    """`field: old, now new` for every field of those stages that differs; where the files lie is no difference."""
    before, after = (_leaves("", _document(config, stages)) for config in (old, new))
    fields = [*before, *(field for field in after if field not in before)]
    return [
        f"{field} was {_told(before, field)}, now {_told(after, field)}"
        for field in fields
        if before.get(field) != after.get(field)
    ]


def _first(changed: Sequence[str]) -> str:
    return changed[0] + (f", and {len(changed) - 1} more" if len(changed) > 1 else "")


def _told(leaves: dict[str, Any], field: str) -> str:
    return json.dumps(leaves[field], ensure_ascii=False) if field in leaves else "absent"


def _leaves(path: str, node: Any) -> dict[str, Any]:
    if isinstance(node, dict) and node:
        pairs = [(f"{path}.{name}" if path else name, value) for name, value in node.items()]
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        pairs = [(f"{path}[{position}]", value) for position, value in enumerate(node)]
    else:
        return {path: node}
    return {field: leaf for name, value in pairs for field, leaf in _leaves(name, value).items()}


def _document(config: ExperimentConfig, stages: Sequence[str]) -> dict[str, Any]:
    """The parts of the configuration that enter `stages`, as JSON values."""
    whole: dict[str, Any] = json.loads(configuration.to_json(config))
    del whole["data"]["root"]
    document = {part: whole[part] for stage in stages for part in _PARTS[stage]}
    if "evaluate" not in stages and "evaluation" in document:
        del document["evaluation"]["ks"]  # validation metrics only steer the training through train.monitor
    return document


# --- running them -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs stages in a run directory whose configuration is adopted, and keeps its `stages.json`.

    Attributes:
        tell: receives one line per stage that is skipped.
    """

    config: ExperimentConfig
    run_dir: Path
    progress: Progress
    tell: Callable[[str], None]

    def key(self, stage: str, **more: Any) -> str:
        """The digest of what `stage` depends on: its configuration, the result of the stage before it, and `more`."""
        document = {"config": _document(self.config, (stage,)), **more}
        if stage != STAGES[0]:
            document["after"] = Stages(self.run_dir).fact(STAGES[STAGES.index(stage) - 1], "key")
        return artifacts.fingerprint(document)

    def prepare(
        self,
        *,
        skip: bool = False,
        memory_limit: str = "4GB",
        threads: int = 0,
        spark: SparkOptions | None = None,
        since: str = "",
    ) -> dict[str, Any]:
        """Prepares and encodes the data. `skip`: not where that is done already."""
        from twotower_tf.features import column_audit, encode_rows
        from twotower_tf.prepare import preparation
        from twotower_tf.prepare.prepared import Prepared

        stages = Stages(self.run_dir)
        key = self.key("prepare", inputs=_input_files(self.config), **_continued(since))
        encoded = PreparedPaths(RunPaths(self.run_dir).prepared).encoded_items
        if skip and stages.is_done("prepare", key) and encoded.exists():
            self.tell("prepare: up to date")
            return Prepared.open(self.run_dir).manifest
        stages.begin("prepare", key)
        forget_figures(RunPaths(self.run_dir))
        with reading(since, own=self.run_dir):
            manifest: dict[str, Any] = preparation.prepare(
                self.config,
                self.run_dir,
                memory_limit=memory_limit,
                threads=threads,
                spark=spark,
                since=Path(since) if since else None,
                progress=self.progress,
            )
        prepared = Prepared.open(self.run_dir)
        encode_rows.encode(self.config, prepared, self.progress, threads)
        column_audit.audit(self.config, prepared, memory_limit=memory_limit, threads=threads, progress=self.progress)
        stages.finish("prepare")
        return manifest

    def train(self, *, skip: bool = False, resume: bool = False, warm_start: str = "") -> dict[str, Any]:
        """Trains. `skip`: not where that is done already, and an interrupted training goes on."""
        from twotower_tf.evaluate.validation import validator
        from twotower_tf.features.arrays import EncodedData
        from twotower_tf.prepare.prepared import Prepared
        from twotower_tf.train import training_loop

        stages, key, paths = Stages(self.run_dir), self.key("train"), RunPaths(self.run_dir)
        if skip and stages.is_done("train", key) and paths.train.exists() and paths.checkpoints.exists():
            self.tell("train: up to date")
            return artifacts.read_json(paths.train, "run directory")
        resume = resume or (skip and stages.is_interrupted("train", key))
        prepared = Prepared.open(self.run_dir)
        validate = validator(self.config, prepared, EncodedData(self.config, prepared))
        stages.begin("train", key)
        forget_figures(paths)
        with reading(warm_start, own=self.run_dir):
            report: dict[str, Any] = training_loop.train(
                self.config,
                self.run_dir,
                resume=resume,
                warm_start=_model_directory(Path(warm_start)) if warm_start else None,
                validate=validate,
                progress=self.progress,
                tell=self.tell,
            )
        stages.finish("train")
        return report

    def evaluate(self, split: str, *, skip: bool = False) -> dict[str, Any]:
        """Evaluates on one split. `skip`: not where that is done already."""
        from twotower_tf.evaluate import evaluate_run
        from twotower_tf.report import report_page

        stages, key, paths = Stages(self.run_dir), self.key("evaluate", split=split), RunPaths(self.run_dir)
        if skip and stages.is_done("evaluate", key) and paths.metrics.exists() and paths.report.exists():
            self.tell("evaluate: up to date")
            return artifacts.read_json(paths.metrics, "run directory")
        stages.begin("evaluate", key)
        report: dict[str, Any] = evaluate_run.evaluate(self.config, self.run_dir, split, self.progress)
        report_page.write(paths.report, self.config.name, report)
        stages.finish("evaluate")
        return report

    def export(
        self,
        export_dir: Path,
        *,
        skip: bool = False,
        version: int | None = None,
        keep: int = 0,
        active_days: int = 0,
        formats: Sequence[str] = (),
    ) -> Path:
        """Publishes a version; its directory is the result. `skip`: not where that is done already."""
        from twotower_tf.export import export_bundle

        stages = Stages(self.run_dir)
        place = {"export_dir": str(export_dir.resolve()), "active_days": active_days, "formats": sorted(formats)}
        key = self.key("export", **place)
        published = export_dir / str(stages.fact("export", "version"))
        if skip and version is None and stages.is_done("export", key) and published.is_dir():
            self.tell(f"export: up to date, {published}")
            return published
        stages.begin("export", key)
        bundle: Path = export_bundle.export(
            self.config,
            self.run_dir,
            export_dir,
            version=version,
            keep=keep,
            active_days=active_days,
            formats=formats,
            progress=self.progress,
            tell=self.tell,
        )
        stages.finish("export", version=int(bundle.name))
        return bundle


def _model_directory(path: Path) -> Path:
    """The newest version where `path` is an export root; else `path`.

    Raises:
        ArtifactError: where it is a version whose towers are not as they were published.
    """
    from twotower_tf.bundle import bundle

    found = bundle.versions(path)
    path = path / str(found[-1]) if found else path
    if (path / bundle.MANIFEST).is_file():
        bundle.Bundle.read(path, check="light").check_files("variables", f"{bundle.ITEM_TOWER}/variables")
    return path


def _continued(since: str) -> dict[str, Any]:
    """What a preparation depends on besides, where it continues another; nothing where it does not."""
    manifest = PreparedPaths(RunPaths(Path(since)).prepared).manifest
    return {"since": artifacts.sha256_file(manifest) if manifest.is_file() else since} if since else {}


def _input_files(config: ExperimentConfig) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file the configuration reads."""
    sources = [source for table in schema.TABLES for source in input_files.find_table(config.data, table)]
    stats = [(source.name, source.path.stat()) for source in sources]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
