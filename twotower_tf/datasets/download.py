"""Fetching a publisher's archive, checked against the hash the publisher states."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from twotower_tf.errors import DataError
from twotower_tf.progress import Progress

TIMEOUT_SECONDS = 60
BLOCK = 1 << 18


@dataclass(frozen=True)
class Archive:
    """A zip file and the MD5 of its bytes, in hexadecimal, as its publisher states it."""

    url: str
    md5: str


def download_archive(archive: Archive, path: Path, progress: Progress) -> None:
    """Downloads `archive` to `path`.

    Raises:
        DataError: where it cannot be fetched, or is not what the publisher published.
    """
    digest = hashlib.md5(usedforsecurity=False)
    by_hand = "fetch it by hand and pass --source=FILE"
    try:
        with urllib.request.urlopen(archive.url, timeout=TIMEOUT_SECONDS) as answer, path.open("wb") as file:
            total, done = int(answer.headers.get("Content-Length") or 0), 0
            while block := answer.read(BLOCK):
                digest.update(block)
                file.write(block)
                done += len(block)
                progress("download", done, total)
    except urllib.error.HTTPError as error:
        raise DataError(f"{archive.url}: the server answers {error.code} {error.reason}; {by_hand}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"{archive.url}: cannot be fetched: {reason}; {by_hand}") from None
    if digest.hexdigest() != archive.md5:
        raise DataError(
            f"{archive.url}: came with md5 {digest.hexdigest()}, the publisher states {archive.md5}; "
            f"the download is damaged or changed: try again, or {by_hand}"
        )


def extract_archive(archive: Path, directory: Path) -> Path:
    """Unpacks the files of a zip into `directory`, whatever folders it has inside; returns `directory`.

    Raises:
        DataError: where it is no zip file.
    """
    directory.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                name = PurePosixPath(member.filename).name  # folders inside are dropped, so nothing lands elsewhere
                if not member.is_dir():
                    with opened.open(member) as packed, (directory / name).open("wb") as file:
                        shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: is no usable zip file: {error}") from None
    return directory
