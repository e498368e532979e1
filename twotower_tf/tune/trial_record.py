"""Records the trials of a search with Optuna, in one journal that several processes append to.

Every trial is written when it begins, each of its validations as it is made: a search that was killed goes on with what
it has, and with the trials that it was killed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from twotower_tf.config import Choice, ExperimentConfig, IntRange, LogUniform, Space
from twotower_tf.errors import ConfigError
from twotower_tf.tune.field_values import Value

JOURNAL = "trials.journal"
_NAME = "tune"
_FIRST = 5  # trials without pruning

State = Literal["running", "finished", "pruned", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How a trial has ended.

    Attributes:
        state: finished, pruned or failed.
        value: the best value of `train.monitor`; None where it failed before the first validation.
        best_epoch: the epoch with that value, counted from 1; 0 where there is none.
        epochs: epochs trained.
        seconds: of its last process.
        error: why it failed.
    """

    state: State
    value: float | None = None
    best_epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Trial:
    """One training of a search.

    Attributes:
        number: counted from 0.
        values: of the searched fields.
        outcome: how it has ended; `state` is "running" before.
        curve: `train.monitor` by epoch, as far as it was validated.
    """

    number: int
    values: dict[str, Value]
    outcome: Outcome
    curve: dict[int, float] = field(default_factory=dict)


class TrialRecord:
    """The trials of one search."""

    def __init__(self, directory: Path, config: ExperimentConfig) -> None:
        """Opens the record, which is created where it is missing.

        Args:
            directory: of the search.
            config: the experiment with its space.

        Raises:
            ConfigError: where Optuna is not installed.
        """
        optuna = import_optuna()
        from optuna.storages import journal

        path = str(directory / JOURNAL)
        self._storage = journal.JournalStorage(journal.JournalFileBackend(path, journal.JournalFileOpenLock(path)))
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=_NAME,
            direction="maximize",
            load_if_exists=True,
            pruner=_make_pruner(config),
        )
        self._space = {name: _distribution(space) for name, space in config.tune.space.items()}
        # A continued search draws other values than those that it began with.
        done = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = optuna.samplers.TPESampler(seed=config.seed + done, constant_liar=True)

    def suggest(self, values: dict[str, Value]) -> None:
        """Makes the next trial one with these values; other fields are sampled."""
        if values:
            self._study.enqueue_trial(values, skip_if_exists=True)

    def begin(self) -> Trial:
        """Chooses the values of a new trial."""
        begun = self._study.ask(fixed_distributions=self._space)
        return Trial(begun.number, dict(begun.params), Outcome("running"))

    def follow(self, number: int) -> Any:
        """Returns a running trial as Optuna has it (`optuna.trial.Trial`), to report its validations."""
        optuna = import_optuna()
        return optuna.trial.Trial(self._study, self._find(number))

    def _find(self, number: int) -> int:
        """Returns Optuna's id of a trial."""
        study = self._storage.get_study_id_from_name(_NAME)
        return int(self._storage.get_trial_id_from_study_id_trial_number(study, number))

    def end(self, number: int, outcome: Outcome) -> None:
        """Records how a trial has ended."""
        optuna = import_optuna()
        states = {
            "finished": optuna.trial.TrialState.COMPLETE,
            "pruned": optuna.trial.TrialState.PRUNED,
            "failed": optuna.trial.TrialState.FAIL,
        }
        trial = self.follow(number)
        for name in ("best_epoch", "epochs", "seconds", "error"):
            trial.set_user_attr(name, getattr(outcome, name))
        values = [outcome.value] if outcome.state == "finished" and outcome.value is not None else None
        self._storage.set_trial_state_values(self._find(number), states[outcome.state], values)

    def note(self, number: int, name: str, value: Any) -> None:
        """Records a fact of a running trial."""
        self.follow(number).set_user_attr(name, value)

    def fact(self, number: int, name: str) -> Any:
        """Returns what `note` recorded, or None."""
        return self._study.get_trials(deepcopy=False)[number].user_attrs.get(name)

    def trials(self) -> list[Trial]:
        """Returns all trials in the order of their numbers."""
        return [*self._read()]

    def _read(self) -> Iterator[Trial]:
        names: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
        for each in self._study.get_trials(deepcopy=False):
            if each.state.name not in names:  # one that `suggest` has put in the queue
                continue
            attributes, curve = each.user_attrs, dict(sorted(each.intermediate_values.items()))
            best = max(curve, key=lambda epoch: (curve[epoch], -epoch), default=0)
            value = each.value if each.state.name == "COMPLETE" else curve.get(best)
            outcome = Outcome(
                names[each.state.name],
                value,
                attributes.get("best_epoch") or best,
                attributes.get("epochs") or max(curve, default=0),
                attributes.get("seconds", 0.0),
                attributes.get("error", ""),
            )
            yield Trial(each.number, dict(each.params), outcome, curve)


def repair_journal(directory: Path) -> None:
    """Removes what a process left in the journal that ended while it wrote: its lock, and a line without an end.

    No other process may work in the search.
    """
    path = directory / JOURNAL
    path.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)


def import_optuna() -> Any:
    """Imports Optuna, without its lines on standard error.

    Raises:
        ConfigError: where it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("tune: needs the package optuna; pip install 'twotower-tf[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _make_pruner(config: ExperimentConfig) -> Any:
    pruners, epochs = import_optuna().pruners, config.train.epochs
    if config.tune.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    if config.tune.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=_FIRST, n_warmup_steps=1 + epochs // 10)
    return pruners.NopPruner()


def _distribution(space: Space) -> Any:
    kinds = import_optuna().distributions
    if isinstance(space, Choice):
        return kinds.CategoricalDistribution(space.values)
    if isinstance(space, IntRange):
        return kinds.IntDistribution(space.low, space.high, log=space.log)
    return kinds.FloatDistribution(space.low, space.high, log=isinstance(space, LogUniform))
