"""Runs in the processes of the worker pool. One process loads one bundle and scores unit after unit."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from twotower_tf import artifacts
from twotower_tf.errors import TwoTowerError
from twotower_tf.score.answer_tables import name_part
from twotower_tf.score.job import Job, make_note
from twotower_tf.score.journal import Journal
from twotower_tf.score.unit_reader import Bad
from twotower_tf.score.units import Unit
from twotower_tf.tables.input_files import InputFile
from twotower_tf.threads import read_ahead

AHEAD = 2  # tables that wait between reading, computing and writing

_scorer: Any = None


@dataclass(frozen=True)
class UnitResult:
    """A finished unit: its rows, and the most memory of the process so far, in bytes."""

    rows: int
    peak: int


def warm_up() -> None:
    """Imports TensorFlow; workers do it while the parent plans."""
    # TensorFlow imports Keras 3 where it is installed, and works without: 2.9 s of CPU time to start instead of 3.5 s.
    sys.modules.setdefault("keras", None)  # type: ignore[arg-type]
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import_module("twotower_tf.score.scorer")


def score_unit(job: Job, source: InputFile, unit: Unit, rows: int) -> UnitResult:
    """Scores a unit with the bundle's scorer.

    The job is the same in every call of a process.

    Raises:
        TwoTowerError: for input or a bundle that cannot be used.
        OSError: for a file that cannot be written.
        MemoryError: where memory runs out.
        RuntimeError: for any other error, with its traceback as text.
    """
    return run_unit(_load_scorer, job, source, unit, rows)


def run_unit(load: Callable[[Job], Any], job: Job, source: InputFile, unit: Unit, rows: int) -> UnitResult:
    """Scores a unit with the scorer that `load` gives, which is kept for the next unit; raises as `score_unit` does."""
    global _scorer
    try:
        if _scorer is None:
            pa.set_cpu_count(job.threads)
            _scorer = load(job)
        return _write_unit(_scorer, job, source, unit, rows)
    except (TwoTowerError, OSError):
        raise
    except Exception as error:  # the parent must be able to unpickle it without TensorFlow
        if isinstance(error, MemoryError) or "ResourceExhausted" in type(error).__name__:
            raise MemoryError(str(error)) from None
        raise RuntimeError(f"a worker failed: {error}\n{traceback.format_exc()}") from None


def _load_scorer(job: Job) -> Any:
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.score.scorer import Scorer

    return Scorer(job, Bundle.open(job.export_dir, job.version, check="light"))


def _write_unit(scorer: Any, job: Job, source: InputFile, unit: Unit, rows: int) -> UnitResult:
    """Reads, computes and writes in a thread each, so that a worker's cores do not wait for files."""
    stats, bad = scorer.stats(), list[Bad]()
    part = name_part(unit.number, job.format)
    with job.open(source, unit, rows) as opened, artifacts.atomic_file(Path(job.output) / part) as path:
        writer = scorer.layout.writer(path)
        with (
            closing(read_ahead(opened.batches, AHEAD)) as batches,
            closing(read_ahead(scorer.tables(replace(opened, batches=batches), stats, bad), AHEAD)) as tables,
        ):
            for table in tables:
                writer.write(table)
        writer.close()
        note = make_note(unit, part, stats, opened, bad, source)
    Journal(Path(job.output)).save_unit(unit.number, note)
    return UnitResult(max(unit.rows, stats.users + len(bad)), read_peak_memory())


def read_peak_memory() -> int:
    """Returns the most memory that this process has had, in bytes; `getrusage` would include the parent's."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
