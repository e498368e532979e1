"""Downloads a publisher's archive and checks it against the published hash."""

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
    """A zip file and the published MD5 of its bytes, in hexadecimal."""

    url: str
    md5: str


def download_archive(archive: Archive, path: Path, progress: Progress) -> None:
    """Downloads `archive` to `path`.

    Raises:
        DataError: where the download fails, or has another MD5 than the published one.
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
            f"{archive.url}: invalid md5 {digest.hexdigest()} (expected {archive.md5}); "
            f"the download is damaged or changed: try again, or {by_hand}"
        )


def extract_archive(archive: Path, directory: Path) -> Path:
    """Extracts the files of a zip into `directory`, without the folders inside it; returns `directory`.

    Raises:
        DataError: where it is not a valid zip file.
    """
    directory.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                name = PurePosixPath(member.filename).name  # without folders, so that no file is written elsewhere
                if not member.is_dir():
                    with opened.open(member) as packed, (directory / name).open("wb") as file:
                        shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: not a valid zip file: {error}") from None
    return directory
