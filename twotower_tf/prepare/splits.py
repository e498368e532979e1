"""Assigns events to training, validation and test by one SQL expression over `used_events` and small tables.

`TimeSplit`: the log is cut at two times; rows at the same time stay together. The cuts are those whose shares of rows
are nearest to the fractions (the larger share where two are equally near); training is never empty.

`DateSplit`: by whole days (see `date_split`); the rows outside its window are excluded before.

`LeaveLastOut`: a user's positives in order of (time, place in the log): the last is test, the one before validation,
for users with at least three; in a log without times the place alone counts. Labelled negatives follow the same two
moments: those before the user's validation positive train, those from it to the test positive validate, later ones
test; the negatives of other users train.

`RandomSplit`: by the MD5 of the experiment's seed and the row's place in the log, so it depends on nothing else.

With `data.train_on_valid` the validation rows of any of these train.
"""

from __future__ import annotations

from twotower_tf.config import DateSplit, ExperimentConfig, GivenSplit, LeaveLastOut, RandomSplit, TimeSplit
from twotower_tf.errors import DataError
from twotower_tf.prepare import ordered_rows, schema
from twotower_tf.sql import Connection
from twotower_tf.tables.duckdb_engine import fetch_row


def assign_splits(connection: Connection, config: ExperimentConfig) -> None:
    """Creates `split_events` from `used_events`: the same rows with `split`, 0 train, 1 valid, 2 test.

    Raises:
        DataError: where a `TimeSplit` cannot divide the log, or no positive is left for training.
    """
    split = config.data.split
    source = "used_events AS k"
    carried = "".join(f", k.{name}" for name in schema.list_key_columns(config.data))
    if isinstance(split, TimeSplit):
        expression = _split_by_time(connection, split)
    elif isinstance(split, LeaveLastOut):
        expression = _hold_out_last(connection)
        source += " LEFT JOIN held_out AS c ON c.user_row = k.user_row"
    elif isinstance(split, GivenSplit | DateSplit):
        expression = "CASE k.given WHEN 'train' THEN 0 WHEN 'valid' THEN 1 ELSE 2 END"
    else:
        expression = _split_at_random(split, config.seed)
    if config.data.train_on_valid:
        expression = f"CASE WHEN ({expression}) = 2 THEN 2 ELSE 0 END"
    connection.execute(
        "CREATE TABLE split_events AS SELECT k.place, k.user_row, k.item_row, k.ts, k.label, "
        f"CAST({expression} AS TINYINT) AS split{carried} FROM {source}"
    )
    (positives,) = fetch_row(connection, "SELECT count(*) FROM split_events WHERE split = 0 AND label = 1")
    if not positives:
        raise DataError(
            "data.split: no positive is left for training, so that no item would be trained; "
            "check data.label, data.positive, data.exclude and data.split"
        )


def _split_by_time(connection: Connection, split: TimeSplit) -> str:
    total, times = fetch_row(connection, "SELECT count(*), count(DISTINCT ts) FROM used_events")
    if times < 2 and split.valid_fraction + split.test_fraction > 0:
        raise DataError(
            "data.split: TimeSplit cannot divide a log in which every row has the same time; name the column of the "
            "events' times in data.timestamp, or use RandomSplit()"
        )
    test = _find_cut(connection, split.test_fraction * total, total, None) if split.test_fraction else None
    valid = test
    if split.valid_fraction:
        valid = _find_cut(connection, (split.valid_fraction + split.test_fraction) * total, total, test)
    branches = [f"WHEN k.ts >= {cut} THEN {code}" for cut, code in ((test, 2), (valid, 1)) if cut is not None]
    return f"CASE {' '.join(branches)} ELSE 0 END" if branches else "0"


def _find_cut(connection: Connection, target: float, total: int, below: int | None) -> int | None:
    """Finds the time from which the number of rows is nearest to `target`: before `below`, and not the whole log."""
    times = "SELECT ts, count(*) AS n FROM used_events GROUP BY ts"
    cuts = ordered_rows.add_running_sums(connection, times, {"rows_from": "n"}, order="ts DESC")
    found = connection.execute(
        f"""
        SELECT ts, rows_from FROM {cuts} WHERE rows_from < {total} {f"AND ts < {below}" if below is not None else ""}
        ORDER BY abs(rows_from - {target!r}), rows_from DESC LIMIT 1
        """
    ).fetchall()
    return int(found[0][0]) if found else below


def _hold_out_last(connection: Connection) -> str:
    """Creates `held_out`, time and place of each user's two last positives (`c`); returns SQL of the split."""
    positives = "SELECT user_row, ts, place FROM used_events WHERE label = 1"
    ranked = ordered_rows.add_running_sums(
        connection, positives, {"back": "1"}, order="ts DESC, place DESC", key="user_row"
    )
    columns = ", ".join(
        f"max({column}) FILTER (back = {back}) AS {name}_{column}"
        for back, name in ((1, "last"), (2, "second"))
        for column in ("ts", "place")
    )
    connection.execute(
        f"CREATE TABLE held_out AS SELECT user_row, {columns} FROM {ranked} GROUP BY user_row HAVING count(*) >= 3"
    )
    later = "(k.ts > c.{0}_ts OR (k.ts = c.{0}_ts AND k.place >= c.{0}_place))"
    return f"CASE WHEN {later.format('last')} THEN 2 WHEN {later.format('second')} THEN 1 ELSE 0 END"


def _split_at_random(split: RandomSplit, seed: int) -> str:
    digits = f"substr(md5('{seed}:' || CAST(k.place AS VARCHAR)), 1, 13)"
    share = f"(CAST('0x' || {digits} AS BIGINT) / 4503599627370496)"  # 16^13
    test = split.test_fraction
    return f"CASE WHEN {share} < {test!r} THEN 2 WHEN {share} < {test + split.valid_fraction!r} THEN 1 ELSE 0 END"
