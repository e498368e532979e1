"""Guesses from the profiles of a user's tables which columns are the user, the item, the time and the name, and why."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from twotower_tf.errors import DataError, unknown_name
from twotower_tf.number_texts import format_percent
from twotower_tf.onboarding import column_profile, usual_names
from twotower_tf.onboarding.column_profile import Profile, TableProfile
from twotower_tf.sql import Connection

_A = {"user": "a user's", "item": "an item's"}
_MOSTLY = 0.5  # share of rows without an id, from which on another id is likelier
_JOINED = 0.5  # least share of the events' ids that a side table has
_NAMED = 20  # columns in a message
_LONGEST_NAME = 80  # characters on average
_BY_CHANCE = 0.05  # share of a table's whole numbers that others of another name meet by chance
_UNFOLD = "where a row has several items, make one row per item of them first (docs/reading.md#one-row-per-event)"
_OWN_COLUMN = "as a column first (docs/reading.md#one-row-per-event)"
ROLES = ("user_id", "item_id", "timestamp", "label")
DECIDED = 0.95  # association from which a column is an attribute of an id


@dataclass(frozen=True)
class Role:
    """A column in a role, or "" for none, the reason as a sentence for the user, and whether a flag has named it."""

    column: str = ""
    why: str = ""
    given: bool = False

    def __bool__(self) -> bool:
        return bool(self.column)


@dataclass(frozen=True)
class Roles:
    """The columns of the event log by role.

    Attributes:
        user: id of the user.
        item: id of the item.
        time: of the event.
        title: the item's name.
        user_key: the column of the user table that has the user ids; "" where no column has.
        item_key: that of the item table.
        grouped: whether no column names users, so that the rows of a basket or a visit stand for one.
    """

    user: Role
    item: Role
    time: Role
    title: Role
    user_key: str = ""
    item_key: str = ""
    grouped: bool = False


def guess_column_roles(
    connection: Connection,
    events: TableProfile,
    items: TableProfile | None,
    users: TableProfile | None,
    given: Mapping[str, str],
) -> Roles:
    """Guesses the roles.

    `given` has the columns that the user has named, by role (`user_id`, `item_id`, `timestamp`, `label`).

    Raises:
        DataError: where no column can be the user's or the item's id, or a given one does not exist.
    """
    for role in ROLES:
        column = given.get(role, "")
        if column and column not in events.columns:
            raise DataError(f"--{role}: {unknown_name('column of the events', column, events.columns)}")
    clock = given.get("timestamp", "")
    if clock and (clock not in events.moments or events.moments[clock].first == events.moments[clock].last):
        raise DataError(f"--timestamp: invalid column {clock!r} (expected times, and more than one)")
    item, user = (
        Role(given[role], "as you said", given=True) if given.get(role) else Role() for role in ("item_id", "user_id")
    )
    times = {clock, *(name for name in _list_time_columns(events) if events.moments[name].first)}
    taken = {*times, given.get("label", ""), item.column, user.column}
    item = item or _find_joined(connection, events, items, "item", usual_names.ITEMS, taken)
    user = user or _find_joined(connection, events, users, "user", usual_names.USERS, taken | {item.column})
    user = user or _find_named(events, "user", usual_names.USERS, taken | {item.column})
    item = item or _find_named(events, "item", usual_names.ITEMS, taken | {user.column})
    group = Role() if user else _find_group(events, taken | {item.column})
    user = user or group or _guess_user(connection, events, taken | {item.column}, item.column)
    item = item or _guess_item(events, taken | {user.column})
    return Roles(
        user,
        item,
        _find_time(connection, events, clock, user.column, item.column),
        _find_title(connection, events, items, {user.column, item.column}, item.column),
        _find_key(connection, events, users, user.column),
        _find_key(connection, events, items, item.column),
        grouped=bool(group),
    )


def _list_time_columns(events: TableProfile) -> list[str]:
    """Lists the columns that may be the time, likeliest first."""
    named = [name for name in column_profile.match_names(usual_names.TIMES, events.columns) if name in events.moments]
    calendar = [name for name, moment in events.moments.items() if not moment.places]
    others = [name for name in calendar if name not in named and not _is_count(events.columns[name])]
    return sorted(named, key=lambda name: events.moments[name].places) + others


def _find_time(connection: Connection, events: TableProfile, given: str, user: str, item: str) -> Role:
    orders, usual = [], {given, *column_profile.match_names(usual_names.TIMES, events.columns)}
    brief = usual_names.match_ids(("session", "visit", *usual_names.GROUPS), {user: events.columns[user]})
    ids = (item,) if brief else (user, item)  # what lasts for minutes has one date
    for name in [given] if given else _list_time_columns(events):
        moment = events.moments.get(name)
        if moment is None or name in (user, item) or moment.first == moment.last:
            continue
        if moment.places:
            orders.append(name)
        elif name in usual or not is_decided(connection, events, events.columns[name], ids):
            other = f", as {' and '.join(moment.others)} does too: check which is right" if moment.others else ""
            days = f"{_format_day(moment.first)} to {_format_day(moment.last)}"
            return Role(name, f"read as {moment.form}: {days}, UTC{other}")
    for name in orders:
        if given or _is_ordering(connection, events, name, user):
            moment = events.moments[name]
            return Role(name, f"whole numbers from {moment.first} to {moment.last}: positions in an order, not dates")
    return Role("", "no column can be read as times")


def is_decided(connection: Connection, events: TableProfile, column: Profile, ids: Collection[str]) -> bool:
    """Tests whether the user or the item decides a column's value, which then describes them."""
    return any(
        column_profile.measure_association(connection, events.table, each, column.name) > DECIDED for each in ids
    )


