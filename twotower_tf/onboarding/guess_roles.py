"""Guesses from the profiles of a user's tables which column is the user, the item, the time and the label, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

import duckdb

from twotower_tf.errors import DataError, unknown_name
from twotower_tf.onboarding import column_profile
from twotower_tf.onboarding.column_profile import Profile, TableProfile

# Usual names, likeliest first, without case, blanks and underscores.
_USERS = (
    "userid user uid customerid customer memberid member visitorid visitor accountid account clientid client profileid "
    "personid person subscriberid subscriber shopper reader viewer listener player buyer who deviceid device cookieid "
    "cookie sessionid session deviceip ip"
).split()
_ITEMS = (
    "itemid item productid product sku asin movieid movie adid ad creativeid creative articleid article newsid videoid "
    "video songid song trackid track bookid book isbn poiid poi venueid venue placeid locationid listingid listing "
    "jobid job postid post docid documentid contentid content gameid game courseid recipeid offerid offer dealid "
    "goodsid hotelid restaurantid businessid artistid artist showid podcastid campaignid itemcode productcode what"
).split()
_TIMES = "timestamp time ts eventtime eventtimestamp datetime createdat occurredat date when hour day position".split()
_LABELS = (
    "label click clicked isclick isclicked converted conversion isconverted purchase purchased bought like liked "
    "target y response installed engaged watched"
).split()
_TITLES = "title name itemname productname itemtitle movietitle headline".split()
_A = {"user": "a user's", "item": "an item's"}
# Words of a user's context: such a column is not the recommended item.
_AROUND = frozenset(
    "device site app ip geo country region city zip browser os referrer referer language locale model domain user page "
    "url session agent network carrier conn connection type category gender age".split()
)


@dataclass(frozen=True)
class Role:
    """A column in a role, or "" for none, and the reason as a sentence for the user."""

    column: str
    why: str


@dataclass(frozen=True)
class Roles:
    """The columns of the event log by role."""

    user: Role
    item: Role
    time: Role
    label: Role
    title: Role


def guess_column_roles(
    connection: duckdb.DuckDBPyConnection,
    events: TableProfile,
    items: TableProfile | None,
    users: TableProfile | None,
    given: Mapping[str, str],
) -> Roles:
    """Guesses the roles.

    Args:
        connection: where the tables live.
        events: the event log.
        items: the item table, or None.
        users: the user table, or None.
        given: columns that the user has named, by role (`user_id`, `item_id`, `timestamp`, `label`).

    Raises:
        DataError: where no column can be the user's or the item's id, or a given one does not exist.
    """
    for role, column in given.items():
        if column and column not in events.columns:
            raise DataError(f"--{role}: {unknown_name('column of the events', column, events.columns)}")
    label = _label(events, given.get("label", ""))
    time = _time(events, given.get("timestamp", ""), {label.column})
    item = _settled(given.get("item_id", ""))
    user = _settled(given.get("user_id", ""))
    taken = {label.column, time.column, item.column, user.column}
    item = item if item.column else _key(connection, events, items, "item", _ITEMS, taken)
    user = user if user.column else _key(connection, events, users, "user", _USERS, taken | {item.column})
    user = user if user.column else _named(events, "user", _USERS, taken | {item.column})
    item = item if item.column else _named(events, "item", _ITEMS, taken | {user.column})
    user = user if user.column else _repeated(events, "user", {*taken, item.column}, frozenset())
    item = item if item.column else _repeated(events, "item", {*taken, user.column}, _AROUND)
    return Roles(user, item, time, label, _title(items or events, {user.column, item.column, label.column}))


def _settled(column: str) -> Role:
    return Role(column, "as you said" if column else "")


def _label(events: TableProfile, given: str) -> Role:
    if given:
        return _settled(given)
    fit = [
        name
        for name in column_profile.match_names(_LABELS, events.columns)
        if _is_binary(events.columns[name]) and events.columns[name].distinct == 2
    ]
    if not fit:
        return Role("", "no column of 0 and 1 has a usual name for a label: every event counts as a positive")
    shares = dict(events.columns[fit[0]].top)
    positive = shares.get("1", shares.get("true", 0.0))
    return Role(fit[0], f"0 or 1 in every row, {format_percent(positive)} of them 1; a usual name for a label")


def _is_binary(column: Profile) -> bool:
    return column.present > 0 and column.binary == column.present


def _time(events: TableProfile, given: str, taken: set[str]) -> Role:
    named = [given] if given else column_profile.match_names(_TIMES, events.columns)
    calendar = [name for name, moment in events.moments.items() if not moment.places]
    named += [] if given else [name for name in calendar if name not in named and not _counts(events.columns[name])]
    for name in named:
        moment = events.moments.get(name)
        if moment is None or name in taken or moment.first == moment.last:
            continue
        if moment.places:
            return Role(name, f"whole numbers from {moment.first} to {moment.last}: positions in an order, not dates")
        return Role(name, f"read as {moment.form}: {_day(moment.first)} to {_day(moment.last)}, UTC")
    if given:
        raise DataError(f"--timestamp: invalid column {given!r} (expected times, and more than one)")
    return Role("", "no column can be read as times: the log has no order")


def _counts(column: Profile) -> bool:
    """Tests whether a column of numbers that can be read as times is more likely an id or a quantity."""
    return column.numbers == column.present and not {"time", "date", "ts", "at", "day", "timestamp"} & set(
        column.tokens
    )


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")


def _key(
    connection: duckdb.DuckDBPyConnection,
    events: TableProfile,
    table: TableProfile | None,
    kind: str,
    names: list[str],
    taken: set[str],
) -> Role:
    """Finds the column by which a side table joins the events' ids."""
    if table is None:
        return Role("", "")
    found = []
    for name, column in table.columns.items():
        if name not in events.columns or name in taken or not column.present or column.missing > 0.01:
            continue
        share = column_profile.measure_overlap(connection, events.table, name, table.table, name)
        if column.distinct > 0.5 * column.present and share > 0.5:
            rank = names.index(column.plain) if column.plain in names else len(names)
            found.append((rank, -column.distinct, name, share))
    if not found:
        return Role("", "")
    _, _, name, share = min(found)
    return Role(name, f"the key of the {kind} table, which has {format_percent(share)} of the events' ids")


