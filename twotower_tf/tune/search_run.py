"""Searches hyper-parameters of a prepared run on its validation part, and writes RUN_DIR/tune."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from twotower_tf import artifacts, resources, run_stages
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ConfigError, DataError, TwoTowerError
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.progress import Progress, silent
from twotower_tf.report import search_page
from twotower_tf.stage_results import TuneResult
from twotower_tf.train import training_memory
from twotower_tf.tune import field_values
from twotower_tf.tune.run_trial import Objective, Task, train_trial
from twotower_tf.tune.trial_processes import Runner, TrialProcess
from twotower_tf.tune.trial_record import Outcome, Trial, TrialRecord, import_optuna, repair_journal

SCHEMA_VERSION = 1
BEST, FIGURES, PAGE = "best.json", "tune.json", "tune.html"
_BASIS = "basis.json"  # what the trials were prepared from
_HOPELESS = 3  # trials, all of which failed, after which a search ends
_STARTS = 2  # times that a trial may be begun: one that takes its process with it twice has failed
_DIGITS = 6

Prepare = Callable[[ExperimentConfig, Path], object]
Log = Callable[[str], object]


class Search:
    """A search below a prepared run directory.

    Attributes:
        directory: `tune/` of the run directory.
        record: its trials.
    """

    def __init__(self, config: ExperimentConfig, run_dir: Path, prepare: Prepare, *, overwrite: bool = False) -> None:
        """Begins a search, or opens the one to be continued.

        Args:
            config: the experiment, whose `tune` is resolved (`field_values.with_search`).
            run_dir: prepared for `config`.
            prepare: prepares a run directory for another configuration, where the space changes features.
            overwrite: removes a search of another configuration or space.

        Raises:
            ConfigError: where there is such a search and `overwrite` is not given, or Optuna is not installed.
        """
        import_optuna()
        self._config, self._run_dir, self._prepare = config, run_dir, prepare
        self.directory = RunPaths(run_dir).tune
        self._check_same(overwrite)
        self.directory.mkdir(exist_ok=True)
        artifacts.write_text(RunPaths(self.directory).config, configuration.to_json(config))
        artifacts.write_json(
            self.directory / _BASIS, {"schema_version": SCHEMA_VERSION, "prepared": self._prepared_key}
        )
        repair_journal(self.directory)
        self.record = TrialRecord(self.directory, config)
        if not self.record.trials():
            self.record.suggest(field_values.current_values(config))

    @property
    def _prepared_key(self) -> str:
        return str(run_stages.Stages(self._run_dir).fact("prepare", "key"))

    def _check_same(self, overwrite: bool) -> None:
        """Removes a search of another configuration, or refuses it."""
        if not RunPaths(self.directory).config.exists():
            return
        before, now = configuration.load_run(self.directory), self._config
        changed = run_stages.list_differences(before, now, "prepare", "train")
        if before.tune.space != now.tune.space:
            changed.append(f"tune.space was {_describe(before)}, now {_describe(now)}")
        if before.tune.pruner != now.tune.pruner:
            changed.append(f"tune.pruner was {before.tune.pruner}, now {now.tune.pruner}")
        basis = artifacts.read_json(self.directory / _BASIS, "search", SCHEMA_VERSION)
        if not changed and basis["prepared"] != self._prepared_key:
            changed.append("its input files have changed")
        if changed and not overwrite:
            raise ConfigError(
                f"{self.directory} holds a search of another configuration ({changed[0]}); "
                "choose another --run_dir, or --overwrite to search again"
            )
        if changed:
            shutil.rmtree(self.directory)

    def run(
        self,
        jobs: int,
        objective: Objective = train_trial,
        make_runner: Callable[[int], Runner] | None = None,
        progress: Progress = silent,
        log: Log = lambda line: None,
    ) -> None:
        """Runs what is left of the trials, first those that a killed search was in.

        Args:
            jobs: trials at a time.
            objective: trains a trial.
            make_runner: makes what runs trials, from the number of its threads; None: a process each.
            progress: receives the number of ended trials.
            log: receives a line for each of them.

        Raises:
            DataError: where every trial fails.
        """
        total, waiting = self._config.tune.trials, self._left_over()
        threads = max(1, resources.count_cpus() // jobs)
        runners: list[Runner] = [(make_runner or TrialProcess)(threads) for _ in range(jobs)]
        idle, running = list(runners), dict[Future[Outcome], tuple[Runner, Trial]]()
        try:
            while True:
                progress("tune", len(self.record.trials()) - len(running), total)
                while idle and (trial := next(waiting, None) or self._next(total)):
                    task = self._write_trial(trial, objective)
                    if task is not None:
                        runner = idle.pop()
                        running[runner.start(task)] = runner, trial
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    runner, trial = running.pop(future)
                    idle.append(runner)
                    self._end(trial, future.result(), log)
        finally:
            for runner in runners:
                runner.close()
        progress("tune", len(self.record.trials()), total)

    def _left_over(self) -> Iterator[Trial]:
        """Yields the trials that a killed search was in; one that was begun twice has failed."""
        for trial in self.record.trials():
            if trial.outcome.state != "running":
                continue
            if (self.record.fact(trial.number, "starts") or 0) >= _STARTS:
                text = f"its process was killed {_STARTS} times"
                self.record.end(trial.number, Outcome("failed", error=text))
            else:
                yield trial

    def _next(self, total: int) -> Trial | None:
        return self.record.begin() if len(self.record.trials()) < total else None

    def _write_trial(self, trial: Trial, objective: Objective) -> Task | None:
        """Writes the run directory of a trial; None where its values do not go together, which is its failure."""
        directory = self.directory / "trials" / f"{trial.number:05d}"
        self.record.note(trial.number, "starts", (self.record.fact(trial.number, "starts") or 0) + 1)
        try:
            config = field_values.with_values(self._config, trial.values)
            source = self._find_prepared(config)
        except TwoTowerError as error:
            self._end(trial, Outcome("failed", error=str(error)), lambda line: None)
            return None
        directory.mkdir(parents=True, exist_ok=True)
        link = RunPaths(directory).prepared
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(RunPaths(source).prepared, directory))
        artifacts.write_text(RunPaths(directory).config, configuration.to_json(config))
        return Task(trial.number, self.directory, directory, objective)

    def _find_prepared(self, config: ExperimentConfig) -> Path:
        """Returns a run directory that is prepared for a configuration: the run's own, or one per value of features."""
        if not run_stages.list_differences(self._config, config, "prepare"):
            return self._run_dir
        digest = configuration.fingerprint(config, configuration.PREPARED)[:12]
        directory = self.directory / "prepared" / digest
        self._prepare(config, directory)
        return directory

    def _end(self, trial: Trial, outcome: Outcome, log: Log) -> None:
        self.record.end(trial.number, outcome)
        ended = [each for each in self.record.trials() if each.outcome.state != "running"]
        log(_describe_outcome(ended, trial.number))
        failed = [each for each in ended if each.outcome.state == "failed"]
        if len(failed) == len(ended) >= min(_HOPELESS, self._config.tune.trials):
            raise DataError(f"tune: all {len(ended)} trials failed, the last with: {failed[-1].outcome.error}")

    def write_results(self) -> TuneResult:
        """Writes the figures, the page and the best configuration.

        Raises:
            DataError: where no trial has finished.
        """
        trials = self.record.trials()
        best = find_best(trials)
        if best is None:
            raise DataError(f"{self.directory}: no trial has finished; raise tune.trials")
        config = field_values.with_values(self._config, best.values)
        artifacts.write_text(self.directory / BEST, configuration.to_json(config))
        document = {
            "schema_version": SCHEMA_VERSION,
            "name": self._config.name,
            "monitor": self._config.train.monitor,
            "space": {name: dataclasses.asdict(space) for name, space in self._config.tune.space.items()},
            "best": best.number,
            "trials": (records := [_to_json(trial) for trial in trials]),
        }
        artifacts.write_json(self.directory / FIGURES, document)
        artifacts.write_text(self.directory / PAGE, search_page.render_search(document))
        return TuneResult(
            self.directory,
            self.directory / BEST,
            self.directory / PAGE,
            self._config.train.monitor,
            best.outcome.value or 0.0,
            best.values,
            records,
        )


