"""Prepares an Avazu-shaped log with DuckDB's SQL by hand, histories as lists.

python benchmarks/peers/duckdb_by_hand.py events.csv DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb

CUT = """
    SELECT hour FROM (SELECT hour, sum(count(*)) OVER (ORDER BY hour DESC) AS later FROM log GROUP BY hour)
    ORDER BY abs(later - {} * (SELECT count(*) FROM log)) LIMIT 1
"""
ITEM = ("site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category")


def main() -> None:
    """Reads a log and writes `rows.parquet`."""
    log, directory = map(Path, sys.argv[1:])
    connection = duckdb.connect()
    connection.execute(f"SET temp_directory = '{directory}/spill'")
    connection.execute(
        "CREATE TABLE log AS SELECT * REPLACE (CAST(click AS TINYINT) AS click, CAST(hour AS INTEGER) AS hour) "
        f"FROM read_csv('{log}', all_varchar=true)"
    )
    (valid,), (test,) = (connection.execute(CUT.format(share)).fetchone() or (None,) for share in (0.2, 0.1))
    values = ", ".join(f"arg_max({name}, rowid) AS {name}" for name in ITEM)
    connection.execute(
        f"""
        CREATE TABLE users AS SELECT device_id, row_number() OVER (ORDER BY device_id) - 1 AS user_row
        FROM (SELECT DISTINCT device_id FROM log);
        CREATE TABLE items AS SELECT *, row_number() OVER (ORDER BY adid) - 1 AS item_row FROM (
            SELECT adid, {values} FROM log GROUP BY adid);
        CREATE TABLE clicks AS SELECT user_row, hour, arg_max(history, place) AS history FROM (
            SELECT user_row, hour, log.rowid AS place, list(item_row) OVER (
                PARTITION BY user_row ORDER BY hour, log.rowid ROWS BETWEEN 19 PRECEDING AND CURRENT ROW) AS history
            FROM log JOIN users USING (device_id) JOIN items USING (adid) WHERE click = 1 AND hour < {test}
        ) GROUP BY user_row, hour;
        COPY (
            SELECT r.* EXCLUDE (until, place), c.history FROM (
                SELECT click, hour, device_id, device_ip, device_type, device_conn_type, user_row, items.*,
                       CASE WHEN hour >= {test} THEN 2 WHEN hour >= {valid} THEN 1 ELSE 0 END AS split,
                       CASE WHEN hour >= {test} THEN {test} WHEN hour >= {valid} THEN {valid} ELSE hour END AS until,
                       log.rowid AS place
                FROM log JOIN users USING (device_id) JOIN items USING (adid)
            ) AS r ASOF LEFT JOIN clicks AS c ON c.user_row = r.user_row AND r.until > c.hour ORDER BY r.hour, r.place
        ) TO '{directory}/rows.parquet' (FORMAT parquet)
        """
    )


if __name__ == "__main__":
    main()
