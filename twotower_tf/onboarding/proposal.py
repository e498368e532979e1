"""Proposes a commented configuration for a user's tables: `twotower init`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from twotower_tf.errors import DataError, raise_first
from twotower_tf.onboarding import (
    column_profile,
    feature_lines,
    guess_roles,
    input_forms,
    outcome_columns,
    table_shapes,
    training_choices,
    usual_names,
)
from twotower_tf.onboarding.catalogue_growth import measure_growth
from twotower_tf.onboarding.column_profile import TableProfile
from twotower_tf.onboarding.feature_lines import Line
from twotower_tf.onboarding.guess_roles import Roles
from twotower_tf.onboarding.input_forms import InputForms
from twotower_tf.onboarding.outcome_columns import Outcomes
from twotower_tf.prepare import unusable_tables
from twotower_tf.sql import Connection
from twotower_tf.tables import readers
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.values import python_literal

_PROFILED_BYTES = 1 << 30  # of the log
_VERSIONED = 0.9  # ids to rows, at most, of a table whose rows hold from a time on


@dataclass
class Proposal:
    """A proposed configuration.

    Attributes:
        root: directory that the paths are relative to.
        paths: of the tables, by field.
        roles: of the event log's columns.
        outcomes: columns of labels, actions, ratings and counts.
        lines: the features of each side.
        left_out: columns that are not features, with the reasons.
        notes: for the top of the file and the screen.
        split: code and reason of the split.
        more: further fields of the data, with code and reason.
        sections: `model`, `loss`, `train` and `evaluation`, with code and reason.
    """

    root: str
    paths: dict[str, str]
    roles: Roles
    outcomes: Outcomes
    lines: dict[str, list[Line]] = field(default_factory=lambda: {"item": [], "user": []})
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    split: Line = Line("", "")
    more: dict[str, Line] = field(default_factory=dict)
    sections: dict[str, Line] = field(default_factory=dict)


def propose_config(connection: Connection, paths: Mapping[str, str], given: Mapping[str, str]) -> Proposal:
    """Profiles the tables and proposes a configuration.

    Args:
        connection: that the tables are read into.
        paths: of `events`, and optionally of `items` and `users`, as the user writes them.
        given: columns that the user has named, by role, and what `input_forms.find_inputs` takes.

    Raises:
        DataError: for tables that cannot be read or have no columns for the ids.
    """
    root, relative = find_common_root(paths)
    forms = input_forms.find_inputs(root, relative, given)
    profiles, notes = _profile_tables(connection, forms, paths)
    events, items, users = (profiles.get(name) for name in ("events", "items", "users"))
    assert events is not None
    roles = guess_roles.guess_column_roles(connection, events, items, users, given)
    more = dict(forms.fields)
    for side, role, key in (("items", roles.item, roles.item_key), ("users", roles.user, roles.user_key)):
        if side not in profiles:
            continue
        if not key:
            notes.append(
                f"{relative.pop(side)} is left out: no column of it has the values of {role.column!r}. If one should, "
                f"write the ids alike in both tables, and name its column in data.{side}_id."
            )
            items, users = (None, users) if side == "items" else (items, None)
            continue
        table_shapes.check_shape(side, profiles[side], key, role)
        if key != role.column:
            more[f"{side}_id"] = Line(python_literal(key), f"has the ids that the events have in {role.column!r}")
    moment = events.moments.get(roles.time.column)
    if moment is not None and moment.strptime:
        why = f"the first time is {datetime.fromtimestamp(moment.first, timezone.utc):%d %B %Y %H:%M}"
        more["timestamp_format"] = Line(python_literal(moment.strptime), why)
    listing = _find_lists(connection, roles, events)
    more |= listing
    aside = {roles.time.column, *(line.code[1:-1] for line in listing.values())}
    outcomes = outcome_columns.find_outcomes(
        connection, events, (roles.user.column, roles.item.column), aside, given.get("label", "")
    )
    proposal = Proposal(root, relative, roles, outcomes, notes=notes, more=more)
    _propose_table_times(connection, proposal, items, users)
    left_out = dict(outcomes.left_out)
    for each, what in (("list_id", "the list"), ("position", "the position in it")):
        if each in listing:
            left_out[listing[each].code[1:-1]] = f"{what} (data.{each})"
    proposal.lines, proposal.left_out = feature_lines.propose_features(
        connection, roles, outcomes.label, events, items, users, left_out
    )
    _add_choices(connection, proposal, events, items, forms.sources["events"])
    return proposal


def _profile_tables(
    connection: Connection, forms: InputForms, paths: Mapping[str, str]
) -> tuple[dict[str, TableProfile], list[str]]:
    """Reads the tables, of a large log some files, and profiles them; returns notes on what was not read as well."""
    profiles: dict[str, TableProfile] = {}
    notes = []
    for name, sources in forms.sources.items():
        some = _select_some(sources) if name == "events" else sources
        if len(some) < len(sources):
            notes.append(f"The statistics cover {len(some)} of the {len(sources)} files of the events.")
        table = readers.read_table(connection, f"init_{name}", some, lambda column: True)
        if not table.rows:
            raise_first(unusable_tables.find_unusable(connection, name, table))
            raise DataError(f"--{name}: {paths[name]}: no rows")
        profiles[name] = column_profile.profile_table(connection, table)
    return profiles, notes


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


def _select_some(sources: Sequence[InputFile]) -> list[InputFile]:
    """Selects files evenly from the log, of about `_PROFILED_BYTES` in all."""
    total = sum(source.path.stat().st_size for source in sources)
    every = max(1, -(-total // _PROFILED_BYTES))
    return list(sources[::every])


def _propose_table_times(
    connection: Connection, proposal: Proposal, items: TableProfile | None, users: TableProfile | None
) -> None:
    """Proposes the time columns of tables that have several rows per id, each at another time."""
    roles = proposal.roles
    for name, table, key_column in (("items", items, roles.item_key), ("users", users, roles.user_key)):
        if table is None or not roles.time.column:
            continue
        key = table.columns[key_column]
        times = [
            column
            for column, moment in table.moments.items()
            if not moment.places and not moment.strptime and column != key_column
        ]
        if len(times) != 1 or key.distinct > _VERSIONED * key.present:
            continue
        if column_profile.count_pairs(connection, table.table, key_column, times[0]) > 0.99:
            why = f"{key.present:,} rows of {key.distinct:,} ids: an event is joined with the row valid at its time"
            proposal.more[f"{name}_time"] = Line(python_literal(times[0]), why)


def _find_lists(connection: Connection, roles: Roles, events: TableProfile) -> dict[str, Line]:
    """Finds a column of lists and one of positions in them, where positions hardly repeat within a list."""
    taken = {roles.user.column, roles.item.column, roles.time.column}
    lists = [name for name in column_profile.match_names(usual_names.LISTS, events.columns) if name not in taken]
    places = [name for name in column_profile.match_names(usual_names.PLACES, events.columns) if name not in taken]
    if not lists or not places:
        return {}
    group, place = events.columns[lists[0]], events.columns[places[0]]
    if group.distinct * 1.5 > group.present or place.numbers < place.present or not place.present:
        return {}
    if column_profile.count_pairs(connection, events.table, group.name, place.name) <= 0.99:
        return {}
    why = f"{group.distinct:,} lists of {group.present / group.distinct:.1f} items; for SkipAbove() negatives"
    return {
        "list_id": Line(python_literal(group.name), why),
        "position": Line(python_literal(place.name), "the position in the list, from the top"),
    }


def _add_choices(
    connection: Connection,
    proposal: Proposal,
    events: TableProfile,
    items: TableProfile | None,
    sources: Sequence[InputFile],
) -> None:
    """Adds the user's id and history, the split, the towers, the loss and the training."""
    roles, outcomes, lines = proposal.roles, proposal.outcomes, proposal.lines
    user = events.columns[roles.user.column]
    ordered = bool(roles.time.column) or (
        not outcomes.split
        and column_profile.is_in_order(
            connection, events.table, user, events.columns[roles.item.column], events.columns.values()
        )
    )
    features = len(lines["item"]) - 1 + len(lines["user"])
    catalogue = items.columns[roles.item_key] if items is not None else events.columns[roles.item.column]
    moment = events.moments.get(roles.time.column)
    if moment is not None and moment.places:
        moment = None  # an order alone
    added = measure_growth(connection, events, roles.item.column, moment) if moment is not None else 0.0
    shape = training_choices.measure_shape(
        connection, events, roles, outcomes, ordered=ordered, features=features, items=catalogue.distinct, added=added
    )
    against = training_choices.explain_omitted_user_id(shape, roles)
    if against:
        proposal.left_out[user.name] = against
    else:
        why = f"the user{guess_roles.format_dominant(user)}"
        lines["user"].insert(0, feature_lines.hash_line(user, why, hashes=2))
    if moment is not None:
        for kind, different in (("Hour", moment.hours), ("Weekday", moment.weekdays)):
            if different > 1:
                lines["user"].append(Line(f"{kind}({python_literal(roles.time.column)})", "of the event, UTC"))
    history = training_choices.choose_history(shape, roles.item.column)
    if history is not None:
        lines["user"].append(history)
    else:
        proposal.notes.append("Most users have a single positive: there is little to learn about each, and no history.")
    if not lines["user"]:
        lines["user"].append(feature_lines.hash_line(user, "nothing else describes a user", hashes=2))
        proposal.left_out.pop(user.name, None)
    if roles.grouped:
        proposal.notes.append(
            f"No column names a user, so each {roles.user.column!r} stands for one: the model finds what goes "
            "together. Where you know who acted, add a column of users and name it with --user_id."
        )
    proposal.split = training_choices.choose_split(events, roles, outcomes, sources, ordered)
    proposal.sections = training_choices.choose_training(shape, outcomes)
    evaluation = training_choices.choose_evaluation(events, roles)
    if evaluation is not None:
        proposal.sections["evaluation"] = evaluation
    if shape.positives < 1000:
        proposal.notes.append(f"The log has only {shape.positives:,} positives: expect little of any model.")