def find_best(trials: list[Trial]) -> Trial | None:
    """Returns the finished trial with the largest value, of equal ones the first; None where none has finished."""
    finished = [trial for trial in trials if trial.outcome.state == "finished"]
    return max(finished, key=lambda trial: (trial.outcome.value or 0.0, -trial.number), default=None)


def check_jobs(config: ExperimentConfig, run_dir: Path, jobs: int) -> None:
    """Checks that so many trials at a time fit into cores and memory.

    Raises:
        ConfigError: where they do not.
    """
    cores = resources.count_cpus()
    if not 1 <= jobs <= cores:
        raise ConfigError(f"--jobs: invalid value {jobs} (expected 1 to {cores}, the number of cores)")
    prepared = Prepared.open(run_dir)
    past = len(prepared.sequence("train")) - prepared.num_positives("train")
    counts = prepared.num_rows("train"), prepared.num_users, past, prepared.num_items
    needed = training_memory.estimate_memory(config, *counts)
    available = resources.available_memory()
    if jobs > 1 and jobs * needed.total > available:
        raise ConfigError(
            f"--jobs: invalid value {jobs} (expected at most {max(1, available // needed.total)}: a trial needs "
            f"{resources.format_bytes(needed.total)}, {resources.format_bytes(available)} are available)"
        )


def _describe(config: ExperimentConfig) -> str:
    return ", ".join(f"{name}={space}" for name, space in config.tune.space.items())


def _describe_outcome(ended: list[Trial], number: int) -> str:
    trial = next(each for each in ended if each.number == number)
    outcome, best = trial.outcome, find_best(ended)
    values = ", ".join(f"{name}={_short(value)}" for name, value in trial.values.items())
    said = f"{outcome.value:.4f}" if outcome.value is not None else outcome.error
    so_far = f"; best so far {best.outcome.value:.4f}, trial {best.number}" if best else ""
    return f"trial {number} {outcome.state}: {said} ({values}){so_far}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _to_json(trial: Trial) -> dict[str, Any]:
    outcome = trial.outcome
    return {
        "number": trial.number,
        "state": outcome.state,
        "value": None if outcome.value is None else round(outcome.value, _DIGITS),
        "best_epoch": outcome.best_epoch,
        "epochs": outcome.epochs,
        "seconds": round(outcome.seconds, 1),
        "values": trial.values,
        "curve": {str(epoch): round(value, _DIGITS) for epoch, value in trial.curve.items()},
        "error": outcome.error,
    }
