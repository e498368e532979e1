"""Converts MovieLens 100K and 1M (GroupLens): https://grouplens.org/datasets/movielens/ ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from twotower_tf.datasets.raw_lines import parse_integer, require_file, split_lines
from twotower_tf.errors import DataError
from twotower_tf.progress import Progress

LATIN = "latin-1"
RATINGS_HEADER = "user_id,movie_id,rating,position"
_PROGRESS_ROWS = 100_000
_TEXT, _NUMBER = pa.string(), pa.int64()
_USERS = (("user_id", _TEXT), ("gender", _TEXT), ("age", _NUMBER), ("occupation", _TEXT), ("zip_code", _TEXT))
_MOVIES = (("movie_id", _TEXT), ("title", _TEXT), ("year", _NUMBER), ("genres", _TEXT))


def convert_100k(source: Path, output: Path, progress: Progress) -> dict[str, Any]:
    """Converts MovieLens 100K: u.data, u.item, u.user and u.genre."""
    source = _find_folder(source, "ml-100k")
    data, item, user = (require_file(source, name) for name in ("u.data", "u.item", "u.user"))
    genres = _read_genres(require_file(source, "u.genre"))
    users = [
        (user_id, gender, parse_integer(age, user, line, "age"), *rest)
        for line, (user_id, age, gender, *rest) in split_lines(user, "|", 5, LATIN)
    ]
    tables = {
        "events": _read_ratings(data, "\t", progress),
        "items": _read_movies_100k(item, genres),
        "users": _build_table(user, users, _USERS).select(["user_id", "age", "gender", "occupation", "zip_code"]),
    }
    return _write_tables(tables, output)


def convert_1m(source: Path, output: Path, progress: Progress) -> dict[str, Any]:
    """Converts MovieLens 1M: users.dat, movies.dat, and ratings.dat (with times) or ratings.csv (with positions)."""
    source = _find_folder(source, "ml-1m")
    movies, users = read_movies_1m(require_file(source, "movies.dat")), read_users_1m(require_file(source, "users.dat"))
    ratings = require_file(source, "ratings.dat", "ratings.csv")
    return _write_tables({"events": _read_ratings(ratings, "::", progress), "items": movies, "users": users}, output)


def read_movies_1m(path: Path) -> pa.Table:
    """Reads movies.dat as movie_id, title, year, genres."""
    lines = split_lines(path, "::", 3, LATIN)
    return _build_table(path, [(movie, title, _year(title), genres) for _, (movie, title, genres) in lines], _MOVIES)


def read_users_1m(path: Path) -> pa.Table:
    """Reads users.dat as user_id, gender, age, occupation, zip_code; age and occupation are the publisher's codes."""
    lines = split_lines(path, "::", 5, LATIN)
    rows = [(user, gender, parse_integer(age, path, line, "age"), *rest) for line, (user, gender, age, *rest) in lines]
    return _build_table(path, rows, _USERS)


def _find_folder(source: Path, name: str) -> Path:
    """Returns the folder inside the publisher's archive, where `source` is its parent."""
    return source / name if (source / name).is_dir() else source


def _read_genres(path: Path) -> list[str]:
    """Reads the names of the genre flags in u.item, in their order."""
    names = {
        parse_integer(flag, path, line, "genre number"): name for line, (name, flag) in split_lines(path, "|", 2, LATIN)
    }
    if sorted(names) != list(range(len(names))) or not names:
        raise DataError(f"{path}: invalid genre numbers {sorted(names)} (expected 0, 1, 2, ... without a gap)")
    return [names[flag] for flag in range(len(names))]


def _read_movies_100k(path: Path, genres: list[str]) -> pa.Table:
    rows = []
    for number, (movie, title, released, _, _, *flags) in split_lines(path, "|", 5 + len(genres), LATIN):
        if set(flags) - {"0", "1"}:
            raise DataError(f"{path}:{number}: invalid genre flags {'|'.join(flags)!r} (expected 0 or 1 each)")
        year = _year(title)
        if year is None and released[-4:].isdecimal():
            year = int(released[-4:])
        tags = "|".join(genre for genre, flag in zip(genres, flags, strict=True) if flag == "1")
        rows.append((movie, title.strip(), year, tags))
    return _build_table(path, rows, _MOVIES)


def _read_ratings(path: Path, separator: str, progress: Progress) -> pa.Table:
    """Reads ratings with the place in the user's time order.

    It is the last column of ratings.csv, -1 where unknown; elsewhere it follows from the time, then from the file.
    """
    placed = path.suffix == ".csv"
    last = "position" if placed else "timestamp"
    lines = split_lines(path, ",", 4, header=RATINGS_HEADER) if placed else split_lines(path, separator, 4, LATIN)
    rows = []
    for number, (user, movie, rating, moment) in lines:
        rows.append(
            (user, movie, parse_integer(rating, path, number, "rating"), parse_integer(moment, path, number, last))
        )
        if number % _PROGRESS_ROWS == 0:
            progress("ratings", number, 0)
    if not rows:
        raise DataError(f"{path}: no ratings")
    table = _build_table(path, rows, (("user_id", _TEXT), ("movie_id", _TEXT), ("rating", _NUMBER), (last, _NUMBER)))
    return table if placed else table.append_column("position", pa.array(_rank_by_time(table)))


def _rank_by_time(ratings: pa.Table) -> np.ndarray[Any, Any]:
    """Computes places from 0 in each user's time order, equal times in the order of rows, [num_ratings] int64."""
    user = ratings["user_id"].fill_null("").combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.lexsort((ratings["timestamp"].to_numpy(), user))
    ranked = user[order]
    positions = np.empty(len(order), np.int64)
    positions[order] = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    return positions


def _year(title: str) -> int | None:
    """Extracts the year in the last parentheses that have one: `Two Friends (1986)`, `The Lost (1995) (V)`."""
    found = re.findall(r"\((\d{4})\)", title)
    return int(found[-1]) if found else None


def _build_table(path: Path, rows: Sequence[Sequence[Any]], columns: Sequence[tuple[str, pa.DataType]]) -> pa.Table:
    """Builds a table of the rows of a file; an empty text becomes null."""
    if not rows:
        raise DataError(f"{path}: empty file")
    values = zip(*rows, strict=True)
    return pa.table(
        {
            name: pa.array([None if each == "" else each for each in column], kind)
            for (name, kind), column in zip(columns, values, strict=True)
        }
    )


def _write_tables(tables: dict[str, pa.Table], output: Path) -> dict[str, Any]:
    for name, table in tables.items():
        parquet.write_table(table, output / f"{name}.parquet")
    return {name: table.num_rows for name, table in tables.items()}
