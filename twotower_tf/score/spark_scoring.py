"""Runs a scoring as a Spark job: units are rows of a frame, `mapInArrow` computes their answers, Spark writes them.

No row passes through the driver. The bundle is sent to every executor once, as an archive, and loaded once by each of
its Python workers. Users, and the output with its journal, lie on storage that driver and executors reach under the
same path.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from twotower_tf import artifacts, errors, interpreter
from twotower_tf.bundle.bundle import SEAL, Bundle
from twotower_tf.prepare.spark.spark_session import SparkOptions, open_session
from twotower_tf.score.job import Job, make_note
from twotower_tf.score.journal import SUMMARY, Journal
from twotower_tf.score.score_options import Options
from twotower_tf.score.score_plan import Planner
from twotower_tf.score.score_users import summarize
from twotower_tf.score.unit_reader import Bad
from twotower_tf.score.units import Unit

_loaded: dict[str, Any] = {}  # job and scorer of this Python worker


def score_on_spark(options: Options, spark: SparkOptions) -> dict[str, Any]:
    """Scores every user on Spark; a job that was interrupted starts over, lost tasks Spark repeats itself.

    Returns:
        The summary, which is also written to the output.

    Raises:
        TwoTowerError: as `score.score` says, and where Spark is not installed or cannot be started.
    """
    began = time.monotonic()
    planner = Planner(options)
    with planner.journal.lock():
        planner.journal.clear()
        job, units = planner.make_plan()
        named = replace(spark, conf={"spark.app.name": "twotower score", **spark.conf})
        with open_session(named) as session:
            name = f"bundle-{planner.bundle.manifest[SEAL][:16]}"
            with _packed(planner.bundle, planner.journal.directory / f"{name}.tar") as archive:
                session.sparkContext.addArchive(f"{archive}#{name}")  # an executor fetches and unpacks it once
                try:
                    with planner.users.held():
                        _write(session, _Work(replace(job, export_dir=name, threads=1), planner.rows), units)
                except Exception as error:
                    raise _translate_error(error) from None
            master = session.sparkContext.master
        summary = summarize(planner, job, units, began, set())
        summary |= {"engine": "spark", "spark_master": master}
        artifacts.write_json(planner.journal.output / SUMMARY, summary)
        planner.journal.remove_work_files()
        return summary


class _Work:
    """What an executor does; travels pickled."""

    def __init__(self, job: Job, rows: int) -> None:
        self.job, self.rows = job, rows

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Turns rows of units, one as JSON in each, into rows of the output."""
        scorer = _load_scorer(self.job)
        for batch in batches:
            for text in batch.column(0).to_pylist():
                yield from self._answer(scorer, Unit(**json.loads(text)))

    def _answer(self, scorer: Any, unit: Unit) -> Iterator[pa.RecordBatch]:
        stats, bad = scorer.stats(), list[Bad]()
        source = self.job.sources[unit.file]
        with self.job.open(source, unit, self.rows) as rows:
            for table in scorer.tables(rows, stats, bad):
                yield from scorer.layout.plain(table).to_batches()
            kept = make_note(unit, "", stats, rows, bad, source)
        Journal(Path(self.job.output)).save_result(unit.number, kept)


def _write(session: Any, work: _Work, units: list[Unit]) -> None:
    rows = session.sparkContext.parallelize([(json.dumps(asdict(unit)),) for unit in units], max(1, len(units)))
    frame = session.createDataFrame(rows, "unit string")
    if work.job.format == "tsv":
        answers = frame.mapInArrow(work, "value string")
        answers.write.mode("append").text(work.job.output)
        return
    names = "item_names array<string>, " if work.job.names else ""
    columns = f"item_ids array<string>, {names}scores array<float>" if work.job.k else "vector array<float>"
    answers = frame.mapInArrow(work, f"user_id string, {columns}, model_version bigint")
    answers.write.mode("append").parquet(work.job.output)


def _translate_error(error: Exception) -> Exception:
    """Returns the package's error that a task raised, without Spark's frames; any other error unchanged."""
    found = re.search(r"twotower_tf\.errors\.(\w+): (.*)", str(error))
    kind = getattr(errors, found[1], None) if found else None
    return kind(found[2]) if found and kind is not None else error


@contextlib.contextmanager
def _packed(bundle: Bundle, archive: Path) -> Iterator[Path]:
    """Packs the bundle into one file, for as long as the job runs."""
    with tarfile.open(archive, "w") as tar:
        tar.add(bundle.path, arcname=str(bundle.version))
    try:
        yield archive
    finally:
        archive.unlink()


def _load_scorer(job: Job) -> Any:
    """Returns the scorer of this Python worker, which Spark keeps for its next tasks of the same job."""
    if _loaded.get("job") == job:
        return _loaded["scorer"]
    os.environ.update(interpreter.make_environment(job.threads))
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from pyspark import SparkFiles

    from twotower_tf.score.scorer import Scorer

    _loaded.update(job=job, scorer=Scorer(job, Bundle.open(SparkFiles.get(job.export_dir), job.version)))
    return _loaded["scorer"]