def _named(events: TableProfile, kind: str, names: list[str], taken: set[str]) -> Role:
    for name in column_profile.match_names(names, events.columns):
        column = events.columns[name]
        if name not in taken and column.distinct > 1 and not column.unique:
            return Role(
                name, f"its name is a usual one for {_A[kind]} id; {format_distinct(column)}{format_dominant(column)}"
            )
    return Role("", "")


def _repeated(events: TableProfile, kind: str, taken: set[str], around: frozenset[str]) -> Role:
    """Finds the column with the most distinct values, among those whose values repeat."""
    fit = [
        column
        for name, column in events.columns.items()
        if name not in taken
        and 1 < column.distinct <= 0.7 * column.present
        and not column.separator
        and (column.numbers < column.present or column.integers == column.present)
        and not around & set(column.tokens)
    ]
    if not fit:
        known = ", ".join(events.columns)
        raise DataError(
            f"--events: no column can be the {kind}'s id (its values must repeat); columns: {known}; "
            f"name it with --{kind}_id"
        )
    best = max(fit, key=lambda column: column.distinct)
    return Role(
        best.name,
        f"a guess: no column has a usual name for {_A[kind]} id; of the columns whose values repeat and that do not "
        f"describe the context this has the most values; {format_distinct(best)}. Check it",
    )


def _title(table: TableProfile, taken: set[str]) -> Role:
    for name in column_profile.match_names(_TITLES, table.columns):
        if name not in taken and table.columns[name].numbers < table.columns[name].present:
            return Role(name, "a name for display")
    return Role("", "")


def format_percent(share: float) -> str:
    """Formats a share as a percentage."""
    return f"{100 * share:.0f} %" if share in (0.0, 1.0) or 0.1 <= share < 0.995 else f"{100 * share:.2g} %"


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
