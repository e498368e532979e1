"""Proposes the features of both towers, and says why a column is not one."""

from __future__ import annotations

from dataclasses import dataclass

from twotower_tf.features import bucket_counts
from twotower_tf.number_texts import format_number, format_percent
from twotower_tf.onboarding import column_profile, guess_roles, usual_names
from twotower_tf.onboarding.column_profile import Profile, TableProfile
from twotower_tf.onboarding.guess_roles import Roles
from twotower_tf.prepare import row_rules
from twotower_tf.prepare.schema import RESERVED
from twotower_tf.sql import Connection
from twotower_tf.tables.values import python_literal

_MOST_BUCKETS = 10_000_000
_SCATTERED = 0.5  # distinct values to rows, from which on a value of the log says little of the next event
_LISTED = 0.2  # of lists that have the event's item
_NUMBER_WORDS = frozenset(
    "age price cost amount count num number qty quantity score rate ctr cvr size length duration days hours minutes "
    "seconds year distance income salary weight height views clicks impressions rank".split()
)
_GROUP_WORDS = frozenset(
    "request session order basket cart invoice transaction receipt impression auction serp pageview visit query search "
    "row log event uuid guid".split()
)


@dataclass(frozen=True)
class Line:
    """One line of the configuration's code, and its comment."""

    code: str
    comment: str


def propose_features(
    connection: Connection,
    roles: Roles,
    label: str,
    events: TableProfile,
    items: TableProfile | None,
    users: TableProfile | None,
    left_out: dict[str, str],
) -> tuple[dict[str, list[Line]], dict[str, str]]:
    """Proposes the features that are columns of the tables, without the user's id and what is made of the time.

    `label` is the column of labels, or ""; `left_out` has columns of the log in other roles, with the reasons.

    Returns:
        the features by side, the item's id first, and by column the reason why it is not a feature.
    """
    item_id = hash_line(events.columns[roles.item.column], "the item itself", hashes=2)
    lines: dict[str, list[Line]] = {"item": [item_id], "user": []}
    unfit: dict[str, str] = {}
    ids = {roles.item.column, roles.user.column}
    for side, table, key in (("item", items, roles.item_key), ("user", users, roles.user_key)):
        for name, column in table.columns.items() if table else ():
            if name in (*ids, key) or name in events.columns:
                continue
            if reason := _explain_unfit(column, table, roles) if table else "":
                unfit[name] = reason
            else:
                lines[side].append(_propose_feature(column))
    for name, column in events.columns.items():
        if name in (*ids, roles.time.column, label) or name in left_out:
            continue
        reason = _explain_unfit(column, events, roles)
        if not reason and (leak := _explain_leak(connection, events, column, label, roles)):
            reason = "" if guess_roles.is_decided(connection, events, column, ids) else leak
        if reason:
            unfit[name] = reason
            continue
        in_items = items is not None and name in items.columns
        predicted = column_profile.measure_association(connection, events.table, roles.item.column, name)
        about_item = (in_items or predicted > 0.8) and name not in RESERVED
        if not about_item and (reason := _explain_knowledge(connection, events, column, roles)):
            unfit[name] = reason
            continue
        share = format_percent(predicted)
        why = f"; the item predicts it in {share} of the cases" if about_item and not in_items else ""
        lines["item" if about_item else "user"].append(_propose_feature(column, why))
    return lines, unfit | left_out


def _explain_unfit(column: Profile, table: TableProfile | None, roles: Roles) -> str:
    """Returns the reason why a column cannot be a feature; "" where it may be one."""
    moment = table.moments.get(column.name) if table else None
    if not column.present:
        return "no value in any row"
    if column.nested:
        return "objects, or lists of them: write what you need of them as columns of their own"
    if column.distinct < 2 and column.missing < 0.01:
        return f"always {column.top[0][0]!r}"
    if column.name in RESERVED:
        return "it has the name of a column of the catalogue: rename it to use it"
    if moment is not None and not moment.places and not _is_number(column) and not _is_code(column, moment):
        return "a time"
    if column.separator:
        return ""
    if column.name == roles.title.column:
        return "shown as the item's name"
    if column.unique and not column.is_fraction:
        return f"{guess_roles.format_distinct(column)}: nearly unique per row, like an id of events or free text"
    if column.length > 60:
        return f"free text of {column.length:.0f} characters on average"
    return ""


