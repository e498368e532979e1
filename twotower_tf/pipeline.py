"""Runs the stages from event log to bundle: prepare, train, evaluate, export.

    import twotower_tf as tt

    pipeline = tt.Pipeline("configs/shop.py", "runs/shop", "export/shop")
    result = pipeline.run()
    print(result.evaluate.metrics["recall@20"], result.export.path)

A stage whose result is up to date is skipped: one is stale where its configuration, its input files or the result of
the stage before it have changed. Nothing is printed; lines of progress go to `log`, by default Python's logging.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from twotower_tf import artifacts, progress_bar, resources, run_lock, run_stages
from twotower_tf import config as configuration
from twotower_tf.artifacts import METRICS_SCHEMA, PreparedPaths, RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ConfigError
from twotower_tf.progress import Progress, silent
from twotower_tf.run_stages import Stages
from twotower_tf.stage_results import EvaluateResult, ExportResult, PrepareResult, Result, RunResult, TrainResult

if TYPE_CHECKING:
    from twotower_tf.prepare.spark.spark_session import SparkOptions

Split = Literal["valid", "test"]


class Pipeline:
    """The stages of one experiment, from event log to published bundle.

    Every method may be called again: it does nothing where its result is up to date (`skipped` in the result), unless
    `force` is given. Only one process at a time works in a run directory.

    Attributes:
        config: the experiment.
        run_dir: the run directory.
        export_dir: the export directory, or None.
    """

    def __init__(
        self,
        config: ExperimentConfig | str | Path,
        run_dir: str | Path,
        export_dir: str | Path | None = None,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Reads the configuration, and limits libraries' threads to the CPU quota; nothing is written yet.

        Args:
            config: the experiment, or the path of a configuration file (.py, or a config.json).
            run_dir: holds configuration, prepared data, checkpoints and metrics; made by `prepare`.
            export_dir: holds one directory per published version; only `export` and `run` need it.
            overwrite: whether `prepare`, `train` and `run` may replace a model of another configuration in `run_dir`.
            progress: receives a stage's name, the units done and their total. None: progress bars in a notebook or
                IPython, nothing elsewhere.
            log: receives lines for people, e.g. `print`. None: `logging.getLogger("twotower_tf").info`.

        Raises:
            ConfigError: where a configuration file cannot be read or is invalid.
        """
        resources.limit_library_threads()
        self.config = config if isinstance(config, ExperimentConfig) else configuration.load(config)
        self.run_dir = Path(run_dir)
        self.export_dir = None if export_dir is None else Path(export_dir)
        self._overwrite = overwrite
        self._progress: Progress | None = progress
        self._log = log or logging.getLogger("twotower_tf").info
        self._held = False

    @classmethod
    def open(cls, run_dir: str | Path, export_dir: str | Path | None = None, **options: Any) -> Pipeline:
        """Continues a run directory with the configuration that it records.

        Args:
            run_dir: a run directory that `prepare` has made.
            export_dir: as of `Pipeline`.
            **options: `overwrite`, `progress` and `log` of `Pipeline`.

        Raises:
            ArtifactError: where `run_dir` is not a run directory, or of another schema version.
        """
        return cls(configuration.load_run(run_dir), run_dir, export_dir, **options)

    @contextlib.contextmanager
    def working(self, *, create: bool = False) -> Iterator[None]:
        """Keeps other processes out of the run directory during a block of several stages.

        Args:
            create: makes the directory where it does not exist.

        Raises:
            ArtifactError: where another process works there; with `create`, where the directory holds something else.
        """
        if self._held:
            yield
            return
        with run_lock.hold_run(self.run_dir, create=create):
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def prepare(
        self,
        *,
        force: bool = False,
        memory_limit: str = "4GB",
        threads: int = 0,
        spark: SparkOptions | None = None,
        since: str | Path = "",
    ) -> PrepareResult:
        """Reads and checks the tables, and writes training rows, catalogue and statistics.

        Args:
            force: prepares where the prepared data are up to date, too.
            memory_limit: memory of the process, approximately, e.g. "4GB"; the rest spills to disk. With `spark`, of
                each task.
            threads: threads that DuckDB may use; 0: all cores.
            spark: where Spark runs, instead of DuckDB on this machine.
            since: an earlier run directory that this one continues.

        Raises:
            ConfigError: where `run_dir` holds a model of another configuration and `overwrite` was not given.
            DataError: where the tables do not fit the configuration.
            ArtifactError: where another process works in `run_dir`, or it holds something else.
        """
        from twotower_tf.features import column_audit, encode_rows
        from twotower_tf.prepare import preparation
        from twotower_tf.prepare.prepared import Prepared

        with self.working(create=True), self._showing() as progress:
            self.adopt_config()
            stages = Stages(self.run_dir)
            key = self._key("prepare", **run_stages.preparation_inputs(self.config, str(since)))
            if not force and stages.is_done("prepare", key) and self._prepared.encoded_items.exists():
                self._log("prepare: up to date")
                return PrepareResult.read(self.run_dir, Prepared.open(self.run_dir).manifest, skipped=True)
            stages.begin("prepare", key)
            run_stages.remove_figures(RunPaths(self.run_dir))
            with run_lock.read_run(str(since), own=self.run_dir):
                manifest: dict[str, Any] = preparation.prepare_log(
                    self.config,
                    self.run_dir,
                    memory_limit=memory_limit,
                    threads=threads,
                    spark=spark,
                    since=Path(since) if since else None,
                    progress=progress,
                )
            prepared = Prepared.open(self.run_dir)
            encode_rows.encode(self.config, prepared, progress, threads)
            column_audit.audit(self.config, prepared, memory_limit=memory_limit, threads=threads, progress=progress)
            stages.finish("prepare")
        return PrepareResult.read(self.run_dir, manifest, skipped=False)

    def train(
        self, *, force: bool = False, resume: bool = False, warm_start: str | Path = "", share_cores: bool = False
    ) -> TrainResult:
        """Trains both towers on the prepared data; an interrupted training continues after its last checkpoint.

        Args:
            force: trains from the beginning where the model is up to date or interrupted, too.
            resume: continues after the last checkpoint, also with another schedule (`train.*`); with `force`, too.
            warm_start: a run directory, an export directory or one of its versions: starts with that model's weights.
            share_cores: on two cores, gives TensorFlow one thread per operation, which is faster. It has an effect
                only before this process has computed anything with TensorFlow.

        Raises:
            ConfigError: where the prepared data are of another configuration; where `run_dir` holds a model of another
                configuration and `overwrite` was not given; where the model does not fit into memory.
            DataError: without any training positive, or for a loss that is not a number.
            ArtifactError: where `run_dir` is not prepared, or another process works there.
        """
        from twotower_tf.prepare.prepared import Prepared

        paths = RunPaths(self.run_dir)
        with self.working(), self._showing() as progress:
            self._adopt(overwrite=self._overwrite, resume=resume)
            stages, key = Stages(self.run_dir), self._key("train")
            if not force and stages.is_done("train", key) and paths.train.exists() and paths.checkpoints.exists():
                self._log("train: up to date")
                return TrainResult.read(self.run_dir, artifacts.read_json(paths.train, "run directory"), skipped=True)
            from twotower_tf.evaluate.validation import make_validator
            from twotower_tf.features.arrays import EncodedData
            from twotower_tf.train import training_loop

            if share_cores:
                training_loop.share_cores()
            resume = resume or (not force and stages.is_interrupted("train", key))
            prepared = Prepared.open(self.run_dir)
            validate = make_validator(self.config, prepared, EncodedData(self.config, prepared))
            stages.begin("train", key)
            run_stages.remove_figures(paths)
            with run_lock.read_run(warm_start, own=self.run_dir):
                figures: dict[str, Any] = training_loop.train(
                    self.config,
                    self.run_dir,
                    resume=resume,
                    warm_start=find_model(Path(warm_start)) if warm_start else None,
                    validate=validate,
                    progress=progress,
                    log=self._log,
                )
            stages.finish("train")
        return TrainResult.read(self.run_dir, figures, skipped=False)

    def evaluate(self, split: Split = "test", *, force: bool = False) -> EvaluateResult:
        """Ranks the whole catalogue for the held-out positives of a split; compares with baselines, and finds warnings.

        Args:
            split: "valid" or "test".
            force: evaluates where the figures are up to date, too.

        Raises:
            ConfigError: where `run_dir` holds data or a model of another configuration.
            DataError: where no positive of the split can be ranked.
            ArtifactError: if `run_dir` has no trained model, or another process works in `run_dir`.
        """
        paths = RunPaths(self.run_dir)
        with self.working(), self._showing() as progress:
            self._adopt()
            stages, key = Stages(self.run_dir), self._key("evaluate", split=split)
            if not force and stages.is_done("evaluate", key) and paths.metrics.exists() and paths.report.exists():
                figures: dict[str, Any] = artifacts.read_json(paths.metrics, "run directory")
                if figures["schema_version"] == METRICS_SCHEMA:  # else of an earlier version of twotower_tf
                    self._log("evaluate: up to date")
                    return EvaluateResult.read(self.run_dir, figures, skipped=True)
            from twotower_tf.evaluate import evaluate_run
            from twotower_tf.report import report_page

            stages.begin("evaluate", key)
            figures = evaluate_run.evaluate_run(self.config, self.run_dir, split, progress)
            report_page.write_report(self.run_dir, self.config, figures)
            stages.finish("evaluate")
        return EvaluateResult.read(self.run_dir, figures, skipped=False)

    def export(
        self,
        *,
        force: bool = False,
        version: int | None = None,
        keep: int = 0,
        active_days: int = 0,
        formats: Sequence[str] = (),
    ) -> ExportResult:
        """Publishes a new version of the bundle in `export_dir`.

        Args:
            force: publishes where this model is published already, too.
            version: its number; None: the UTC time as YYYYMMDDhhmmss, and larger than the newest version.
            keep: number of newest versions to keep; 0: all.
            active_days: only items seen in the last so many days of the log enter the bundle; 0: all.
            formats: files of item vectors in addition to item_embeddings.tsv: "parquet", "npy".

        Raises:
            ConfigError: where no `export_dir` was given, the version is invalid, or `run_dir` holds data or a model of
                another configuration.
            ArtifactError: if `run_dir` has no trained model, or `export_dir` holds something else.
        """
        root = self._require_export_dir()
        with self.working(), self._showing() as progress:
            self._adopt()
            stages = Stages(self.run_dir)
            written = sorted({"tsv", *formats})
            place = {"export_dir": str(root.resolve()), "active_days": active_days, "formats": written}
            key = self._key("export", **place)
            published = root / str(stages.fact("export", "version"))
            if not force and version is None and stages.is_done("export", key) and published.is_dir():
                self._log(f"export: up to date, {published}")
                return ExportResult(published, int(published.name), skipped=True)
            from twotower_tf.export import export_bundle

            stages.begin("export", key)
            path: Path = export_bundle.export(
                self.config,
                self.run_dir,
                root,
                version=version,
                keep=keep,
                active_days=active_days,
                formats=formats,
                progress=progress,
                log=self._log,
            )
            stages.finish("export", version=int(path.name))
        return ExportResult(path, int(path.name), skipped=False)

    def run(
        self,
        *,
        prepare: dict[str, Any] | None = None,
        export: dict[str, Any] | None = None,
        after_stage: Callable[[Result], None] = lambda result: None,
    ) -> RunResult:
        """Runs all stages; those whose result is up to date are skipped.

        Evaluates the test split, or the validation split where no test positive is held out.

        Args:
            prepare: arguments of `prepare`.
            export: arguments of `export`.
            after_stage: receives each stage's result.

        Raises:
            ConfigError, DataError, ArtifactError: as the methods of the stages do. An unusable `export_dir` or version
                is refused before the first stage.
        """
        self.check_export((export or {}).get("version"))  # now, not after hours of training
        with self.working(create=True):
            prepared = self.prepare(**(prepare or {}))
            after_stage(prepared)
            trained = self.train()
            after_stage(trained)
            held_out: list[Split] = [split for split in ("test", "valid") if prepared.positives.get(split)]
            evaluated = self.evaluate(held_out[0]) if held_out else None
            if evaluated is None:
                self._log("evaluate: skipped; neither the test nor the valid split has positives")
            else:
                after_stage(evaluated)
            exported = self.export(**(export or {}))
            after_stage(exported)
        return RunResult(prepared, trained, evaluated, exported)

    def adopt_config(self) -> None:
        """Writes the configuration to the run directory, as the first stage does.

        Raises:
            ConfigError: where `run_dir` holds a model of another configuration and `overwrite` was not given.
            ArtifactError: where it holds something else, or is of another schema version.
        """
        run_stages.adopt_config(self.run_dir, self.config, overwrite=self._overwrite)

    def check_export(self, version: int | None = None) -> None:
        """Checks that `export` can publish a version in `export_dir`.

        Args:
            version: as of `export`.

        Raises:
            ConfigError: where no `export_dir` was given, or the version is invalid.
            ArtifactError: where `export_dir` holds something else, or the version exists.
        """
        from twotower_tf.bundle import export_root

        root = self._require_export_dir()
        export_root.check_root(root)
        export_root.choose_version(root, version)

    @property
    def _prepared(self) -> PreparedPaths:
        return PreparedPaths(RunPaths(self.run_dir).prepared)

    def _key(self, stage: str, **more: Any) -> str:
        return run_stages.stage_key(self.config, self.run_dir, stage, **more)

    def _adopt(self, *, overwrite: bool = False, resume: bool = False) -> None:
        """Writes the configuration, where it fits the prepared data and the model."""
        run_stages.require_same_data(self.run_dir, self.config)
        run_stages.adopt_config(self.run_dir, self.config, overwrite=overwrite, resume=resume)

    @contextlib.contextmanager
    def _showing(self) -> Iterator[Progress]:
        """Yields what shows the progress of one stage."""
        if self._progress is not None:
            yield self._progress
            return
        with progress_bar.shown_in_notebook() as display:
            yield display or silent

    def _require_export_dir(self) -> Path:
        if self.export_dir is None:
            raise ConfigError("export_dir: invalid value None (expected a directory); give it to Pipeline")
        return self.export_dir


def find_model(path: Path) -> Path:
    """Returns the newest version where `path` is an export directory, else `path`.

    Raises:
        ArtifactError: where it is a version whose towers have changed since they were published.
    """
    from twotower_tf.bundle import bundle

    found = bundle.list_versions(path)
    path = path / str(found[-1]) if found else path
    if (path / bundle.MANIFEST).is_file():
        bundle.Bundle.read(path, check="light").check_files("variables", f"{bundle.ITEM_TOWER}/variables")
    return path
