"""Users with every kind of feature of the tiny run, as a table of any format."""

import csv
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("user_id", "country", "age", "interests", "device_type", "timestamp", "history", "unread")


def people(count, seed=1):
    """Rows with gaps, odd texts and histories longer than the model keeps."""
    rng = random.Random(seed)
    return [
        {
            "user_id": f"u{number:06d}",
            "country": rng.choice(["DE", "PL", "", None, 'a "b", c', "Україна"]),
            "age": rng.choice([None, 18, 25.5, 31, 60]),
            "interests": [rng.choice(["music", "cars", "art", "new"]) for _ in range(rng.randint(0, 4))],
            "device_type": rng.choice(["phone", "tablet", None]),
            "timestamp": rng.choice([1736500000 + number, None]),
            "history": [f"i{rng.randint(0, 160):05d}" for _ in range(rng.randint(0, 9))],
            "unread": number,
        }
        for number in range(count)
    ]


def parquet(path, rows, row_group_size=1 << 20):
    kinds = {"age": pa.float64(), "timestamp": pa.int64(), "unread": pa.int64(), "history": pa.list_(pa.string())}
    columns = {
        name: pa.array(["|".join(row[name]) if name == "interests" else row[name] for row in rows], kinds.get(name))
        for name in COLUMNS
    }
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)


def delimited(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([_text(row[name]) for name in COLUMNS])


def json_lines(path, rows):
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def _text(value):
    return "" if value is None else "|".join(value) if isinstance(value, list) else value
