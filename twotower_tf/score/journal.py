"""The journal of an output directory: what is scored with what, cut into which units, and which of them are done.

It is written before work starts. A unit is done when its note is there, which is written after its part; both appear by
rename. So the same command continues after any end, and another one is refused.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twotower_tf import artifacts, locks
from twotower_tf.errors import ArtifactError, DataError
from twotower_tf.score.units import Unit
from twotower_tf.tables.input_files import InputFile

SCHEMA_VERSION = 1
# Underscored: readers of a directory of Parquet files (Arrow, Spark, Hive) pass over such names.
DIRECTORY, SUMMARY, QUARANTINE = "_journal", "_summary.json", "_quarantine.jsonl"
_PLAN = "plan.json"
_ANOTHER = "choose another --output, or start over with --resume=false"


def fingerprint(sources: Sequence[InputFile]) -> list[dict[str, Any]]:
    """What tells whether a file has changed: path, size, time of its last change."""
    found = []
    for source in sources:
        status = source.path.stat()
        found.append({"path": str(source.path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns})
    return found


@dataclass(frozen=True)
class Journal:
    """An output directory of ours.

    Attributes:
        output: the directory.
    """

    output: Path

    @property
    def directory(self) -> Path:
        """Where the plan, notes and intermediate files are."""
        return self.output / DIRECTORY

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Makes the caller the only writer of the output, and clears unfinished files.

        Raises:
            ArtifactError: where another process is writing there.
            DataError: where the directory holds something else.
        """
        if self.output.exists() and not self.output.is_dir():
            raise DataError(f"{self.output}: is a file; --output names a directory to write")
        if self.output.exists() and not self.directory.is_dir():
            foreign = sorted(path.name for path in self.output.iterdir() if not path.name.startswith("."))
            if foreign:
                raise DataError(
                    f"{self.output}: holds {foreign[0]!r}, which is no part of a scoring; "
                    "choose an empty or new directory"
                )
        self.directory.mkdir(parents=True, exist_ok=True)
        with locks.hold_directory(self.output):
            artifacts.remove_unfinished(self.output)
            artifacts.remove_unfinished(self.directory)
            yield

    def clear(self) -> None:
        """Forgets everything that was scored."""
        for path in self.output.iterdir():
            if path.name == DIRECTORY:
                for each in path.iterdir():
                    shutil.rmtree(each) if each.is_dir() else each.unlink()
            elif path.name == "_temporary":  # of Spark
                shutil.rmtree(path)
            elif path.name in (SUMMARY, QUARANTINE, "_SUCCESS") or path.name.startswith(("part-", ".part-")):
                path.unlink()

    def settled(self) -> dict[str, Any] | None:
        """What was decided when the output was begun; None where it is new."""
        if not (self.directory / _PLAN).is_file():
            return None
        return artifacts.read_json(self.directory / _PLAN, "scoring", SCHEMA_VERSION)

    def begin(self, settings: Mapping[str, Any], units: Sequence[Unit]) -> None:
        """Writes the plan, or finds that it is the one that was begun.

        Raises:
            DataError: where the output was begun with another bundle, input or setting, naming it.
        """
        document = {**settings, "units": [asdict(unit) for unit in units]}
        if self.settled() is None:
            artifacts.write_json(self.directory / _PLAN, {"schema_version": SCHEMA_VERSION, **document})
        self.compare(document)

    def compare(self, settings: Mapping[str, Any]) -> None:
        """Finds that the output, if it was begun, was begun with these settings.

        Raises:
            DataError: where it was not, naming the difference.
        """
        known = self.settled() or settings
        for key, value in json.loads(json.dumps(settings)).items():
            if known.get(key) != value:
                raise DataError(f"{self.output}: was begun with {_difference(key, known.get(key), value)}; {_ANOTHER}")

    def tidy(self) -> None:
        """Removes what only the workers needed; plan and notes stay, and tell that all is done."""
        for path in self.directory.iterdir():
            if path.suffix == ".npy":
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)

    def note(self, number: int) -> dict[str, Any] | None:
        """What is known of a finished unit; None where it is not finished."""
        path = self._note(number)
        if not path.is_file():
            return None
        try:
            note = artifacts.read_json(path, "scoring")
        except ArtifactError:
            return None
        part = self.output / str(note.get("part"))
        return note if part.is_file() and part.stat().st_size == note.get("bytes") else None

    def finish(self, number: int, note: Mapping[str, Any]) -> None:
        """Notes that a unit is done; its part has been renamed."""
        part = self.output / str(note["part"])
        self.put(number, {**note, "bytes": part.stat().st_size})

    def put(self, number: int, note: Mapping[str, Any]) -> None:
        """Writes a unit's note."""
        artifacts.write_json(self._note(number), note)

    def notes(self, count: int) -> Iterator[dict[str, Any]]:
        """The notes of all units, in their order."""
        for number in range(count):
            if (path := self._note(number)).is_file():
                yield artifacts.read_json(path, "scoring")

    def _note(self, number: int) -> Path:
        return self.directory / f"unit-{number:06d}.json"

    def write_quarantine(self, count: int) -> int:
        """Writes the rows of all units that were not answered, in the input's order; returns their number."""
        rows = 0
        with artifacts.atomic_file(self.output / QUARANTINE) as path, path.open("w", encoding="utf-8") as file:
            for note in self.notes(count):
                for entry in note["quarantined"]:
                    file.write(artifacts.format_json(entry) + "\n")
                    rows += 1
        return rows


def _difference(key: str, known: Any, came: Any) -> str:
    if key == "bundle":
        return f"version {known['version']} of the bundle, not with this version {came['version']}"
    if key in ("inputs", "exclude") and isinstance(known, list) and isinstance(came, list):
        before, now = ({entry["path"]: entry for entry in each} for each in (known, came))
        for path in sorted({*before, *now}):
            if before.get(path) != now.get(path):
                what = "has changed since" if path in before and path in now else "is only in one of the two"
                return f"other input files: {path} {what}"
    if key == "units":
        return "files cut otherwise"
    return f"{key} {known!r}, not {came!r}"
