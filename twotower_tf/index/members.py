"""Checks the files of a bundle or an index before any of them is opened: names, kinds, and that none is unlisted.

A bundle may come from elsewhere. A name of its manifest is checked here before it is joined to a directory.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from twotower_tf.errors import ArtifactError


def check_name(name: object, where: Path) -> None:
    """Refuses a name in the file `where` that is not a plain relative path with `/` between its parts.

    Raises:
        ArtifactError: for an absolute path, an empty part, `.`, `..`, a backslash, or what cannot be printed.
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    if not isinstance(name, str) or not name.isprintable() or "\\" in name or {"", ".", ".."} & set(parts):
        raise ArtifactError(
            f"{where}: invalid file name {name!r} (expected a plain relative path such as 'index/item_ids'); "
            "do not use these files; export again"
        )


def check_names(names: Iterable[object], where: Path) -> None:
    """Refuses names that `check_name` refuses, that a file system may take for one, and that of `where` itself.

    Raises:
        ArtifactError: naming the first such name.
    """
    spelled = {_folded(where.name): where.name}
    for name in names:
        check_name(name, where)
        path = ""
        for part in str(name).split("/"):
            path = f"{path}/{part}" if path else part
            if spelled.setdefault(_folded(path), path) != path or name == where.name:
                raise ArtifactError(
                    f"{where}: invalid file name {name!r} (expected names that differ by more than case, and not "
                    f"{where.name} itself); do not use these files; export again"
                )


def _folded(name: str) -> str:
    """Returns a name as file systems compare it that ignore case or normalize Unicode."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def find(directory: Path) -> set[str]:
    """Lists the names of all files below a directory, relative to it; nothing is opened or followed.

    Raises:
        ArtifactError: where the directory or anything in it is a symbolic link, or is neither a file nor a directory.
    """
    if directory.is_symlink():
        raise _odd(directory, "symbolic link")
    found, pending = set[str](), [""] if directory.is_dir() else []
    while pending:
        prefix = pending.pop()
        with os.scandir(directory / prefix) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.is_symlink():
                    raise _odd(directory / name, "symbolic link")
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    found.add(name)
                else:
                    raise _odd(directory / name, "pipe, socket or device")
    return found


def _odd(path: Path, kind: str) -> ArtifactError:
    return ArtifactError(
        f"{_printable(path)}: invalid {kind} (expected plain files and directories); "
        "copy what it stands for to its place, or export again"
    )


def check_complete(directory: Path, found: Collection[str], listed: Collection[str], listed_in: str) -> None:
    """Compares what `find` found in a directory with the checked names that the file `listed_in` lists.

    Raises:
        ArtifactError: naming the first file that is missing, else the first that is not listed.
    """
    for name in listed:
        if name not in found:
            raise ArtifactError(f"{directory / name}: missing; {listed_in} lists it; export again or restore the file")
    unlisted = sorted(set(found) - set(listed) - {listed_in})
    if unlisted:
        raise ArtifactError(
            f"{_printable(directory / unlisted[0])}: not in {listed_in}; a version is never changed; "
            "move the file elsewhere"
        )


def _printable(path: Path) -> str:
    text = str(path)
    return text if text.isprintable() else repr(text)
