"""Continues a previous preparation: only files that it has not read become rows (`prepare --since`).

Reused are the statistics, unchanged; the row numbers of users and items (new ones follow, ordered by id among
themselves, so that rows are ordered by id within each run); the values of users and of the catalogue that have no newer
one; and the counts of positives, which continue. All positives of the previous run, held-out ones too, count as past:
they are in the histories, in the counts and in the items that a user has seen, and none becomes a training row again.
The rule of the split is applied to the new rows alone. So a run over days 1 to 5 and one over day 6 `--since` it give
day 6 the same histories and values as one run over days 1 to 6 with days 1 to 5 as training.

The tables of items and users are read whole. Latest values and histories go by the events' times, whatever the order
of arrival; of equal microseconds, and in a log without times, new events are the later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import PreparedPaths, RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.sql import Connection, file_pattern, quote_identifier
from twotower_tf.tables import input_files
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Column

# the places of the files, and the split of the events, may differ between the runs
_FREE = ("events", "items", "users", "split", "train_on_valid")


def compute_digests(config: ExperimentConfig) -> dict[str, str]:
    """Computes digests of the parts of the configuration that must be equal in runs that continue each other."""
    parts = configuration.fingerprint_fields(config, configuration.PREPARED)
    del parts["seed"]  # of a random split, which is applied to the new rows alone
    parts["data"] = {name: value for name, value in parts["data"].items() if name not in _FREE}
    return {name: artifacts.fingerprint(value) for name, value in parts.items()}


@dataclass(frozen=True)
class PreviousRun:
    """The run that is continued: its directory, and the manifest of its preparation."""

    run_dir: Path
    manifest: dict[str, Any]

    @property
    def paths(self) -> PreparedPaths:
        return PreparedPaths(RunPaths(self.run_dir).prepared)

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Every input file that this run, or a run before it, has read."""
        before = self.manifest["since"] or {"inputs": []}
        return [*before["inputs"], *self.manifest["inputs"]]

    def select_unread(self, sources: Sequence[InputFile]) -> list[InputFile]:
        """Selects the event files that this run has not read.

        Raises:
            DataError: where a file has changed since it was read, or none is new.
        """
        known = {entry["path"]: entry for entry in self.inputs}
        found = []
        for source in sources:
            if source.name not in known:
                found.append(source)
            elif input_files.describe_file(source) != known[source.name]:
                raise DataError(f"{source.name}: changed since {self.run_dir} read it; prepare again without --since")
        if not found:
            raise DataError(
                f"data.events: no new file to prepare: {self.run_dir} has read all of {len(sources)} files; add those "
                "of the new day"
            )
        return found

    def load(self, connection: Connection) -> dict[str, Column]:
        """Creates `previous_users` and `previous_items`, with their latest values, and `previous_positives`.

        Returns:
            the columns of `previous_items`, by name.
        """
        paths = self.paths
        connection.execute(
            f"""
            CREATE TABLE previous_users AS
            SELECT * EXCLUDE (file_row_number), CAST(file_row_number AS INTEGER) AS user_row
            FROM read_parquet({file_pattern(paths.users)}, file_row_number=true);
            CREATE TABLE previous_items AS
            SELECT * EXCLUDE (file_row_number), CAST(file_row_number AS INTEGER) AS item_row
            FROM read_parquet({file_pattern(paths.items)}, file_row_number=true);
            CREATE TABLE previous_positives AS
            SELECT user_row, item_row, micros AS ts, place - {_ROWS} AS place, CAST(0 AS TINYINT) AS split
            FROM read_parquet({file_pattern(paths.positives, "*.parquet")})
            """
        )
        found = connection.execute("DESCRIBE previous_items").fetchall()
        return {name: Column(quote_identifier(name), kind) for name, kind, *_ in found}


_ROWS = 1 << 40  # more than any log has: the places of the past, in their order, come before those of the log


def open_previous_run(run_dir: Path, config: ExperimentConfig, into: Path, schema_version: int) -> PreviousRun:
    """Opens the run to be continued.

    Raises:
        ArtifactError: where it has no finished preparation, or one of another version.
        ConfigError: where it was prepared with other features or columns, or is the run to be written.
    """
    if run_dir.resolve() == into.resolve():
        raise ConfigError(f"--since: invalid directory '{run_dir}' (it is --run_dir); name the run to continue")
    if config.data.ordered and not config.data.timestamp:
        raise ConfigError("--since: the order of a log without times is that of its own rows; name data.timestamp")
    path = PreparedPaths(RunPaths(run_dir).prepared).manifest
    if not path.is_file():
        raise ArtifactError(f"--since: {run_dir}: no finished preparation there; run `twotower prepare` first")
    manifest = artifacts.read_json(path, "prepared directory", schema_version)
    differing = [part for part, digest in compute_digests(config).items() if manifest["basis"][part] != digest]
    if differing:
        raise ConfigError(
            f"--since: {run_dir} was prepared with another configuration ({', '.join(differing)}); only data.root, "
            "data.events, data.items, data.users and data.split may differ"
        )
    return PreviousRun(run_dir, manifest)
