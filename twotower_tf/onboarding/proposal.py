"""Proposes a commented configuration for a user's tables: `twotower init`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import duckdb

from twotower_tf.errors import DataError
from twotower_tf.features import bucket_counts
from twotower_tf.onboarding import column_profile, guess_roles
from twotower_tf.onboarding.column_profile import Profile, TableProfile
from twotower_tf.onboarding.guess_roles import Roles
from twotower_tf.prepare import date_split
from twotower_tf.prepare.schema import RESERVED, TABLES
from twotower_tf.tables import input_files, readers
from twotower_tf.tables.duckdb_engine import fetch_row
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.values import python_literal

_PROFILED_BYTES = 1 << 30  # of the log
_MOST_BUCKETS = 10_000_000
_VERSIONED = 0.9  # ids to rows, at most, of a table whose rows hold from a time on
_FEWEST_DAYS = 4  # of directories, for a split by whole days
_NUMBER_WORDS = frozenset(
    "age price cost amount count num number qty quantity score rate ctr cvr size length duration days hours minutes "
    "seconds year distance income salary weight height views clicks impressions rank".split()
)
_AFTER_WORDS = frozenset(
    "rating stars dwell watch revenue purchase purchased bought converted conversion liked order ordered clicked click "
    "label played skipped feedback review payout".split()
)
_LISTS = "requestid listid impressionid searchid queryid pageviewid auctionid serpid request".split()
_PLACES = "position rank slot pos place displayorder".split()
_BEFORE_WORDS = frozenset("past prior history avg mean last previous".split())


@dataclass(frozen=True)
class Line:
    """One line of the configuration's code, and its comment."""

    code: str
    comment: str


@dataclass
class Proposal:
    """A proposed configuration.

    Attributes:
        root: directory that the paths are relative to.
        paths: of the tables, by field.
        roles: of the event log's columns.
        lines: the features of each side.
        left_out: columns that are not features, with the reasons.
        notes: for the top of the file.
        split: code and reason of the split.
        batch_size: of the training.
        evaluation: code and reason of the evaluation, where the default does not fit.
        more: further fields of the data, with code and reason.
    """

    root: str
    paths: dict[str, str]
    roles: Roles
    lines: dict[str, list[Line]] = field(default_factory=lambda: {"item": [], "user": []})
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    split: Line = Line("", "")
    batch_size: int = 1024
    evaluation: Line = Line("", "")
    more: dict[str, Line] = field(default_factory=dict)


def propose_config(
    connection: duckdb.DuckDBPyConnection, paths: Mapping[str, str], given: Mapping[str, str]
) -> Proposal:
    """Profiles the tables and proposes a configuration.

    Args:
        connection: that the tables are read into.
        paths: of `events`, and optionally of `items` and `users`, as the user writes them.
        given: columns that the user has named, by role.

    Raises:
        DataError: for tables that cannot be read or have no columns for the ids.
    """
    root, relative = find_common_root(paths)
    profiles: dict[str, TableProfile] = {}
    notes = []
    for name in TABLES:
        if not paths.get(name):
            continue
        sources = input_files.find_files(Path(root), relative[name], f"--{name}")
        some = _some(sources) if name == "events" else sources
        if len(some) < len(sources):
            notes.append(f"The statistics cover {len(some)} of the {len(sources)} files of the events.")
        table = readers.read_table(connection, f"init_{name}", some, lambda column: True)
        if not table.rows:
            raise DataError(f"--{name}: {paths[name]}: no rows")
        profiles[name] = column_profile.profile_table(connection, table)
    events, items, users = (profiles.get(name) for name in TABLES)
    assert events is not None
    roles = guess_roles.guess_column_roles(connection, events, items, users, given)
    proposal = Proposal(root, relative, roles, notes=notes)
    for side, table_profile, role in (("items", items, roles.item), ("users", users, roles.user)):
        if table_profile is not None and role.column not in table_profile.columns:
            proposal.notes.append(
                f"{relative.pop(side)} has no column {role.column!r} to join it by: it is left out. "
                "Give the id the same name in both tables."
            )
            items, users = (None, users) if side == "items" else (items, None)
    _tables_in_time(connection, proposal, items, users)
    _lists(connection, proposal, events)
    _features(connection, proposal, events, items, users)
    _choose_split(proposal, events, input_files.find_files(Path(root), relative["events"], "--events"))
    return proposal