def _explain_leak(connection: Connection, events: TableProfile, column: Profile, label: str, roles: Roles) -> str:
    """Returns why a column is known only after the event (a leak), or is a group of events or a date; "" otherwise."""
    words = set(column.tokens)
    if roles.time and usual_names.DATE_PARTS & words and words <= usual_names.DATE_PARTS | set(usual_names.ID_SUFFIXES):
        return "a part of the date"
    if usual_names.AFTER_WORDS & words and not usual_names.describes_past(column):
        return "known only after the event, by its name"
    of_group = words & _GROUP_WORDS and words <= _GROUP_WORDS | usual_names.PEOPLE | set(usual_names.ID_SUFFIXES)
    named = usual_names.match_ids(sorted(_GROUP_WORDS), {column.name: column})
    if (of_group or named) and column.distinct > min(100, 0.5 * column.present):
        return f"{guess_roles.format_distinct(column)}: an id of events that belong together"
    single = not (column.separator or column.plural or _is_number(column))
    if single and column.exact and column.distinct > _SCATTERED * column.present > 50:
        return f"{guess_roles.format_distinct(column)}: most occur once"
    if column.plain in usual_names.PLACES and column.numbers == column.present:
        return "a position in a list: it says how the item was shown (data.position, with data.list_id)"
    if label:
        predicted = column_profile.measure_association(connection, events.table, column.name, label)
        if predicted > 0.9 and column.distinct < 0.5 * column.present:
            share = format_percent(predicted)
            return f"it predicts the label (it avoids {share} of the errors of a constant guess): likely made after it"
    return ""


def _explain_knowledge(connection: Connection, events: TableProfile, column: Profile, roles: Roles) -> str:
    """Returns why a column of the user's side says which item or which user it was; "" where it does not."""
    for role, each in (("item", roles.item.column), ("user", roles.user.column)):
        if column.distinct < 0.5 * events.columns[each].distinct:
            continue
        if column_profile.measure_association(connection, events.table, column.name, each) > guess_roles.DECIDED:
            before = ", which nobody has before the event" if role == "item" else ""
            return f"it decides {each!r}: another id of the {role}{before}"
    if usual_names.PRICE_WORDS & set(column.tokens) and not usual_names.describes_past(column):
        if not guess_roles.is_decided(connection, events, column, [roles.user.column]):
            return "of the item as it was taken, not of the user: write it in the item table to use it"
    share = column_profile.measure_listed(connection, events.table, column, roles.item.column)
    if share > _LISTED:
        return f"lists of items; {format_percent(share)} have the event's own, which nobody knows before"
    return ""


def _is_code(column: Profile, moment: column_profile.Moment) -> bool:
    """Tests whether whole numbers that can be read as times are codes: they lie in the future."""
    return column.numbers == column.present and moment.last > row_rules.find_latest_time()


def _is_number(column: Profile) -> bool:
    """Tests whether a column is a quantity, and not a numeric code."""
    if column.numbers < column.present or column.distinct < 3:
        return False
    return column.is_fraction or (bool(_NUMBER_WORDS & set(column.tokens)) and "id" not in column.tokens)


def _propose_feature(column: Profile, why: str = "") -> Line:
    name = python_literal(column.name)
    if column.separator:
        size = _suggest_buckets(column.elements)
        code = f"Tags({name}, buckets={size}, separator={python_literal(column.separator)})"
        brackets = sum(value[0] in "[{(" for value, _ in column.top) > 0.5 * len(column.top)
        kept = "; the brackets stay in the first and the last value: better without" if brackets else ""
        return Line(code, f"{column.elements:,} values, several in one text{_format_missing(column)}{why}{kept}")
    if not _is_number(column):
        return hash_line(column, why.removeprefix("; "))
    spread = (
        f"{format_number(column.low)} to {format_number(column.high)}, half below {format_number(column.median)}"
        f"{_format_missing(column)}{why}"
    )
    if not column.is_fraction:
        return Line(f"Bucketized({name}, buckets=20)", spread)
    skewed = column.low >= 0 and column.tail > 10 * max(column.median, 1e-9)
    return Line(f"Numeric({name}" + (', transform="log1p")' if skewed else ")"), spread)


def hash_line(column: Profile, why: str = "", hashes: int = 1) -> Line:
    """Proposes a hashed column, with buckets for its number of values; an id has two hashes."""
    size = _suggest_buckets(column.distinct)
    share = bucket_counts.expected_sharing(column.distinct, int(size.replace("_", "")), hashes)
    about = "" if column.exact else "about "
    shared = f", {format_percent(share)} share a bucket" if share > 2 * bucket_counts.TARGET else ""
    comment = f"{about}{column.distinct:,} values{_format_missing(column)}{shared}"
    if column.top and column.top[0][1] >= 0.01 and "alone" not in why:
        comment += f"; {column.top[0][0]!r} has {format_percent(column.top[0][1])}"
    more = f", hashes={hashes}" if hashes > 1 else ""
    code = f"Hash({python_literal(column.name)}, buckets={size}{more})"
    return Line(code, f"{comment}; {why}" if why else comment)


def _suggest_buckets(distinct: int) -> str:
    return f"{min(_MOST_BUCKETS, bucket_counts.suggest_buckets(distinct)):_}"


def _format_missing(column: Profile) -> str:
    return f", {format_percent(column.missing)} missing" if column.missing else ""
