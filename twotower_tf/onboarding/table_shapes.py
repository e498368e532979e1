"""Recognises side tables that need another shape first: a table of orders as users, a row per property of an item."""

from __future__ import annotations

from twotower_tf.errors import DataError
from twotower_tf.onboarding import usual_names
from twotower_tf.onboarding.column_profile import TableProfile
from twotower_tf.onboarding.guess_roles import Role

_REPEATED = 0.9  # distinct ids to rows, at most, of a table with several rows per id
_PROPERTIES = frozenset("property attribute feature field parameter characteristic key".split())
_VALUES = frozenset("value val".split())
_PEOPLE = tuple("user uid customer cust visitor member household".split())


def check_shape(flag: str, table: TableProfile, key: str, role: Role) -> None:
    """Checks that a table has a row per item or user.

    Args:
        flag: `items` or `users`.
        table: the side table.
        key: its column of ids.
        role: the column of the events that has these ids.

    Raises:
        DataError: for a table of orders, sessions or the like that names a user for each, unless the user has named
            the events' column; and for one with a row per id and property.
    """
    column, file = table.columns[key], table.table.sources[0].name
    if column.distinct <= _REPEATED * column.present:
        named = {each.plain: name for name, each in table.columns.items()}
        if _PROPERTIES & named.keys() and _VALUES & named.keys():
            raise DataError(
                f"--{flag}: {file}: a row per {key!r} and property; make one row per {key!r} of them first "
                "(docs/reading.md#one-row-per-item)"
            )
    if flag == "users" and not role.given and usual_names.match_ids(usual_names.GROUPS, {key: column}):
        for name in usual_names.match_ids(_PEOPLE, table.columns):
            if name != key and table.columns[name].distinct <= _REPEATED * column.distinct:
                raise DataError(
                    f"--users: {file}: a row per {key!r}, with the user in {name!r}; join it with the events first "
                    f"(docs/reading.md#orders-and-their-lines), or take each for a user with --user_id={role.column}"
                )
