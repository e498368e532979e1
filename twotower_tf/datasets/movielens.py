"""Converts MovieLens 100K and 1M (GroupLens): https://grouplens.org/datasets/movielens/ ."""

from __future__ import annotations

import re
from collections.abc import Iterable
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


def convert_100k(source: Path, output: Path, progress: Progress) -> dict[str, Any]:
    """Converts MovieLens 100K: u.data, u.item, u.user and u.genre."""
    source = _inner(source, "ml-100k")
    data, item, user = (require_file(source, name) for name in ("u.data", "u.item", "u.user"))
    genres = _genres_100k(require_file(source, "u.genre"))
    events = _timed_ratings(data, "\t", progress)
    tables = {"events": events, "items": _movies_100k(item, genres), "users": _users_100k(user)}
    return _write(tables, output)


def convert_1m(source: Path, output: Path, progress: Progress) -> dict[str, Any]:
    """Converts MovieLens 1M: users.dat, movies.dat, and ratings.dat (with times) or ratings.csv (with positions)."""
    source = _inner(source, "ml-1m")
    movies, users = read_movies_1m(require_file(source, "movies.dat")), read_users_1m(require_file(source, "users.dat"))
    ratings = require_file(source, "ratings.dat", "ratings.csv")
    events = _timed_ratings(ratings, "::", progress) if ratings.suffix == ".dat" else _placed_ratings(ratings, progress)
    return _write({"events": events, "items": movies, "users": users}, output)


def read_movies_1m(path: Path) -> pa.Table:
    """Reads movies.dat as movie_id, title, year, genres."""
    rows = [fields for _, fields in split_lines(path, "::", 3, LATIN)]
    ids, titles, genres = _transposed(rows, 3, path)
    return _movies(ids, titles, [_year(title) for title in titles], genres)


def read_users_1m(path: Path) -> pa.Table:
    """Reads users.dat as user_id, gender, age, occupation, zip_code; age and occupation are the publisher's codes."""
    users: list[list[Any]] = []
    for number, (user, gender, age, occupation, zip_code) in split_lines(path, "::", 5, LATIN):
        users.append([user, gender, parse_integer(age, path, number, "age"), occupation, zip_code])
    ids, genders, ages, occupations, zip_codes = _transposed(users, 5, path)
    return pa.table(
        {
            "user_id": _text(ids),
            "gender": _text(genders),
            "age": pa.array(ages, pa.int64()),
            "occupation": _text(occupations),
            "zip_code": _text(zip_codes),
        }
    )


def _inner(source: Path, name: str) -> Path:
    """Returns the folder inside the publisher's archive, where `source` is its parent."""
    return source / name if (source / name).is_dir() else source


def _genres_100k(path: Path) -> list[str]:
    """Reads the names of the genre flags in u.item, in their order."""
    names: dict[int, str] = {}
    for number, (name, flag) in split_lines(path, "|", 2, LATIN):
        names[parse_integer(flag, path, number, "genre number")] = name
    if sorted(names) != list(range(len(names))) or not names:
        raise DataError(f"{path}: invalid genre numbers {sorted(names)} (expected 0, 1, 2, ... without a gap)")
    return [names[flag] for flag in range(len(names))]


def _movies_100k(path: Path, genres: list[str]) -> pa.Table:
    ids, titles, years, tags = [], [], [], []
    for number, fields in split_lines(path, "|", 5 + len(genres), LATIN):
        movie, title, released = fields[:3]
        if set(fields[5:]) - {"0", "1"}:
            raise DataError(f"{path}:{number}: invalid genre flags {'|'.join(fields[5:])!r} (expected 0 or 1 each)")
        ids.append(movie)
        titles.append(title.strip())
        year = _year(title)
        years.append(int(released[-4:]) if year is None and released[-4:].isdecimal() else year)
        tags.append("|".join(genre for genre, flag in zip(genres, fields[5:], strict=True) if flag == "1"))
    return _movies(ids, titles, years, tags)


