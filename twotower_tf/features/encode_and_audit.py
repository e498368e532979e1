"""Encodes the prepared rows and audits their columns, at the same time. Imports no TensorFlow."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from twotower_tf.config import ExperimentConfig
from twotower_tf.features import column_audit, encode_rows
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.progress import Progress, silent


def encode_and_audit(
    config: ExperimentConfig,
    prepared: Prepared,
    *,
    memory_limit: str = "4GB",
    threads: int = 0,
    progress: Progress = silent,
) -> None:
    """Writes `prepared/encoded/` and `prepared/columns.json`.

    The values of the columns are counted in DuckDB while NumPy encodes the rows: either leaves a core idle by itself.
    The progress of the audit is shown once the rows are encoded.
    """
    stopped = threading.Event()

    def show_encoding(stage: str, done: int, total: int) -> None:
        if stopped.is_set():
            raise InterruptedError("the audit has failed")
        progress(stage, done, total)

    def show_audit(stage: str, done: int, total: int) -> None:
        if encoded.done():
            progress(stage, done, total)

    with ThreadPoolExecutor(1) as pool:
        encoded = pool.submit(encode_rows.encode, config, prepared, show_encoding, threads)
        try:
            column_audit.audit(
                config,
                prepared,
                memory_limit=memory_limit,
                threads=threads,
                progress=show_audit,
                when_counted=encoded.result,
            )
        except BaseException:
            stopped.set()
            raise