def find_common_root(paths: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Finds the directory that contains all tables, and the paths below it."""
    given = {name: path for name, path in paths.items() if path}
    fixed = []
    for path in given.values():
        parts = Path(path).parts
        plain = next((at for at, part in enumerate(parts) if re.search(r"[*?\[]|^[^=]+=", part)), len(parts))
        fixed.append(Path(*parts[: min(plain, len(parts) - 1)]))
    common = fixed[0]
    while any(common not in (each, *each.parents) for each in fixed):
        if common == common.parent:
            raise DataError("--items, --users: mixed paths (expected all absolute, or all relative to one directory)")
        common = common.parent
    return str(common), {name: str(Path(path).relative_to(common)) for name, path in given.items()}


def _some(sources: Sequence[InputFile]) -> list[InputFile]:
    """Selects files evenly from the log, of about `_PROFILED_BYTES` in all."""
    total = sum(source.path.stat().st_size for source in sources)
    every = max(1, -(-total // _PROFILED_BYTES))
    return list(sources[::every])


def _tables_in_time(
    connection: duckdb.DuckDBPyConnection, proposal: Proposal, items: TableProfile | None, users: TableProfile | None
) -> None:
    """Proposes the time columns of tables that have several rows per id, each at another time."""
    roles = proposal.roles
    for name, table, role in (("items", items, roles.item), ("users", users, roles.user)):
        if table is None or not roles.time.column:
            continue
        key = table.columns[role.column]
        times = [column for column, moment in table.moments.items() if not moment.places and column != role.column]
        if len(times) != 1 or key.distinct > _VERSIONED * key.present:
            continue
        if _pairs(connection, table, role.column, times[0]) > 0.99:
            why = f"{key.present:,} rows of {key.distinct:,} ids: an event is joined with the row valid at its time"
            proposal.more[f"{name}_time"] = Line(python_literal(times[0]), why)


def _pairs(connection: duckdb.DuckDBPyConnection, profile: TableProfile, one_column: str, other: str) -> float:
    """Counts the distinct pairs of two columns, as a share of the rows that have both."""
    first, second = profile.table.text(one_column), profile.table.text(other)
    pairs, rows = fetch_row(
        connection,
        f"SELECT count(DISTINCT ({first}, {second})), count(*) FROM {profile.table.name} "
        f"WHERE {first} IS NOT NULL AND {second} IS NOT NULL",
    )
    return pairs / rows if rows else 0.0


def _lists(connection: duckdb.DuckDBPyConnection, proposal: Proposal, events: TableProfile) -> None:
    """Proposes a column of lists and one of positions in them, where positions hardly repeat within a list."""
    roles = proposal.roles
    taken = {roles.user.column, roles.item.column, roles.time.column, roles.label.column}
    lists = [name for name in column_profile.match_names(_LISTS, events.columns) if name not in taken]
    places = [name for name in column_profile.match_names(_PLACES, events.columns) if name not in taken]
    if not lists or not places:
        return
    group, place = events.columns[lists[0]], events.columns[places[0]]
    if group.distinct * 1.5 > group.present or place.numbers < place.present or not place.present:
        return
    if _pairs(connection, events, group.name, place.name) > 0.99:
        why = f"{group.distinct:,} lists of {group.present / group.distinct:.1f} items; for SkipAbove() negatives"
        proposal.more["list_id"] = Line(python_literal(group.name), why)
        proposal.more["position"] = Line(python_literal(place.name), "the position in the list, from the top")
        proposal.left_out |= {group.name: "the list (data.list_id)", place.name: "the position in it (data.position)"}


def _features(
    connection: duckdb.DuckDBPyConnection,
    proposal: Proposal,
    events: TableProfile,
    items: TableProfile | None,
    users: TableProfile | None,
) -> None:
    roles = proposal.roles
    add = proposal.lines
    item, user = (events.columns[role.column] for role in (roles.item, roles.user))
    add["item"].append(_hash(item, "the item itself"))
    add["user"].append(_hash(user, f"the user{guess_roles.format_dominant(user)}"))
    ids = {roles.item.column, roles.user.column}
    for side, table in (("item", items), ("user", users)):
        for name, column in table.columns.items() if table else ():
            if name in ids or name in events.columns:
                continue
            reason = _unfit(column, table, roles) if table else ""
            if reason:
                proposal.left_out[name] = reason
            else:
                add[side].append(_line(column))
    for name, column in events.columns.items():
        if name in (*ids, roles.time.column, roles.label.column) or name in proposal.left_out:
            continue
        reason = _unfit(column, events, roles) or _leaks(connection, events, column, roles)
        if reason:
            proposal.left_out[name] = reason
            continue
        in_items = items is not None and name in items.columns
        predicted = column_profile.measure_association(connection, events.table, roles.item.column, name)
        about_item = (in_items or predicted > 0.8) and name not in RESERVED
        share = guess_roles.format_percent(predicted)
        why = f"; the item predicts it in {share} of the cases" if about_item and not in_items else ""
        add["item" if about_item else "user"].append(_line(column, why))
    moment = events.moments.get(roles.time.column)
    if moment is not None and not moment.places:
        if moment.hours > 1:
            add["user"].append(Line(f"Hour({python_literal(roles.time.column)})", "of the event, UTC"))
        if moment.weekdays > 1:
            add["user"].append(Line(f"Weekday({python_literal(roles.time.column)})", "of the event, UTC"))
    if roles.time.column and user.present > 1.5 * user.distinct:
        add["user"].append(
            Line(f"History(of={python_literal(roles.item.column)}, length=50)", "the user's positives before the event")
        )


def _unfit(column: Profile, table: TableProfile | None, roles: Roles) -> str:
    """Returns the reason why a column cannot be a feature; "" where it may be one."""
    moment = table.moments.get(column.name) if table else None
    if not column.present:
        return "no value in any row"
    if column.distinct < 2 and column.missing < 0.01:
        return f"always {column.top[0][0]!r}"
    if column.name in RESERVED:
        return "it has the name of a column of the catalogue: rename it to use it"
    if moment is not None and not moment.places and not _is_number(column):
        return "a time"
    if column.separator:
        return ""
    if column.name == roles.title.column:
        return "shown as the item's name"
    if column.unique and not _is_real(column):
        return f"{guess_roles.format_distinct(column)}: nearly unique per row, like an id of events or free text"
    if column.length > 60:
        return f"free text of {column.length:.0f} characters on average"
    return ""


def _leaks(connection: duckdb.DuckDBPyConnection, events: TableProfile, column: Profile, roles: Roles) -> str:
    """Returns the reason why a column is likely known only after the event (a leak); "" where there is none."""
    if _AFTER_WORDS & set(column.tokens) and not _BEFORE_WORDS & set(column.tokens):
        if not any(re.fullmatch(r"\d+|d|h|\d+[dh]", token) for token in column.tokens):
            return "known only after the event, by its name"
    if roles.label.column:
        predicted = column_profile.measure_association(connection, events.table, column.name, roles.label.column)
        if predicted > 0.9 and column.distinct < 0.5 * column.present:
            share = guess_roles.format_percent(predicted)
            return f"it predicts the label (it avoids {share} of the errors of a constant guess): likely made after it"
    return ""


def _is_real(column: Profile) -> bool:
    return column.numbers == column.present and column.integers < column.present


def _is_number(column: Profile) -> bool:
    """Tests whether a column is a quantity, and not a numeric code."""
    if column.numbers < column.present or column.distinct < 3:
        return False
    return _is_real(column) or (bool(_NUMBER_WORDS & set(column.tokens)) and "id" not in column.tokens)


def _line(column: Profile, why: str = "") -> Line:
    name = python_literal(column.name)
    if column.separator:
        size = _buckets(column.elements)
        code = f"Tags({name}, buckets={size}, separator={python_literal(column.separator)})"
        return Line(code, f"{column.elements:,} values, several in one text{_missing(column)}{why}")
    if not _is_number(column):
        return _hash(column, why.removeprefix("; "))
    spread = f"{column.low:g} to {column.high:g}, half below {column.median:g}{_missing(column)}{why}"
    if not _is_real(column):
        return Line(f"Bucketized({name}, buckets=20)", spread)
    skewed = column.low >= 0 and column.tail > 10 * max(column.median, 1e-9)
    return Line(f"Numeric({name}" + (', transform="log1p")' if skewed else ")"), spread)


def _hash(column: Profile, why: str = "") -> Line:
    size = _buckets(column.distinct)
    share = bucket_counts.expected_sharing(column.distinct, int(size.replace("_", "")))
    about = "" if column.exact else "about "
    shared = f", {guess_roles.format_percent(share)} share a bucket" if share > 2 * bucket_counts.TARGET else ""
    comment = f"{about}{column.distinct:,} values{_missing(column)}{shared}"
    if column.top and column.top[0][1] >= 0.01 and "alone" not in why:
        comment += f"; {column.top[0][0]!r} has {guess_roles.format_percent(column.top[0][1])}"
    return Line(f"Hash({python_literal(column.name)}, buckets={size})", f"{comment}; {why}" if why else comment)


def _buckets(distinct: int) -> str:
    return f"{min(_MOST_BUCKETS, bucket_counts.suggested(distinct)):_}"


def _missing(column: Profile) -> str:
    return f", {guess_roles.format_percent(column.missing)} missing" if column.missing else ""


def _choose_split(proposal: Proposal, events: TableProfile, sources: Sequence[InputFile]) -> None:
    roles, rows = proposal.roles, events.table.rows
    partitions = {date_split.parse_day(dict(source.partition).get(date_split.PARTITION, "")) for source in sources}
    span = len(partitions) if None not in partitions else 0
    moment = events.moments.get(roles.time.column)
    user = events.columns[roles.user.column]
    if span >= _FEWEST_DAYS and (moment is None or not moment.places):
        line = Line(
            f"DateSplit(train_days={_days_between(partitions) - 2}, valid_days=1, test_days=1)",
            f"the directories have {span} days: the last is test, the one before it validation",
        )
    elif moment is None:
        line = Line("RandomSplit(valid_fraction=0.1, test_fraction=0.1)", "without times the log is split at random")
    elif moment.places:
        line = Line("LeaveLastOut()", "positions per user: the last event is test, the one before it validation")
    else:
        line = Line("TimeSplit(valid_fraction=0.1, test_fraction=0.1)", "the last tenth of the log is test")
    proposal.split = line
    while proposal.batch_size > 16 and proposal.batch_size * 20 > rows:
        proposal.batch_size //= 2
    if user.top and user.top[0][1] > 0.3:
        proposal.evaluation = Line(
            'EvaluationConfig(query="event", exclude_seen=False)',
            f"{user.top[0][0]!r} stands for many users: the items that one has seen are not those of the next",
        )
    if user.present < 2 * user.distinct:
        proposal.notes.append("Most users have a single event: there is little to learn about each, and no history.")


def _days_between(partitions: Collection[date | None]) -> int:
    """Counts the days from the first to the last, both included."""
    found = sorted(day for day in partitions if day is not None)
    return (found[-1] - found[0]).days + 1
