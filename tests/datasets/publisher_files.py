"""Small files in the publishers' formats, written by hand, and the converted tables read back."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

MOVIES = "1::Toy Story (1995)::Animation|Comedy\n2::Am\u00e9lie (1998)::Drama\n"
USERS = "7::F::25::4::02139\n8::M::1::10::48067-1234\n"
ML_1M = {"movies.dat": MOVIES, "users.dat": USERS, "ratings.csv": "user_id,movie_id,rating,position\n7,1,5,0\n"}
ML_100K = {
    "u.data": "1\t1\t5\t881250949\n",
    "u.item": "1|Toy Story (1995)|01-Jan-1995||url|0|1\n",
    "u.user": "1|24|M|technician|85711\n",
    "u.genre": "unknown|0\nAction|1\n\n",
}
LISTS = {"train.txt": "0 1\n", "test.txt": "0 2\n"}


def rows(path: Path, table: str = "events") -> list[dict[str, Any]]:
    return pq.read_table(path / f"{table}.parquet").to_pylist()


def files(directory: Path, content: dict[str, str | bytes]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (directory / name).write_bytes(text if isinstance(text, bytes) else text.encode("latin-1"))
    return directory