def _is_ordering(connection: Connection, events: TableProfile, name: str, user: str) -> bool:
    """Tests whether whole numbers order a user's events; hours, days of the month and places in a list do not."""
    column = events.columns[name]
    if column.plain in ("hour", "day") and column.high <= {"hour": 24, "day": 31}[column.plain]:
        return False
    if column.plain not in usual_names.PER_USER_TIMES:
        return True
    return column_profile.count_pairs(connection, events.table, user, name) > 0.99


def _is_count(column: Profile) -> bool:
    """Tests whether a column of numbers that can be read as times is more likely an id or a quantity."""
    return column.numbers == column.present and not {"time", "date", "ts", "at", "day", "timestamp"} & set(
        column.tokens
    )


def _format_day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")


def _find_joined(
    connection: Connection,
    events: TableProfile,
    table: TableProfile | None,
    kind: str,
    nouns: Sequence[str],
    taken: Collection[str],
) -> Role:
    """Finds the column whose values are the ids of a side table, whatever the table calls them."""
    if table is None:
        return Role()
    named = usual_names.match_ids(nouns, events.columns)
    found = []
    for name, column in events.columns.items():
        if name in taken or not _may_be_id(column):
            continue
        for key in _list_keys(table):
            same = key.lower() == name.lower()
            share, back = column_profile.measure_overlap(connection, events.table, name, table.table, key)
            if share <= _JOINED or not (same or _means_the_same(column, table.columns[key], back, name in named)):
                continue
            rank = named.index(name) if name in named else len(named)
            rank = -1 if same and name in named else rank
            found.append((rank, not same, -column.distinct, name, share))
    if not found:
        return Role()
    _, _, _, name, share = min(found)
    return Role(name, f"the key of the {kind} table, which has {format_percent(share)} of the events' ids")


def _may_be_id(column: Profile) -> bool:
    return column.distinct > 1 and not column.is_binary and not column.separator and not _is_unfit_id(column)


def _is_unfit_id(column: Profile) -> bool:
    """Tests whether a column is lists, structures, or fractions."""
    return column.plural or column.nested or column.is_fraction


def _list_keys(table: TableProfile) -> list[str]:
    """Lists the columns of a side table that can be its key."""
    return [
        name
        for name, column in table.columns.items()
        if column.missing <= 0.01 and column.distinct > 0.5 * column.present and not _is_unfit_id(column)
    ]


def _means_the_same(column: Profile, key: Profile, back: float, named: bool) -> bool:
    """Tests whether values that two columns of other names share are more than whole numbers that meet by chance."""
    if column.integers < column.present or key.integers < key.present:
        return True
    return named and back > _BY_CHANCE


def _find_key(connection: Connection, events: TableProfile, table: TableProfile | None, column: str) -> str:
    """Finds the column of a side table that has the events' ids: that of the same name, or the one that shares most."""
    if table is None:
        return ""
    if column in table.columns:
        return column
    shares = []
    for key in _list_keys(table):
        share, back = column_profile.measure_overlap(connection, events.table, column, table.table, key)
        if share > _JOINED and _means_the_same(events.columns[column], table.columns[key], back, named=True):
            shares.append((share, back, key))
    return max(shares)[-1] if shares else ""


def _find_named(events: TableProfile, kind: str, nouns: Sequence[str], taken: Collection[str]) -> Role:
    matches = usual_names.match_ids(nouns, events.columns)
    matches.sort(key=lambda name: events.columns[name].missing > _MOSTLY)  # the likeliest that most rows have
    for name in matches:
        column = events.columns[name]
        numbered = column.is_fraction and column.tokens[-1] in usual_names.ID_SUFFIXES  # Google's 1234.1600000000
        if name not in taken and not column.unique and (_may_be_id(column) or numbered):
            sparse = [each for each in matches if events.columns[each].missing > _MOSTLY and each != name]
            why = f"; most rows have no {sparse[0]!r}" if sparse else ""
            return Role(
                name,
                f"its name is a usual one for {_A[kind]} id; {format_distinct(column)}{format_dominant(column)}{why}",
            )
    return Role()


def _find_group(events: TableProfile, taken: Collection[str]) -> Role:
    """Finds a column whose rows belong together, such as a basket's, for a log without users."""
    for name in usual_names.match_ids(usual_names.GROUPS, events.columns):
        column = events.columns[name]
        if name not in taken and _may_be_id(column) and 1.5 * column.distinct <= column.present:
            return Role(name, f"no column names a user, so each stands for one; {format_distinct(column)}")
    return Role()