def _users_100k(path: Path) -> pa.Table:
    users: list[list[Any]] = []
    for number, (user, age, gender, occupation, zip_code) in split_lines(path, "|", 5, LATIN):
        users.append([user, parse_integer(age, path, number, "age"), gender, occupation, zip_code])
    ids, ages, genders, occupations, zip_codes = _transposed(users, 5, path)
    return pa.table(
        {
            "user_id": _text(ids),
            "age": pa.array(ages, pa.int64()),
            "gender": _text(genders),
            "occupation": _text(occupations),
            "zip_code": _text(zip_codes),
        }
    )


def _timed_ratings(path: Path, separator: str, progress: Progress) -> pa.Table:
    """Reads user, movie, rating and time, and adds the place in the user's time order (equal times: file order)."""
    users, movies, ratings, times = [], [], [], []
    for number, (user, movie, rating, time) in split_lines(path, separator, 4, LATIN):
        users.append(user)
        movies.append(movie)
        ratings.append(parse_integer(rating, path, number, "rating"))
        times.append(parse_integer(time, path, number, "timestamp"))
        if number % _PROGRESS_ROWS == 0:
            progress("ratings", number, 0)
    if not users:
        raise DataError(f"{path}: no ratings")
    timestamps = np.asarray(times, np.int64)
    columns = _ratings(users, movies, ratings)
    columns["timestamp"] = pa.array(timestamps)
    columns["position"] = pa.array(_positions(users, timestamps))
    return pa.table(columns)


def _placed_ratings(path: Path, progress: Progress) -> pa.Table:
    """Reads ratings.csv, whose last column is the place in the user's time order, -1 where it is unknown."""
    users, movies, ratings, positions = [], [], [], []
    for number, (user, movie, rating, position) in split_lines(path, ",", 4, header=RATINGS_HEADER):
        users.append(user)
        movies.append(movie)
        ratings.append(parse_integer(rating, path, number, "rating"))
        positions.append(parse_integer(position, path, number, "position"))
        if number % _PROGRESS_ROWS == 0:
            progress("ratings", number, 0)
    if not users:
        raise DataError(f"{path}: no ratings")
    return pa.table({**_ratings(users, movies, ratings), "position": pa.array(positions, pa.int64())})


def _positions(users: list[str], timestamps: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, Any]:
    """Computes places from 0 in each user's time order, [num_ratings] int64."""
    _, user = np.unique(np.asarray(users), return_inverse=True)
    order = np.lexsort((timestamps, user))
    ranked = user[order]
    positions = np.empty(len(order), np.int64)
    positions[order] = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    return positions


def _ratings(users: list[str], movies: list[str], ratings: list[int]) -> dict[str, pa.Array]:
    return {"user_id": _text(users), "movie_id": _text(movies), "rating": pa.array(ratings, pa.int64())}


def _movies(ids: list[str], titles: list[str], years: list[int | None], genres: list[str]) -> pa.Table:
    return pa.table(
        {
            "movie_id": _text(ids),
            "title": _text(titles),
            "year": pa.array(years, pa.int64()),
            "genres": _text(genres),
        }
    )


def _year(title: str) -> int | None:
    """Extracts the year in the last parentheses that have one: `Two Friends (1986)`, `The Lost (1995) (V)`."""
    found = re.findall(r"\((\d{4})\)", title)
    return int(found[-1]) if found else None


def _transposed(rows: list[list[Any]], fields: int, path: Path) -> Iterable[list[Any]]:
    if not rows:
        raise DataError(f"{path}: empty file")
    return [[row[field] for row in rows] for field in range(fields)]


def _text(values: list[str]) -> pa.Array:
    """Converts texts to a column; an empty text becomes null."""
    return pa.array([value or None for value in values], pa.string())


def _write(tables: dict[str, pa.Table], output: Path) -> dict[str, Any]:
    for name, table in tables.items():
        parquet.write_table(table, output / f"{name}.parquet")
    return {name: table.num_rows for name, table in tables.items()}
