"""Options of a scoring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twotower_tf.errors import ConfigError
from twotower_tf.retrieval.limits import MAX_K
from twotower_tf.score.answer_tables import Format
from twotower_tf.tables import duckdb_engine


@dataclass(frozen=True)
class Options:
    """Options of a scoring.

    Attributes:
        export_dir: the export root.
        output: directory of the answers.
        users: file, glob or directory of users; or
        users_from_events: a run directory: all users of its log, as they are after its last event.
        version: of the bundle; None is the newest.
        k: answers per user.
        max_k: the largest k.
        vectors_only: user vectors instead of answers.
        format: of the output.
        filter: SQL predicate over the catalogue: items that may be answered.
        names: adds the items' names to the answers.
        blocklist: file of items that no user may get; None is that of the export root.
        exclude: file, glob or directory of pairs of user and item that are not answered.
        exclude_seen: leaves out items that the user has had in the log; with users_from_events.
        absent: feature columns that the users may lack.
        at: epoch seconds of the time features where users have no such column; None is now.
        workers: processes; 0 is as many as cores and memory allow, of a ScaNN index one per eight cores.
        threads: of each; 0 shares the cores among the workers.
        memory_limit: of all workers, e.g. "8GB"; "" is half of the machine's.
    """

    export_dir: Path
    output: Path
    users: str = ""
    users_from_events: str = ""
    version: int | None = None
    k: int = 10
    max_k: int = MAX_K
    vectors_only: bool = False
    format: Format = "parquet"
    filter: str = ""
    names: bool = False
    blocklist: str | None = None
    exclude: str = ""
    exclude_seen: bool = False
    absent: tuple[str, ...] = ()
    at: int | None = None
    workers: int = 0
    threads: int = 0
    memory_limit: str = ""

    def check(self) -> None:
        """Checks that the options go together.

        Raises:
            ConfigError: naming the flags.
        """
        if bool(self.users) == bool(self.users_from_events):
            raise ConfigError("--users or --users_from_events is required, not both")
        if not 1 <= self.k <= self.max_k:
            raise ConfigError(f"--k: invalid value {self.k} (expected 1 to {self.max_k}); raise --max_k for more")
        if self.memory_limit:
            duckdb_engine.parse_size(self.memory_limit)
        if self.exclude_seen and not self.users_from_events:
            raise ConfigError("--exclude_seen: needs --users_from_events; a table of pairs goes with --exclude")
        if self.vectors_only and (self.filter or self.names or self.exclude or self.exclude_seen):
            raise ConfigError(
                "--vectors_only: has no items to name or filter; remove --filter, --names, --exclude, --exclude_seen"
            )
        if self.names and self.format == "tsv":
            raise ConfigError(
                "--names: invalid with --format=tsv (names may hold the characters between its fields); use "
                "--format=parquet"
            )
