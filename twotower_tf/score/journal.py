"""Keeps the journal of an output directory: the plan of the scoring, and the result of every finished unit.

The plan is written before scoring starts. A unit is finished when its result exists, which is written after its part;
both appear by rename. So the same command continues after any interruption, and another one is refused.
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


def fingerprint_files(sources: Sequence[InputFile]) -> list[dict[str, Any]]:
    """Returns what shows whether a file has changed: its path, size and modification time."""
    found = []
    for source in sources:
        status = source.path.stat()
        found.append({"path": str(source.path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns})
    return found


@dataclass(frozen=True)
class Journal:
    """Journal of an output directory."""

    output: Path

    @property
    def directory(self) -> Path:
        """Directory of the plan, the results of units and intermediate files."""
        return self.output / DIRECTORY

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Makes the caller the only writer of the output, and removes unfinished files.

        Raises:
            ArtifactError: where another process is writing there.
            DataError: where the directory holds other files.
        """
        if self.output.exists() and not self.output.is_dir():
            raise DataError(
                f"--output: invalid directory '{self.output}' (it is a file); choose an empty or new directory"
            )
        if self.output.exists() and not self.directory.is_dir():
            foreign = sorted(path.name for path in self.output.iterdir() if not path.name.startswith("."))
            if foreign:
                raise DataError(
                    f"--output: invalid directory '{self.output}' (it has {foreign[0]!r}, which score did not write); "
                    "choose an empty or new one"
                )
        self.directory.mkdir(parents=True, exist_ok=True)
        with locks.hold_directory(self.output):
            artifacts.remove_unfinished(self.output)
            artifacts.remove_unfinished(self.directory)
            yield

    def clear(self) -> None:
        """Deletes everything that was scored."""
        for path in self.output.iterdir():
            if path.name == DIRECTORY:
                for each in path.iterdir():
                    shutil.rmtree(each) if each.is_dir() else each.unlink()
            elif path.name == "_temporary":  # of Spark
                shutil.rmtree(path)
            elif path.name in (SUMMARY, QUARANTINE, "_SUCCESS") or path.name.startswith(("part-", ".part-")):
                path.unlink()

    def read_plan(self) -> dict[str, Any] | None:
        """Returns the plan; None where the output is new."""
        if not (self.directory / _PLAN).is_file():
            return None
        return artifacts.read_json(self.directory / _PLAN, "scoring", SCHEMA_VERSION)

    def save_plan(self, settings: Mapping[str, Any], units: Sequence[Unit]) -> None:
        """Writes the plan, or checks that the existing one is the same.

        Raises:
            DataError: where the output was begun with another bundle, input or setting, naming it.
        """
        document = {**settings, "units": [asdict(unit) for unit in units]}
        if self.read_plan() is None:
            artifacts.write_json(self.directory / _PLAN, {"schema_version": SCHEMA_VERSION, **document})
        self.check_same(document)

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Checks that the existing plan, if any, has these settings.

        Raises:
            DataError: where it has others, naming the difference.
        """
        known = self.read_plan() or settings
        for key, value in json.loads(json.dumps(settings)).items():
            if known.get(key) != value:
                raise DataError(f"{self.output}: was begun with {_difference(key, known.get(key), value)}; {_ANOTHER}")

    def remove_work_files(self) -> None:
        """Removes the intermediate files of the workers; the plan and the results of units stay."""
        for path in self.directory.iterdir():
            if path.suffix == ".npy":
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)

    def unit_result(self, number: int) -> dict[str, Any] | None:
        """Returns the result of a finished unit; None where it is not finished."""
        path = self._note(number)
        if not path.is_file():
            return None
        try:
            note = artifacts.read_json(path, "scoring")
        except ArtifactError:
            return None
        part = self.output / str(note.get("part"))
        return note if part.is_file() and part.stat().st_size == note.get("bytes") else None

    def save_unit(self, number: int, note: Mapping[str, Any]) -> None:
        """Writes the result of a unit whose part is complete."""
        part = self.output / str(note["part"])
        self.save_result(number, {**note, "bytes": part.stat().st_size})

    def save_result(self, number: int, note: Mapping[str, Any]) -> None:
        """Writes the result of a unit without a part."""
        artifacts.write_json(self._note(number), note)

    def unit_results(self, count: int) -> Iterator[dict[str, Any]]:
        """Yields the results of all finished units, in order."""
        for number in range(count):
            if (path := self._note(number)).is_file():
                yield artifacts.read_json(path, "scoring")

    def _note(self, number: int) -> Path:
        return self.directory / f"unit-{number:06d}.json"

    def write_quarantine(self, count: int) -> int:
        """Writes the quarantined rows of all units, in the input's order; returns their number."""
        rows = 0
        with artifacts.atomic_file(self.output / QUARANTINE) as path, path.open("w", encoding="utf-8") as file:
            for note in self.unit_results(count):
                for entry in note["quarantined"]:
                    file.write(artifacts.format_json(entry) + "\n")
                    rows += 1
        return rows


def _difference(key: str, known: Any, given: Any) -> str:
    if key == "bundle":
        return f"version {known['version']} of the bundle, not with this version {given['version']}"
    if key in ("inputs", "exclude") and isinstance(known, list) and isinstance(given, list):
        before, now = ({entry["path"]: entry for entry in each} for each in (known, given))
        for path in sorted({*before, *now}):
            if before.get(path) != now.get(path):
                what = "has changed since" if path in before and path in now else "is only in one of the two"
                return f"other input files: {path} {what}"
    if key == "units":
        return "files cut otherwise"
    return f"{key} {known!r}, not {given!r}"
