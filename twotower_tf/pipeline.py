"""Runs the stages from event log to bundle: prepare, train, evaluate, export.

    import twotower_tf as tt

    pipeline = tt.Pipeline("configs/shop.py", "runs/shop", "export/shop")
    result = pipeline.run()
    print(result.evaluate.metrics["recall@20"], result.export.path)

A stage whose result is up to date is skipped: one is stale where its configuration, its input files or the result of
the stage before it have changed. Nothing is printed; lines of progress go to `log`, by default Python's logging.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from twotower_tf import artifacts, final_fit, run_lock, run_stages
from twotower_tf.artifacts import METRICS_SCHEMA, RunPaths
from twotower_tf.config import ExperimentConfig, Space
from twotower_tf.run_session import RunSession
from twotower_tf.run_stages import Stages
from twotower_tf.stage_results import (
    EvaluateResult,
    ExportResult,
    PrepareResult,
    Result,
    RunResult,
    TrainResult,
    TuneResult,
)

if TYPE_CHECKING:
    from twotower_tf.prepare.spark.spark_session import SparkOptions
    from twotower_tf.train.cluster_task import ClusterTask

Split = Literal["valid", "test"]


class Pipeline(RunSession):
    """The stages of one experiment, from event log to published bundle.

    Every method may be called again: it does nothing where its result is up to date (`skipped` in the result), unless
    `force` is given. Only one process at a time works in a run directory.

    Attributes:
        config: the experiment.
        run_dir: the run directory.
        export_dir: the export directory, or None.
    """

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
            since: an earlier run directory that this one continues; where it has a final fit, that one.

        Raises:
            ConfigError: where `run_dir` holds a model of another configuration and `overwrite` was not given.
            DataError: where the tables do not fit the configuration.
            ArtifactError: where another process works in `run_dir`, or it holds something else.
        """
        from twotower_tf.features.encode_and_audit import encode_and_audit
        from twotower_tf.prepare import preparation
        from twotower_tf.prepare.prepared import Prepared

        with self.working(create=True), self._showing() as progress:
            self.adopt_config()
            stages = Stages(self.run_dir)
            continued = str(final_fit.find_run(Path(since)).resolve()) if since else ""
            key = self._key("prepare", **run_stages.list_preparation_inputs(self.config, continued))
            if not force and stages.is_done("prepare", key) and self._prepared.encoded_items.exists():
                self._log("prepare: up to date")
                return PrepareResult.read(self.run_dir, Prepared.open(self.run_dir).manifest, skipped=True)
            limits: dict[str, Any] = {"memory_limit": memory_limit, "threads": threads}
            stages.begin("prepare", key, engine="spark" if spark else "duckdb", since=continued, **limits)
            run_stages.remove_results(RunPaths(self.run_dir))
            with run_lock.read_run(str(since), own=self.run_dir):
                manifest: dict[str, Any] = preparation.prepare_log(
                    self.config,
                    self.run_dir,
                    **limits,
                    spark=spark,
                    since=Path(continued) if since else None,
                    progress=progress,
                )
            encode_and_audit(self.config, Prepared.open(self.run_dir), **limits, progress=progress)
            stages.finish("prepare")
        return PrepareResult.read(self.run_dir, manifest, skipped=False)

    def train(
        self,
        *,
        force: bool = False,
        resume: bool = False,
        warm_start: str | Path = "",
        share_cores: bool = False,
        cluster: ClusterTask | None = None,
    ) -> TrainResult:
        """Trains both towers on the prepared data; an interrupted training continues after its last checkpoint.

        Args:
            force: trains from the beginning where the model is up to date or interrupted, too.
            resume: continues after the last checkpoint, also with another schedule (`train.*`); with `force`, too.
            warm_start: a run directory, an export directory or one of its versions: starts with that model's weights
                (those of a final fit where there is one).
            share_cores: on two cores, gives TensorFlow one thread per operation, which is faster. It has an effect
                only before this process has computed anything with TensorFlow.
            cluster: the processes that train together, each of which calls this method (`cluster_task.read_task`), and
                which of them this one is. The training begins at once, as with `force`.

        Raises:
            ConfigError: where the prepared data are of another configuration, or the cluster is not as described; where
                `run_dir` holds a model of another configuration and `overwrite` was not given; for a model larger than
                the memory.
            DataError: without any training positive, or for a loss that is not a number.
            ArtifactError: where `run_dir` is not prepared, prepared values are not those that TensorFlow computes, or
                another process works there.
            LostWorkerError: where another process of the cluster has ended.
        """
        from twotower_tf.prepare.prepared import Prepared

        source = str(final_fit.find_model(Path(warm_start)).resolve()) if warm_start else ""
        if cluster is not None and not cluster.is_chief:
            from twotower_tf.train import training_loop

            figures = training_loop.train_with_chief(self.config, self.run_dir, cluster, resume=resume, source=source)
            return TrainResult.read(self.run_dir, figures, skipped=False)
        paths = RunPaths(self.run_dir)
        force = force or cluster is not None
        with self.working(), self._showing() as progress:
            self._adopt(overwrite=self._overwrite, resume=resume)
            stages, key = Stages(self.run_dir), self._key("train")
            if not force and stages.is_done("train", key) and paths.train.exists() and paths.checkpoints.exists():
                self._log("train: up to date")
                return TrainResult.read(self.run_dir, artifacts.read_json(paths.train, "run directory"), skipped=True)
            from twotower_tf.evaluate.validation import make_validator
            from twotower_tf.features.arrays import EncodedData
            from twotower_tf.features.encoding_check import check_encodings
            from twotower_tf.train import parameter_servers, training_loop

            if share_cores:
                training_loop.share_cores()
            resume = resume or (not force and stages.is_interrupted("train", key))
            prepared = Prepared.open(self.run_dir)
            merged = self.config.data.train_on_valid  # nothing is left to validate on
            validate = None if merged else make_validator(self.config, prepared, EncodedData(self.config, prepared))
            joined = parameter_servers.join(
                cluster, self.config, self.run_dir, resume=resume, warm_start=source, log=self._log
            )
            check_encodings(self.config, prepared)
            stages.begin("train", key, warm_start=source or (stages.fact("train", "warm_start") if resume else ""))
            run_stages.remove_results(paths)
            with joined, joined.name_lost(), run_lock.read_run(warm_start, own=self.run_dir):
                figures = training_loop.train(
                    self.config,
                    self.run_dir,
                    resume=resume,
                    warm_start=Path(source) if source else None,
                    validate=validate,
                    progress=progress,
                    log=self._log,
                    workers=joined,
                )
            stages.finish("train")
        return TrainResult.read(self.run_dir, figures, skipped=False)

    def final_fit(
        self,
        *,
        prepare: dict[str, Any] | None = None,
        force: bool = False,
        resume: bool = False,
        share_cores: bool = False,
        cluster: ClusterTask | None = None,
    ) -> TrainResult:
        """Trains on the training and the validation part together, for the number of epochs that `train` chose.

        The final fit is in `run_dir/final`, a run directory prepared from the same files, with the same test part.
        `evaluate("test")` and `export` use its model then, not `evaluate("valid")`. It continues after an interruption.

        Args:
            prepare: arguments of `prepare`; None: those that the run was prepared with.
            force: trains from the beginning where the final fit is up to date or interrupted, too.
            resume: continues after the last checkpoint; with `force`, too.
            share_cores: as of `train`.
            cluster: as of `train`; the chief prepares the final fit, for which the others wait.

        Raises:
            ConfigError: where the run has no validation rows, holds a model of another configuration, or was prepared
                with Spark and `prepare` was not given.
            DataError: where the input files have changed since the run was prepared.
            ArtifactError: where the run has no finished training, or another process works in `run_dir`.
        """
        paths, start = RunPaths(self.run_dir), final_fit.find_warm_start(self.run_dir)
        if cluster is not None and not cluster.is_chief:
            other = Pipeline(final_fit.plan_final_fit(self.config, self.run_dir), paths.final)
            return other.train(resume=resume, warm_start=start, cluster=cluster)
        with self.working():
            self._adopt()
            config, stages = final_fit.plan_final_fit(self.config, self.run_dir), Stages(self.run_dir)
            arguments = final_fit.plan_preparation(self.config, self.run_dir, prepare)
            key = self._key("final", epochs=config.train.epochs)
            if force or not stages.is_done("final", key):
                stages.begin("final", key)
                run_stages.remove_figures(paths)
            self._log(f"final fit: {config.train.epochs} epochs on the training and the validation part")
            final = Pipeline(config, paths.final, overwrite=True, progress=self._progress, log=self._log)
            final.prepare(**arguments)
            result = final.train(force=force, resume=resume, warm_start=start, share_cores=share_cores, cluster=cluster)
            stages.finish("final")
        return result

    def evaluate(self, split: Split = "test", *, force: bool = False) -> EvaluateResult:
        """Ranks the whole catalogue for the held-out positives of a split; compares with baselines, and finds warnings.

        On "test" the model is that of the final fit where there is one.

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
            config, model, which = final_fit.choose_model(self.config, self.run_dir, split)
            stages, key = Stages(self.run_dir), self._key("evaluate", split=split, **which)
            written = all(path.exists() for path in (paths.metrics, paths.item_map, paths.report))
            if not force and stages.is_done("evaluate", key) and written:
                figures: dict[str, Any] = artifacts.read_json(paths.metrics, "run directory")
                if figures["schema_version"] == METRICS_SCHEMA:  # else of an earlier version of twotower_tf
                    self._log("evaluate: up to date")
                    return EvaluateResult.read(self.run_dir, figures, skipped=True)
            from twotower_tf.evaluate import evaluate_run
            from twotower_tf.report import report_page

            stages.begin("evaluate", key)
            figures = evaluate_run.evaluate_run(config, model, split, progress, results=self.run_dir)
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
        """Publishes a new version of the bundle in `export_dir`: the final fit where there is one.

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
            config, model, which = final_fit.choose_model(self.config, self.run_dir, "test")
            written = sorted({"tsv", *formats})
            place = {"export_dir": str(root.resolve()), "active_days": active_days, "formats": written}
            key = self._key("export", **place, **which)
            published = root / str(stages.fact("export", "version"))
            if not force and version is None and stages.is_done("export", key) and published.is_dir():
                self._log(f"export: up to date, {published}")
                return ExportResult(published, int(published.name), skipped=True)
            from twotower_tf.bundle.bundle import Bundle
            from twotower_tf.export import export_bundle
            from twotower_tf.report import report_page

            stages.begin("export", key)
            path: Path = export_bundle.export(
                config,
                model,
                root,
                results=self.run_dir,
                version=version,
                keep=keep,
                active_days=active_days,
                formats=formats,
                progress=progress,
                log=self._log,
            )
            report_page.add_index(self.run_dir, self.config, Bundle.read(path, check="light").manifest)
            stages.finish("export", version=int(path.name))
        return ExportResult(path, int(path.name), skipped=False)

    def tune(
        self,
        *,
        trials: int | None = None,
        jobs: int = 1,
        space: dict[str, Space] | None = None,
        prepare: dict[str, Any] | None = None,
    ) -> TuneResult:
        """Searches hyper-parameters on the validation part: prepares once, then trains one trial after the other.

        A search that was interrupted goes on. The test part is not read.

        Args:
            trials: trainings in all, in place of `tune.trials`.
            jobs: trainings at a time, each in a process of its own.
            space: values by field, in addition to `tune.space`.
            prepare: arguments of `prepare`.

        Raises:
            ConfigError: for a field that cannot be searched or a value that it cannot have, too many `jobs` for cores
                or memory, or a search of another configuration without `overwrite`.
            DataError: where all trials fail.
        """
        from twotower_tf.tune import field_values, search_run

        config = field_values.with_search(self.config, trials, space or {})
        with self.working(create=True):
            self.prepare(**(prepare or {}))
            search_run.check_jobs(config, self.run_dir, jobs)
            arguments = {**(prepare or {}), "since": final_fit.find_continued(self.config, self.run_dir)}

            def prepare_other(other: ExperimentConfig, run_dir: Path) -> None:
                Pipeline(other, run_dir, progress=self._progress, log=self._log).prepare(**arguments)

            with self._showing() as progress:
                search = search_run.Search(config, self.run_dir, prepare_other, overwrite=self._overwrite)
                search.run(jobs, progress=progress, log=self._log)
                return search.write_results()

    def run(
        self,
        *,
        final: bool = False,
        prepare: dict[str, Any] | None = None,
        export: dict[str, Any] | None = None,
        after_stage: Callable[[Result], None] = lambda result: None,
    ) -> RunResult:
        """Runs all stages; those whose result is up to date are skipped.

        Evaluates the test split, or the validation split where no test positive is held out.

        Args:
            final: makes the final fit, too, whose model is evaluated and exported.
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
            fitted = self.final_fit(prepare=prepare) if final else None
            if fitted is not None:
                after_stage(fitted)
            held_out: list[Split] = [split for split in ("test", "valid") if prepared.positives.get(split)]
            evaluated = self.evaluate(held_out[0]) if held_out else None
            if evaluated is None:
                self._log("evaluate: skipped; neither the test nor the valid split has positives")
            else:
                after_stage(evaluated)
            exported = self.export(**(export or {}))
            after_stage(exported)
        return RunResult(prepared, trained, evaluated, exported, fitted)
