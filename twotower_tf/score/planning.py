"""Everything that is decided before work starts: which users, which columns, which items, how many workers.

Whatever is wrong with the input is told here, before anything is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf import artifacts
from twotower_tf.data import engine, files
from twotower_tf.data.files import Source
from twotower_tf.data.prepared import Prepared
from twotower_tf.errors import ConfigError, DataError
from twotower_tf.index import bundle as bundles
from twotower_tf.index import topk
from twotower_tf.index.blocklist import BLOCKLIST
from twotower_tf.index.bundle import Bundle
from twotower_tf.index.files import ITEM_IDS
from twotower_tf.index.gate import Gate
from twotower_tf.index.items import ItemVectors, read_ids
from twotower_tf.score import columns, exclusions, from_events, journal, judge, reading, units
from twotower_tf.score.columns import Column
from twotower_tf.score.crew import SMALLEST
from twotower_tf.score.job import ALLOWED, EXCLUDED, USERS, Job
from twotower_tf.score.journal import Journal
from twotower_tf.score.tables import Format, Layout
from twotower_tf.score.units import Unit

LARGEST = 1 << 16  # rows at a time
_TABLE_BYTES = 64 << 20  # of one table on its way through a worker
_WORKER_BYTES = 700 << 20  # of a worker beside its index: TensorFlow, tables on their way
_SAMPLE = 10_000  # rows that are looked at before work starts
_LOOKED_AT = 1 << 22  # bytes of a text
_MAX_K = 1000


@dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes:
        export_dir: the export root.
        output: directory of the answers.
        users: file, glob or directory of users; or
        users_from_events: a run directory: all users of its log, as they are after its last event.
        version: of the bundle; None is the newest.
        k: answers per user.
        vectors_only: user vectors instead of answers.
        format: of the output.
        filter: SQL predicate over the catalogue: items that may be answered.
        blocklist: file of items that nobody may get; None is that of the export root.
        exclude: file, glob or directory of pairs of user and item that are not answered.
        exclude_seen: leaves out what a user of the log has had; with users_from_events.
        absent: feature columns that the users may lack.
        at: epoch seconds of the time features where users have no such column; None is now.
        workers: processes; 0 is as many as cores and memory allow.
        threads: of each; 0 shares the cores among the workers.
        memory_limit: of all workers, e.g. "8GB"; "" is half of the machine's.
    """

    export_dir: Path
    output: Path
    users: str = ""
    users_from_events: str = ""
    version: int | None = None
    k: int = 10
    vectors_only: bool = False
    format: Format = "parquet"
    filter: str = ""
    blocklist: str | None = None
    exclude: str = ""
    exclude_seen: bool = False
    absent: tuple[str, ...] = ()
    at: int | None = None
    workers: int = 0
    threads: int = 0
    memory_limit: str = ""

    def check(self) -> None:
        """Refuses what does not go together.

        Raises:
            ConfigError: naming the flags.
        """
        if bool(self.users) == bool(self.users_from_events):
            raise ConfigError("--users: either a table of users or --users_from_events is needed, and not both")
        if not 1 <= self.k <= _MAX_K:
            raise ConfigError(f"--k: from 1 to {_MAX_K} is expected; came {self.k}")
        if self.memory_limit:
            engine.size(self.memory_limit)
        if self.exclude_seen and not self.users_from_events:
            raise ConfigError("--exclude_seen: needs --users_from_events; a table of pairs goes with --exclude")
        if self.vectors_only and (self.filter or self.exclude or self.exclude_seen):
            raise ConfigError("--vectors_only: answers no items; --filter, --exclude and --exclude_seen mean nothing")


@dataclass(frozen=True)
class Input:
    """The users.

    Attributes:
        sources: their files.
        columns: feature columns that the files have.
        clocks: how times are read, by column.
        identity: what tells whether it is still the same input.
    """

    sources: tuple[Source, ...]
    columns: tuple[Column, ...]
    clocks: Mapping[str, Any]
    identity: list[dict[str, Any]]


