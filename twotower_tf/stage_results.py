"""Results of the pipeline's stages: paths and figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower_tf.artifacts import RunPaths

if TYPE_CHECKING:
    from twotower_tf.bundle.bundle import Bundle


@dataclasses.dataclass(frozen=True)
class PrepareResult:
    """Result of `Pipeline.prepare`.

    Attributes:
        path: directory of the prepared data.
        skipped: whether it was up to date already.
        rows_read: rows of the event log.
        rows_used: rows that are in a split.
        rows_quarantined: rejected rows, which are listed in `quarantine.jsonl` with file, line and reason.
        items: items of the catalogue.
        users: users of the log.
        positives: number of positives per split, by "train", "valid" and "test".
        manifest: content of `manifest.json`.
    """

    path: Path
    skipped: bool
    rows_read: int
    rows_used: int
    rows_quarantined: int
    items: int
    users: int
    positives: dict[str, int]
    manifest: dict[str, Any] = dataclasses.field(repr=False)

    @classmethod
    def read(cls, run_dir: Path, manifest: dict[str, Any], *, skipped: bool) -> PrepareResult:
        """Picks the figures from the manifest of `run_dir`'s prepared data."""
        rows = manifest["rows"]
        return cls(
            path=RunPaths(run_dir).prepared,
            skipped=skipped,
            rows_read=rows["read"],
            rows_used=rows["used"],
            rows_quarantined=rows["quarantined"],
            items=manifest["items"],
            users=manifest["users"],
            positives={split: figures["positives"] for split, figures in manifest["splits"].items()},
            manifest=manifest,
        )


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Result of `Pipeline.train`.

    Attributes:
        path: directory of the checkpoints.
        skipped: whether the model was up to date already.
        epochs: epochs trained.
        best_epoch: the epoch whose weights are kept, counted from 1.
        examples_per_second: training rows per second, without validation and the first ten steps.
        figures: content of `train.json`.
    """

    path: Path
    skipped: bool
    epochs: int
    best_epoch: int
    examples_per_second: float
    figures: dict[str, Any] = dataclasses.field(repr=False)

    @classmethod
    def read(cls, run_dir: Path, figures: dict[str, Any], *, skipped: bool) -> TrainResult:
        """Picks the figures from the content of `run_dir`'s train.json."""
        picked = {name: figures[name] for name in ("epochs", "best_epoch", "examples_per_second")}
        return cls(RunPaths(run_dir).checkpoints, skipped, **picked, figures=figures)


@dataclasses.dataclass(frozen=True)
class EvaluateResult:
    """Result of `Pipeline.evaluate`.

    Attributes:
        path: `metrics.json`.
        report: `report.html`, the same for people.
        skipped: whether the figures were up to date already.
        split: "valid" or "test".
        users: users whose held-out positives were ranked.
        metrics: value by "NAME@K", e.g. "recall@20"; full-catalogue ranking.
        baselines: the same for "popularity", "recent_popularity" (of logs with times), "item_knn" (absent where its
            pairs are too many) and "random".
        warnings: what is wrong with the model and what to change, as `{"name", "text"}`; empty where nothing is.
        figures: content of `metrics.json`.
    """

    path: Path
    report: Path
    skipped: bool
    split: str
    users: int
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    warnings: list[dict[str, str]]
    figures: dict[str, Any] = dataclasses.field(repr=False)

    @classmethod
    def read(cls, run_dir: Path, figures: dict[str, Any], *, skipped: bool) -> EvaluateResult:
        """Picks the figures from the content of `run_dir`'s metrics.json."""
        paths = RunPaths(run_dir)
        picked = {name: figures[name] for name in ("split", "users", "metrics", "baselines", "warnings")}
        return cls(paths.metrics, paths.report, skipped, **picked, figures=figures)


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """Result of `Pipeline.export`.

    Attributes:
        path: directory of the published version.
        version: its number.
        skipped: whether this version was published already.
    """

    path: Path
    version: int
    skipped: bool

    @property
    def warnings(self) -> list[dict[str, str]]:
        """The warnings of the model's evaluation, as of `EvaluateResult`; empty where it was not evaluated."""
        from twotower_tf.bundle.bundle import Bundle

        evaluation = Bundle.read(self.path, check="light").manifest["evaluation"] or {}
        found: list[dict[str, str]] = evaluation.get("warnings", [])
        return found

    def open(self) -> Bundle:
        """Opens the published version, with every checksum compared.

        Raises:
            ArtifactError: where a file is missing or changed.
        """
        from twotower_tf.bundle.bundle import Bundle

        return Bundle.open(self.path.parent, self.version)


Result = PrepareResult | TrainResult | EvaluateResult | ExportResult


@dataclasses.dataclass(frozen=True)
class TuneResult:
    """Result of `Pipeline.tune`.

    Attributes:
        path: directory of the search.
        config: the best trial's configuration, for `Pipeline` or `twotower run --config`.
        report: `tune.html`: trials, fields and validation curves.
        monitor: the validation metric that trials are compared by.
        value: its value in the best trial.
        values: the best trial's values of the searched fields, by field as in `--set`.
        trials: every trial: `number`, `state`, `value`, `best_epoch`, `epochs`, `seconds`, `values`, `curve`, `error`.
    """

    path: Path
    config: Path
    report: Path
    monitor: str
    value: float
    values: dict[str, Any]
    trials: list[dict[str, Any]] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """Results of `Pipeline.run`; `evaluate` is None where no positive is held out, `final` without a final fit."""

    prepare: PrepareResult
    train: TrainResult
    evaluate: EvaluateResult | None
    export: ExportResult
    final: TrainResult | None = None
