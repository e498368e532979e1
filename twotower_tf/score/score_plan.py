"""Plans a scoring: users, columns, eligible items and units.

Errors of the input are raised before anything is written.
"""

from __future__ import annotations

import dataclasses
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from twotower_tf import artifacts
from twotower_tf.bundle import bundle as bundles
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.bundle.item_columns import ItemColumns
from twotower_tf.index.index_files import ITEM_IDS
from twotower_tf.index.item_vectors import ItemVectors, read_ids
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.retrieval.blocklist import BLOCKLIST
from twotower_tf.retrieval.item_filter import ItemFilter
from twotower_tf.retrieval.limits import JOB_FILTER_SECONDS
from twotower_tf.score import exclusions, inspect_users, journal, units, user_columns, users_from_events, worker_sizing
from twotower_tf.score.answer_tables import Layout
from twotower_tf.score.inspect_users import Input
from twotower_tf.score.job import ALLOWED, EXCLUDED, USERS, Job
from twotower_tf.score.journal import Journal
from twotower_tf.score.score_options import Options
from twotower_tf.score.units import Unit
from twotower_tf.tables import input_files
from twotower_tf.tables.time_parser import TimeParser


class Planner:
    """Plans one scoring, `rows` at a time; `make_plan` sets `users`, the state of their files before they were read."""

    users: input_files.FileSnapshot

    def __init__(self, options: Options) -> None:
        """Checks options, bundle and users; writes nothing.

        Raises:
            ConfigError: for options that do not go together.
            ArtifactError: for a bundle or run directory that cannot be used.
            DataError: for users that cannot be read as the model needs them.
        """
        options.check()
        self.options = options
        self.bundle = Bundle.open(options.export_dir, options.version)
        self.journal = Journal(options.output)
        self._config = self.bundle.config
        self._times = TimeParser.of_manifest(self.bundle.manifest)
        self.size = worker_sizing.choose_workers(options, self.bundle.manifest)
        self.rows = worker_sizing.choose_rows(options, self.bundle.manifest, self._config)
        self._exclude = exclusions.find(self._config.data, options.exclude) if options.exclude else []
        self._allowed = self._find_allowed_items()
        self._log: Prepared | None = None
        self._table: Input | None = None
        if options.users_from_events:
            self._log = users_from_events.open_log(Path(options.users_from_events), self._config)
        else:
            self._table = inspect_users.inspect_table(options, self._config, self.bundle.manifest)
        Layout(self.bundle.version, options.format, 1, None if options.vectors_only else self._ids)

    @cached_property
    def _ids(self) -> Any:
        return read_ids(self.bundle.path / bundles.INDEX / ITEM_IDS)

    def _find_allowed_items(self) -> Any:
        """Returns a mask of the eligible items; None where all are."""
        if self.options.vectors_only:
            return None
        items = ItemVectors.trusted(self._ids, np.empty((len(self._ids), 0), np.float32))
        blocklist = self.options.blocklist or Path(self.options.export_dir) / BLOCKLIST
        form = self.bundle.text_forms("item").get(self._config.data.item_id, "")
        item_filter = ItemFilter(lambda: ItemColumns(self.bundle), items, Path(blocklist), form, JOB_FILTER_SECONDS)
        allowed = item_filter.allowed(self.options.filter)
        return None if allowed is None else allowed.mask

    def make_plan(self) -> tuple[Job, list[Unit]]:
        """Writes the plan into the journal, or reads the plan of the interrupted scoring there.

        Raises:
            DataError: where the output holds a scoring of something else.
        """
        options, settings = self.options, self._settings()
        self.journal.check_same(settings)
        begun = self.journal.read_plan() is not None
        table = self._table or self._build()
        self.users = table.snapshot
        cut = units.split_units(table.sources)
        if not begun:
            self._restrict()
        self.journal.save_plan(settings, cut)
        present = {each.name for each in table.columns}
        timed = [each.name for each in user_columns.list_feature_columns(self._config) if each.role == "time"]
        job = Job(
            export_dir=str(Path(options.export_dir).absolute()),  # executors work in other directories
            version=self.bundle.version,
            output=str(Path(options.output).absolute()),
            journal=str(self.journal.directory.absolute()),
            sources=tuple(dataclasses.replace(each, path=each.path.absolute()) for each in table.sources),
            user_id=self._config.data.user_id,
            renamed=table.renamed,
            columns=table.columns,
            times=self._times,
            at={name: settings["at"] for name in timed if name not in present},
            k=settings["k"],
            format=options.format,
            names=options.names,
            seen=options.exclude_seen,
            memory_limit=f"{max(256 << 20, int(self.size.memory / self.size.workers * 0.4))}B",
            threads=self.size.threads,
        )
        return job, cut

    def is_finished(self) -> bool:
        """Returns whether the output holds all of this scoring.

        Raises:
            DataError: where it holds a scoring of something else.
        """
        plan = self.journal.read_plan()
        if plan is None or not (self.journal.output / journal.SUMMARY).is_file():
            return False
        self.journal.check_same(self._settings())
        return all(self.journal.unit_result(unit["number"]) is not None for unit in plan["units"])

    def _settings(self) -> dict[str, Any]:
        """Returns the settings that identify a scoring."""
        options, plan = self.options, self.journal.read_plan()
        at = options.at if options.at is not None else int(time.time())
        if plan is not None and options.at is None:
            at = plan["at"]
        return {
            "bundle": {"version": self.bundle.version, "fingerprint": self.bundle.manifest[bundles.SEAL]},
            "inputs": self._table.identity if self._table else self._log_identity(),
            "k": 0 if options.vectors_only else options.k,
            "format": options.format,
            "filter": options.filter,
            "names": options.names,
            "exclude": journal.fingerprint_files(self._exclude),
            "exclude_seen": options.exclude_seen,
            "absent": sorted(options.absent),
            "at": at,
        }

    def _log_identity(self) -> list[dict[str, Any]]:
        path = Path(self.options.users_from_events).resolve() / "prepared"
        return [{"path": str(path), "manifest": artifacts.sha256_file(path / "manifest.json")}]

    def _build(self) -> Input:
        """Returns the users of a log as a table in the journal's directory."""
        assert self._log is not None
        directory = self.journal.directory / USERS
        if not directory.is_dir():
            rows = self._index_rows() if self.options.exclude_seen else None
            users_from_events.build(directory, self._log, self._config, rows, self._half(), self.size.threads)
        sources = tuple(input_files.find_files(directory, ".", "--users_from_events"))
        found = user_columns.list_feature_columns(self._config)
        present = tuple(each for each in found if each.role != "time")
        return Input(sources, present, {}, self._log_identity(), input_files.FileSnapshot(sources))

    def _index_rows(self) -> Any:
        """Returns int32 `[catalogue]`: the index row of each item of the log's catalogue, -1 if it has none."""
        assert self._log is not None
        row_of = {item: row for row, item in enumerate(self._ids)}
        return np.array([row_of.get(item, -1) for item in self._log.item_ids()], np.int32)

    def _restrict(self) -> None:
        """Writes the eligible items and the excluded pairs for the workers."""
        directory = self.journal.directory
        if self._allowed is not None:
            with artifacts.atomic_file(directory / ALLOWED) as path, path.open("wb") as file:
                np.save(file, self._allowed)
        if self._exclude:
            every = self.size.workers * self.size.threads
            target = directory / EXCLUDED
            if not target.is_dir():
                forms = {**self.bundle.text_forms("user"), **self.bundle.text_forms("item")}
                exclusions.build(target, self._exclude, self._config.data, forms, self._ids, self._half(), every)

    def _half(self) -> str:
        """Returns half of the memory limit, for sorting; the rest is spilled to disk."""
        return f"{int(self.size.memory / 2)}B"
