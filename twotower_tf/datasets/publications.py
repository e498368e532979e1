"""Converts a publisher's raw files to `events.parquet`, `items.parquet` and `users.parquet`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower_tf import artifacts
from twotower_tf.datasets import avazu_log, interaction_lists, movielens
from twotower_tf.datasets.download import Archive, download_archive, extract_archive
from twotower_tf.errors import ConfigError, DataError, unknown_name
from twotower_tf.output_directory import check_replaceable
from twotower_tf.progress import Progress, silent

TABLES = ("events.parquet", "items.parquet", "users.parquet")


# Writes the tables of the raw files in a source (a directory or a file) into a directory; returns the counts.
Converter = Callable[[Path, Path, Progress], dict[str, Any]]


@dataclass(frozen=True)
class Publication:
    """A published data set: its converter and its download.

    Attributes:
        converter: reads the raw files.
        archive: the publisher's download, or None where no program may download it.
        instead: for None, how to get the files by hand.
        source: what `--source` names then.
    """

    converter: Converter
    archive: Archive | None = None
    instead: str = ""
    source: str = "DIRECTORY"


_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_LISTS = "it is any text file of lines 'user item item ...' in the order of events, or of lines 'user item'"
PUBLICATIONS: dict[str, Publication] = {
    "movielens-100k": Publication(
        movielens.convert_100k, Archive(f"{_GROUPLENS}/ml-100k.zip", "0e33842e24a9c977be4e0107933c0723")
    ),
    "movielens-1m": Publication(
        movielens.convert_1m, Archive(f"{_GROUPLENS}/ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906")
    ),
    "movielens-1m-m1": Publication(
        interaction_lists.convert_m1, instead="fetch train.txt, test.txt and valid.txt of reczoo/Movielens1M_m1"
    ),
    "gowalla": Publication(
        interaction_lists.convert_gowalla, instead="fetch train.txt and test.txt of Data/gowalla in kuandeng/LightGCN"
    ),
    "lightgcn": Publication(
        interaction_lists.convert_lists,
        instead="it is any folder with train.txt and test.txt, lines 'user item item ...'",
    ),
    "lists": Publication(interaction_lists.convert_ordered_lists, instead=_LISTS, source="FILE"),
    "lists-in-order": Publication(interaction_lists.convert_ordered_lists, instead=_LISTS, source="FILE"),
    "avazu": Publication(
        avazu_log.convert_avazu, instead="log in to Kaggle and fetch train.gz of the competition avazu-ctr-prediction"
    ),
}
NAMES = tuple(PUBLICATIONS)


def convert_dataset(
    name: str, output: Path, *, source: Path | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Writes a published data set as Parquet tables into `output`, by one rename.

    Ids are text, as published; published splits become a column `split` (train, valid, test). Columns:

    * movielens-100k: events user_id, movie_id, rating, timestamp, position; items movie_id, title, year, genres;
      users user_id, age, gender, occupation, zip_code.
    * movielens-1m: events user_id, movie_id, rating, position and, from ratings.dat, timestamp; items as above; users
      user_id, gender, age, occupation, zip_code. `position` is the rating's place in its user's time order, from 0;
      -1 is unknown.
    * gowalla, lightgcn: events user_id, item_id, split.
    * lists, lists-in-order: events user_id, item_id, position of one text file; `position` is the item's place among
      those of its user in the file, from 0. With `timestamp="position"` and `LeaveLastOut()` the last are held out.
    * movielens-1m-m1: the columns of gowalla; and, where users.dat and movies.dat of MovieLens 1M are in `source` or
      next to it in `movielens-1m`, items item_id, movie_id, title, year, genres; users user_id, ml1m_user_id, gender,
      age, occupation, zip_code.
    * avazu: events with the publisher's columns, all text except `click`.

    Args:
        name: one of `NAMES`.
        output: directory to write; an earlier output there is replaced.
        source: directory with the raw files, or the publisher's archive; None downloads it where that is possible.
        progress: receives the bytes downloaded and the rows converted.

    Returns:
        name, output, and the rows of each table; for split sets also the rows of each split.

    Raises:
        ConfigError: for an unknown name.
        DataError: for a missing or malformed file (with its line), a failed download or one with another checksum, or
            an `output` that has other files.
    """
    if name not in PUBLICATIONS:
        raise ConfigError(unknown_name("data set", name, NAMES))
    publication = PUBLICATIONS[name]
    output = output.resolve()
    check_replaceable(output, TABLES, "events.parquet", "a converted data set")
    with _provide_raw_files(name, publication, source, output, progress) as directory:
        with artifacts.atomic_directory(output, replace=True) as temporary:
            counts = publication.converter(directory, temporary, progress)
    return {"name": name, "output": str(output), **counts}


@contextlib.contextmanager
def _provide_raw_files(
    name: str, publication: Publication, source: Path | None, output: Path, progress: Progress
) -> Iterator[Path]:
    """Yields the directory (or single file) with the raw files, after download and extraction where needed."""
    if source is not None and not source.exists():
        raise DataError(f"--source: no such file or directory: {source}")
    if source is not None and not (publication.archive and source.is_file()):
        yield source.resolve()
        return
    if publication.archive is None:
        raise DataError(f"{name}: no public download; {publication.instead}, and pass --source={publication.source}")
    with artifacts.scratch_directory(output.parent / f"raw-{output.name}") as scratch:
        archive = source
        if archive is None:
            archive = scratch / "archive.zip"
            download_archive(publication.archive, archive, progress)
        yield extract_archive(archive, scratch / "raw")
