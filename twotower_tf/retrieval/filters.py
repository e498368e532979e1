"""Filters: a boolean SQL expression over the catalogue's columns, which untrusted clients may write.

A filter is checked before it is run (see `filter_bounds`). It runs in a DuckDB of its own that holds only the catalogue
and reaches no file: in batches of items, on one thread, until a deadline. No other request waits for it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower_tf import sql
from twotower_tf.bundle.item_columns import ItemColumns
from twotower_tf.errors import DataError
from twotower_tf.retrieval import filter_bounds
from twotower_tf.retrieval.limits import FILTER_SECONDS
from twotower_tf.sql import Connection, quote_identifier

Mask = npt.NDArray[np.bool_]
Catalogue: TypeAlias = pa.Table | ItemColumns

_CACHED = 64  # filters; a mask is one byte per item
_FIRST_BATCH, _GROWTH = 16, 8  # items: the first batches say what an item costs
_BATCH_SECONDS = 0.05  # of a batch: within one, DuckDB may hear neither the deadline nor Ctrl-C
_INTERRUPT_SECONDS = 0.02  # between interrupts: one that arrives before a statement has begun is lost


class Filters:
    """Evaluates filters over a catalogue, and remembers the latest ones. May be used from several threads."""

    def __init__(self, catalogue: Catalogue, seconds: float = FILTER_SECONDS) -> None:
        """Keeps the catalogue, in row order."""
        self.columns = tuple(catalogue.schema.names)
        self.seconds = seconds
        self._catalogue = catalogue
        self._known: OrderedDict[str, Future[Mask]] = OrderedDict()  # also those that are being evaluated
        self._lock = threading.Lock()  # never held while something is evaluated
        # A dear filter takes one core, not all, and no disk.
        self._connection = sql.connect(memory_limit="1GB", max_temp_directory_size="0KB", threads=1)

    def mask(self, predicate: str) -> Mask:
        """Returns which items pass a filter, [num_items] bool; an item for which it is NULL does not.

        Raises:
            DataError: for a filter that is not a boolean expression over the catalogue's columns, with the reason;
                for one that is not evaluated by the deadline.
        """
        with self._lock:
            known = self._known.get(predicate)
            if known is None:
                mine = self._known[predicate] = Future[Mask]()
                cursor = self._connection.cursor()
            self._known.move_to_end(predicate)
        if known is not None:
            return known.result()
        try:
            with cursor:
                mask = self._evaluate(cursor, predicate)
            mask.setflags(write=False)
            mine.set_result(mask)
        except BaseException as error:
            with self._lock:
                self._known.pop(predicate, None)
            mine.set_exception(
                error if isinstance(error, DataError) else DataError("filter: interrupted; send the request again")
            )
            raise
        with self._lock:
            while len(self._known) > _CACHED:
                self._known.popitem(last=False)
        return mask

    def _evaluate(self, cursor: Connection, predicate: str) -> Mask:
        size = self._catalogue.num_rows
        mask = np.empty(size, np.bool_)
        start, count = 0, _FIRST_BATCH
        try:
            query, table = self._query(predicate, filter_bounds.check(predicate, self.columns))
            end = time.monotonic() + self.seconds  # after its columns were read, for which only the first filter waits
            _, planning = _run(cursor, query, table.slice(0, 0), end)
            while start < size:
                if time.monotonic() >= end:
                    raise self._too_slow(predicate)
                stop = min(size, start + count)
                mask[start:stop], seconds = _run(cursor, query, table.slice(start, stop - start), end)
                planning = min(planning, seconds)
                # planning a long filter may take longer than a batch should: the items' own share decides
                affordable = max(_BATCH_SECONDS, planning) / max(seconds - planning, 1e-6) * (stop - start)
                start, count = stop, max(1, min(_GROWTH * count, int(affordable)))
        except duckdb.InterruptException:
            raise self._too_slow(predicate) from None
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"filter: {sql.shorten(predicate)} cannot be evaluated: {reason}") from None
        return mask

    def _query(self, predicate: str, used: set[str]) -> tuple[str, pa.Table]:
        """Returns the statement of a filter over the table `given`, and that table.

        "" means no value, as everywhere. The filter has its own lines, so that a comment at its end is harmless.
        """
        fields = [field for field in self._catalogue.schema if field.name.lower() in used]
        table = self._catalogue.select([field.name for field in fields])
        if not fields:
            table = pa.table({"constant": pa.nulls(self._catalogue.num_rows)})  # of the same length
        chosen = ", ".join(_column(field) for field in table.schema)
        passes = f"coalesce(CAST((\n{predicate}\n) AS BOOLEAN), false) AS passes"
        return f"SELECT {passes} FROM (SELECT {chosen} FROM given) AS {filter_bounds.TABLE}", table

    def _too_slow(self, predicate: str) -> DataError:
        return DataError(
            f"filter: {sql.shorten(predicate)} is too slow: not evaluated over {self._catalogue.num_rows:,} items "
            f"within {self.seconds:g} s; simplify it"
        )


def _run(cursor: Connection, query: str, items: pa.Table, end: float) -> tuple[Mask, float]:
    """Evaluates a filter over some items, until a moment of the monotonic clock; returns the mask and the seconds."""
    begin = time.monotonic()
    cursor.register("given", items)
    with _interrupted(cursor, end):
        passes = cursor.execute(query).fetchnumpy()["passes"]
    return np.asarray(np.ma.getdata(passes), np.bool_), time.monotonic() - begin


@contextlib.contextmanager
def _interrupted(cursor: Connection, end: float) -> Iterator[None]:
    """Interrupts what the cursor does from a moment on, in seconds of the monotonic clock.

    Raises:
        KeyboardInterrupt: for Ctrl-C in the meantime, of which DuckDB makes an error of its own.
    """
    done = threading.Event()

    def watch() -> None:
        wait = end - time.monotonic()
        while not done.wait(max(0.0, wait)):
            cursor.interrupt()
            wait = _INTERRUPT_SECONDS

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from None
        raise
    finally:
        done.set()
        watcher.join()


def _column(field: pa.Field) -> str:
    """Returns SQL of a column."""
    name = quote_identifier(field.name)
    text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    return f"nullif({name}, '') AS {name}" if text else name
