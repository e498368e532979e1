"""Holds a run directory with its configuration while stages work in it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from typing_extensions import Self

from twotower_tf import config as configuration
from twotower_tf import progress_bar, resources, run_lock, run_stages
from twotower_tf.artifacts import PreparedPaths, RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ConfigError
from twotower_tf.progress import Progress, silent


class RunSession:
    """A run directory, its configuration, and who receives progress and log lines.

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
    def open(cls, run_dir: str | Path, export_dir: str | Path | None = None, **options: Any) -> Self:
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
        return run_stages.compute_stage_key(self.config, self.run_dir, stage, **more)

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