class Planner:
    """Decides.

    Attributes:
        options: what is asked for.
        bundle: what answers.
        journal: of the output.
    """

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
        self._exclude = exclusions.find(self._config.data, options.exclude) if options.exclude else []
        self._allowed = self._gate()
        self._log: Prepared | None = None
        self._table: Input | None = None
        if options.users_from_events:
            self._log = from_events.opened(Path(options.users_from_events), self._config)
        else:
            self._table = self._look(self._find())
        Layout(self.bundle.version, options.format, 1, None if options.vectors_only else self._ids)

    # --- users ----------------------------------------------------------------------------------------------------

    def _find(self) -> list[Source]:
        data = self._config.data
        found = files.find(Path(), self.options.users, "--users", (), data.delimiter)
        if found[0].suffix in files.DELIMITERS and data.user_columns:
            found = [dataclasses.replace(source, columns=data.user_columns) for source in found]
        return [source for source in found if source.path.stat().st_size]

    def _look(self, sources: Sequence[Source]) -> Input:
        """Looks at every file's head, and at the first rows."""
        if not sources:
            raise DataError(f"--users: {self.options.users}: no rows")
        user_id = self._config.data.user_id
        wanted = [user_id, *(each.name for each in columns.features(self._config))]
        with (
            tempfile.TemporaryDirectory(prefix="twotower-") as work,
            _beginning(sources[0], Path(work)) as (source, unit),
            reading.opened(source, unit, wanted, _SAMPLE, Path(work), "1GB") as rows,
        ):
            known = [(sources[0], rows.known), *self._heads(sources[1:])]
            present = columns.present(self._config, known, self.options.absent)
            if sources[0].suffix in files.PARQUET:
                schemas = [pq.read_schema(source.path) for source in sources]
                columns.check_types(present, user_id, sources, schemas)
            sample = next(rows.batches, None)
        clocks = {}
        if sample is not None:
            form = self._config.data.timestamp_format
            timed = [each.name for each in present if each.role == "time" and each.name in sample.column_names]
            clocks = {name: judge.clock(sample, name, form) for name in timed}
            judge.Judge(user_id, present, clocks).check_numbers(sample, sources[0].name)
        return Input(tuple(sources), present, clocks, journal.fingerprint(sources))

    def _heads(self, sources: Sequence[Source]) -> list[tuple[Source, list[str]]]:
        """Names of the columns, of files that say them once."""
        found: list[tuple[Source, list[str]]] = []
        for source in sources:
            partition = [key for key, _ in source.partition]
            if source.suffix in files.PARQUET:
                found.append((source, [*_schema(source).names, *partition]))
            elif source.suffix in files.DELIMITERS and (header := files.head(source)) is not None:
                found.append((source, [*header[0], *partition]))
        return found

    # --- items ----------------------------------------------------------------------------------------------------

    @cached_property
    def _ids(self) -> Any:
        return read_ids(self.bundle.path / bundles.INDEX / ITEM_IDS)

    def _gate(self) -> Any:
        """A mask of the items that may be answered; None where all may."""
        if self.options.vectors_only:
            return None
        items = ItemVectors.trusted(self._ids, np.empty((len(self._ids), 0), np.float32))
        blocklist = self.options.blocklist or Path(self.options.export_dir) / BLOCKLIST
        gate = Gate(lambda: self.bundle.items, items, Path(blocklist))
        allowed = gate.allowed(self.options.filter)
        return None if allowed is None else allowed.mask

    # --- the plan -------------------------------------------------------------------------------------------------

    def settle(self) -> tuple[Job, list[Unit]]:
        """Decides for good, in the journal; or finds what was decided when the output was begun.

        Raises:
            DataError: where the output was begun with something else.
        """
        options, settings = self.options, self._settings()
        self.journal.compare(settings)
        begun = self.journal.settled() is not None
        table = self._table or self._build()
        cut = units.plan(table.sources)
        if not begun:
            self._restrict()
        self.journal.begin(settings, cut)
        present = {each.name for each in table.columns}
        timed = [each.name for each in columns.features(self._config) if each.role == "time"]
        workers, threads, limit = self.crew()
        job = Job(
            export_dir=str(Path(options.export_dir).absolute()),  # executors work in other directories
            version=self.bundle.version,
            output=str(Path(options.output).absolute()),
            journal=str(self.journal.directory.absolute()),
            sources=tuple(dataclasses.replace(each, path=each.path.absolute()) for each in table.sources),
            user_id=self._config.data.user_id,
            columns=table.columns,
            clocks=table.clocks,
            at={name: settings["at"] for name in timed if name not in present},
            k=settings["k"],
            format=options.format,
            seen=options.exclude_seen,
            memory_limit=f"{max(256 << 20, int(limit / workers * 0.4))}B",
            threads=threads,
        )
        return job, cut

    def finished(self) -> bool:
        """Whether the output holds all of this scoring.

        Raises:
            DataError: where it was begun with something else.
        """
        settled = self.journal.settled()
        if settled is None or not (self.journal.output / journal.SUMMARY).is_file():
            return False
        self.journal.compare(self._settings())
        return all(self.journal.note(unit["number"]) is not None for unit in settled["units"])

    def _settings(self) -> dict[str, Any]:
        """What an output is begun with."""
        options, settled = self.options, self.journal.settled()
        at = options.at if options.at is not None else int(time.time())
        if settled is not None and options.at is None:
            at = settled["at"]
        return {
            "bundle": {"version": self.bundle.version, "fingerprint": self.bundle.manifest[bundles.SEAL]},
            "inputs": self._table.identity if self._table else self._log_identity(),
            "k": 0 if options.vectors_only else options.k,
            "format": options.format,
            "filter": options.filter,
            "exclude": journal.fingerprint(self._exclude),
            "exclude_seen": options.exclude_seen,
            "absent": sorted(options.absent),
            "at": at,
        }

    def _log_identity(self) -> list[dict[str, Any]]:
        path = Path(self.options.users_from_events).resolve() / "prepared"
        return [{"path": str(path), "manifest": artifacts.sha256_file(path / "manifest.json")}]

    def _build(self) -> Input:
        """The users of a log as a table of ours."""
        assert self._log is not None
        directory = self.journal.directory / USERS
        if not directory.is_dir():
            _, threads, limit = self.crew()
            rows = self._index_rows() if self.options.exclude_seen else None
            from_events.build(directory, self._log, self._config, rows, f"{int(limit / 2)}B", threads)
        sources = tuple(files.find(directory, ".", "--users_from_events"))
        found = columns.features(self._config)
        present = tuple(each for each in found if each.role != "time")
        return Input(sources, present, {}, self._log_identity())

    def _index_rows(self) -> Any:
        """int32 `[catalogue]`: the index's row of each row of the log's catalogue, -1 for none."""
        assert self._log is not None
        row_of = {item: row for row, item in enumerate(self._ids)}
        return np.array([row_of.get(item, -1) for item in self._log.item_ids()], np.int32)

    def _restrict(self) -> None:
        """Writes what restricts the answers, where the workers find it."""
        directory = self.journal.directory
        if self._allowed is not None:
            with artifacts.atomic_file(directory / ALLOWED) as path, path.open("wb") as file:
                np.save(file, self._allowed)
        if self._exclude:
            workers, threads, limit = self.crew()
            every = workers * threads
            target = directory / EXCLUDED
            if not target.is_dir():
                exclusions.build(target, self._exclude, self._config.data, self._ids, f"{int(limit / 2)}B", every)

    def crew(self) -> tuple[int, int, float]:
        """Workers, threads of each, and bytes of all."""
        options = self.options
        cores = topk.available_threads()
        limit = float(engine.size(options.memory_limit)) if options.memory_limit else _half_of_memory()
        vectors = 4 * self.bundle.manifest["items"] * self.bundle.manifest["vector_dim"]
        each = _WORKER_BYTES + vectors * (3 if self.bundle.manifest["index"]["kind"] == "scann" else 1)
        workers = options.workers or max(1, min(cores, int(limit // each)))
        return workers, options.threads or max(1, cores // workers), limit

    def rows(self) -> int:
        """Rows at a time."""
        width = self.bundle.manifest["vector_dim"] * 4 + len(columns.features(self._config)) * 40
        width += 0 if self.options.vectors_only else self.options.k * 16
        rows = 1 << ((_TABLE_BYTES // width).bit_length() - 1)
        return max(SMALLEST, min(LARGEST, int(rows)))


@contextlib.contextmanager
def _beginning(source: Source, work: Path) -> Iterator[tuple[Source, Unit]]:
    """A unit to look at: the first of a Parquet or TFRecord file; of a text, a copy of its first lines.

    Raises:
        DataError: where there is no row.
    """
    if source.suffix in files.PARQUET or source.suffix in files.TFRECORDS:
        found = units.plan([source])[:1]
    else:
        with files.open_bytes(source.path) as file:
            text = file.read(_LOOKED_AT)
            text = text[: text.rfind(b"\n") + 1] if file.read(1) else text
        copy = work / f"beginning{source.suffix}"
        copy.write_bytes(text)
        source = dataclasses.replace(source, path=copy)
        found = units.plan([source])[:1]
    if not found:
        raise DataError(f"--users: {source.name}: no rows")
    yield source, found[0]


def _schema(source: Source) -> pa.Schema:
    try:
        return pq.read_schema(source.path)
    except Exception as error:
        raise DataError(f"{source.name}: cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None


def _half_of_memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