def _guess_user(connection: Connection, events: TableProfile, taken: Collection[str], item: str) -> Role:
    """Finds the column with the most distinct values, among those whose values repeat and that are not of the item."""
    for column in events.columns.values():
        if (column.plural or column.nested) and column.tokens and column.tokens[0] in usual_names.PEOPLE:
            raise DataError(f"--events: column {column.name!r} holds objects: write the user's id in it {_OWN_COLUMN}")
    nouns = (*usual_names.ITEMS, *usual_names.AMBIGUOUS_ITEMS)
    named = {*usual_names.match_ids(nouns, events.columns), *_list_titles(events)}
    fit = [
        column
        for column in _list_repeated(events, {*taken, *named})
        if column.distinct >= max(20, math.sqrt(column.present) / 2)
        and not (item and column_profile.measure_association(connection, events.table, item, column.name) > DECIDED)
    ]
    if not fit:
        known = _list_columns(events)
        people = usual_names.match_ids(usual_names.USERS, events.columns)
        alone = any(events.columns[name].unique for name in people)
        wide = "; a table with a row per user and a column per item must be unpivoted first" if alone else ""
        unfit = (name for name, each in events.columns.items() if each.plural or each.nested)
        nested = "".join(f"; {name!r} holds lists or objects" for name in unfit)
        raise DataError(
            f"--events: no column can be the user's id (its values must repeat); columns: {known}{nested}{wide}; "
            "name it with --user_id; in a log without users, name the column whose rows belong together (a session, a "
            f"basket, a device), or add one; {_UNFOLD}"
        )
    return _describe_guess(max(fit, key=lambda column: column.distinct), "user")


def _guess_item(events: TableProfile, taken: Collection[str]) -> Role:
    """Finds the column with the most distinct values, among those whose values repeat and that are not context."""
    for column in events.columns.values():
        if (column.plural or column.nested) and any(column.plain.startswith(noun) for noun in usual_names.ITEMS):
            what = "lists" if column.plural else "objects, or lists of them"
            raise DataError(f"--events: column {column.name!r} holds {what}; {_UNFOLD}")
    fit = [column for column in _list_repeated(events, taken) if not usual_names.CONTEXT & set(column.tokens)]
    if not fit and (named := _find_named(events, "item", usual_names.AMBIGUOUS_ITEMS, taken)):
        return named
    if not fit:
        known = _list_columns(events)
        raise DataError(
            f"--events: no column can be the item's id (its values must repeat); columns: {known}; "
            f"name it with --item_id; {_UNFOLD}"
        )
    return _describe_guess(max(fit, key=lambda column: column.distinct), "item")


def _describe_guess(column: Profile, kind: str) -> Role:
    return Role(
        column.name,
        f"a guess: no column has a usual name for {_A[kind]} id; of the columns whose values repeat and that do not "
        f"describe the context this has the most values; {format_distinct(column)}. Check it",
    )


def _list_repeated(events: TableProfile, taken: Collection[str]) -> list[Profile]:
    outcomes = usual_names.RATING_WORDS | usual_names.COUNT_WORDS | usual_names.AFTER_WORDS | usual_names.PRICE_WORDS
    return [
        column
        for name, column in events.columns.items()
        if name not in taken
        and _may_be_id(column)
        and column.distinct <= 0.7 * column.present
        and column.length <= 60
        and not outcomes & set(column.tokens)
    ]


def _list_columns(events: TableProfile) -> str:
    names = list(events.columns)
    return ", ".join(names if len(names) <= _NAMED else [*names[: _NAMED - 1], "...", names[-1]])


def _list_titles(table: TableProfile) -> list[str]:
    bare = {usual_names.strip_prefix(column): name for name, column in table.columns.items()}
    others = [bare[name] for name in usual_names.TITLES if name in bare]
    return list(dict.fromkeys([*column_profile.match_names(usual_names.TITLES, table.columns), *others]))


def _find_title(
    connection: Connection, events: TableProfile, items: TableProfile | None, taken: Collection[str], item: str
) -> Role:
    table, is_catalogue = items or events, items is not None
    for name in _list_titles(table):
        column = table.columns[name]
        short = column.plain != "description" or column.length <= _LONGEST_NAME
        if name in taken or column.numbers == column.present or not short:
            continue
        if is_catalogue or is_decided(connection, events, column, [item]):  # not the name of an order or a user
            return Role(name, "a name for display")
    for name, column in table.columns.items():
        worded = sum(" " in value for value, _ in column.top) > 0.5 * len(column.top)
        if is_catalogue and name not in taken and column.unique and worded and column.length <= _LONGEST_NAME:
            return Role(name, "short texts, one per item: taken as names for display")
    return Role()


def format_distinct(column: Profile) -> str:
    """Formats the number of distinct values of a column."""
    about = "" if column.exact else "about "
    return f"{about}{column.distinct:,} values in {column.present:,} rows"


def format_dominant(column: Profile) -> str:
    """Formats a warning where one value has a large share of the rows; "" otherwise."""
    if not column.top or column.top[0][1] < 0.3:
        return ""
    value, share = column.top[0]
    return f'; {value!r} alone has {format_percent(share)} of the rows and may stand for "unknown"'
