"""Finds the columns with the outcome of an event: labels, actions, ratings, counts, and a given split.

They are known only after the event, so none is a feature. Each becomes a choice of `data.label`, `data.positive` or
`data.weight`: written where the data leave no doubt, and as a commented line to uncomment elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from twotower_tf.number_texts import format_number, format_percent
from twotower_tf.onboarding import usual_names
from twotower_tf.onboarding.column_profile import Profile, TableProfile
from twotower_tf.onboarding.guess_roles import is_decided
from twotower_tf.sql import Connection, quote_identifier, quote_literal
from twotower_tf.tables.values import python_literal

_FEW = 20  # values of an action, at most
_RATINGS = 21  # values of a rating, at most: ten stars in halves, and 0
_GOOD = 0.8  # of the highest rating
_MOST_NEGATIVE = 0.5  # of quantities, for them to be what is taken back
_MOST_ONES = 0.8  # of a label
_SQL_WORDS = frozenset(
    "all and any array as asc both case cast check collate column constraint create default desc distinct do else end "
    "except false fetch for foreign from grant group having in intersect into lateral leading limit not null offset on "
    "only or order placing primary qualify references returning select show some table then to trailing true union "
    "unique using when where window with".split()
)
_NO_LABEL = "every event counts as a positive"


@dataclass(frozen=True)
class Choice:
    """A field of the data for an outcome.

    Attributes:
        field: of `DataConfig`.
        code: its value as Python code.
        comment: what it means.
        share: of the events that are positives with it, where that is known.
    """

    field: str
    code: str
    comment: str
    share: float = 1.0


@dataclass
class Outcomes:
    """The outcome columns of a log.

    Attributes:
        label: column of labels, or "".
        label_why: the reason.
        chosen: fields that are set.
        offered: fields that are written as comments.
        split: column of a given split, or "".
        split_values: values of that column.
        left_out: reason by column; none of them is a feature.
    """

    label: str = ""
    label_why: str = _NO_LABEL
    chosen: list[Choice] = field(default_factory=list)
    offered: list[Choice] = field(default_factory=list)
    split: str = ""
    split_values: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def positive_share(self) -> float:
        """The share of the events that are positives."""
        product = 1.0
        for choice in self.chosen:
            product *= choice.share
        return product


def find_outcomes(
    connection: Connection, events: TableProfile, ids: Sequence[str], taken: Collection[str], label: str = ""
) -> Outcomes:
    """Finds the outcomes of the events.

    Args:
        connection: where the log is.
        events: the log.
        ids: columns of the user and the item; what they decide describes them and is not an outcome.
        taken: columns in other roles.
        label: column of labels that the user has named, or "".
    """
    found = Outcomes()
    free = {name: column for name, column in events.columns.items() if name not in taken and name not in ids}
    binary, others = [], []
    for name, column in free.items():
        if name == label or not column.present or column.plural or column.nested:
            continue
        if usual_names.VOTE_WORDS & set(column.tokens) and column.numbers == column.present:
            continue  # of readers of a review, long after the event
        if _is_split(column):
            _add_split(found, column)
        elif column.is_binary or (column.binary == column.present and _is_label_name(column) and column.missing):
            binary.append(column)
        else:
            others.append(column)
    binary = [column for column in binary if _is_outcome(connection, events, column, ids)]
    _add_labels(found, binary, label and free.get(label))
    for column in others:
        choices = _list_uses(column)
        if choices and not is_decided(connection, events, column, ids):
            found.left_out[column.name] = "it is an outcome of the event; see the lines above for its use"
            for choice, sure in choices:
                (found.chosen if sure else found.offered).append(choice)
    return found


def _is_split(column: Profile) -> bool:
    values = {value.lower() for value, _ in column.top}
    return (
        column.listed
        and bool(usual_names.SPLITS & set(column.tokens))
        and values <= usual_names.SPLIT_VALUES
        and len(values) > 1
    )


def _add_split(found: Outcomes, column: Profile) -> None:
    values = tuple(value for value, _ in column.top)
    if set(values) <= {"train", "valid", "test"} and "train" in values:
        found.split, found.split_values = column.name, values
        found.left_out[column.name] = "the split (data.split)"
        return
    found.left_out[column.name] = (
        f"it may be a given split, with the values {', '.join(map(repr, values))}; "
        "GivenSplit reads train, valid and test: write these to use it"
    )


def _is_label_name(column: Profile) -> bool:
    words = set(column.tokens)
    return not usual_names.describes_past(column) and (
        column.plain in usual_names.LABELS or bool(words & (usual_names.LABEL_WORDS | usual_names.REJECTION_WORDS))
    )


def _is_outcome(connection: Connection, events: TableProfile, column: Profile, ids: Sequence[str]) -> bool:
    """Tests whether a column of 0 and 1 is an outcome, and not a circumstance or a property of the user or the item."""
    if column.plain in usual_names.LABELS:
        return True
    if usual_names.describes_past(column):
        return False
    if usual_names.CIRCUMSTANCES & set(column.tokens) and not _is_label_name(column):
        return False
    return not is_decided(connection, events, column, ids)


def _add_labels(found: Outcomes, binary: Sequence[Profile], given: Profile | str | None) -> None:
    """Chooses the label among columns of 0 and 1: by its name, or because it is the only one."""
    rejections = [c for c in binary if set(c.tokens) & usual_names.REJECTION_WORDS]
    wishes = [c for c in binary if c not in rejections]
    ranked = sorted(wishes, key=_rank_label)
    if isinstance(given, Profile) and given.is_binary and given.labels < given.present:
        _choose_label(found, given)
    elif isinstance(given, Profile):
        found.label, found.label_why = given.name, "as you said"
        found.chosen.append(Choice("label", python_literal(given.name), "as you said", given.ones))
    elif ranked and _is_clear(ranked):
        _choose_label(found, ranked.pop(0))
    elif ranked:
        names = ", ".join(repr(column.name) for column in ranked)
        what = "are 0 or 1 and may be labels" if len(ranked) > 1 else "is 0 or 1 and may be a label"
        found.label_why = f"{names} {what}: {_NO_LABEL} unless you uncomment one"
    else:
        found.label_why = f"no column of 0 and 1 is the outcome of the event: {_NO_LABEL}"
    for column in ranked:
        what = f"{format_percent(column.ones)} of them {column.one}"
        if column.labels == column.present:
            why = f"0 or 1, {what}; the label instead, if 1 is what should be found"
            found.offered.append(Choice("label", python_literal(column.name), why))
        else:
            found.offered.append(Choice("positive", _is_one(column), f"yes or no, {what}"))
        found.left_out[column.name] = "it is likely an outcome of the event; see the lines above for its use"
    for column in rejections:
        why = f"{format_percent(column.ones)} of the events are {column.name!r}: drops them"
        found.offered.append(Choice("exclude", _is_one(column), why))
        found.left_out[column.name] = "a rejection, known only after the event; see the lines above for its use"


def _is_clear(ranked: Sequence[Profile]) -> bool:
    """Tests whether the first of the ranked columns is the label: by its name, or because it is the only one.

    Without a label's own name, a column that is 1 nearly everywhere or is named after a circumstance is a check, as
    `verified_purchase`; `reordered` is known before.
    """
    rank = _rank_label(ranked[0])
    if rank < len(usual_names.LABELS):
        return True
    if (usual_names.CIRCUMSTANCES | usual_names.REPEAT_WORDS) & set(ranked[0].tokens):
        return False
    return (rank == len(usual_names.LABELS) or len(ranked) == 1) and ranked[0].ones <= _MOST_ONES


def _rank_label(column: Profile) -> int:
    """Ranks columns of 0 and 1 by their names; those without a label's word come last."""
    if column.plain in usual_names.LABELS:
        return usual_names.LABELS.index(column.plain)
    return len(usual_names.LABELS) + (not _is_label_name(column))


def _choose_label(found: Outcomes, column: Profile) -> None:
    share = column.ones * (1 - column.missing)
    if column.missing > 0 or column.distinct == 1 or column.labels < column.present:
        others = " or ".join([value for value, _ in column.top if value != column.one] or ["missing"])
        why = f"{column.name} is {column.one} in {format_percent(share)} of the rows and {others} in the others"
        found.chosen.append(Choice("positive", _is_one(column), why, share))
        found.label_why = f"{_NO_LABEL} that satisfies data.positive"
        found.left_out[column.name] = "the outcome of the event (data.positive)"
        return
    usual = _rank_label(column) <= len(usual_names.LABELS)
    kind = "a usual name for a label" if usual else "the only such column of the event. Check it"
    found.label = column.name
    found.label_why = f"0 or 1 in every row, {format_percent(share)} of them 1; {kind}"
    found.chosen.append(Choice("label", python_literal(column.name), found.label_why, share))


def _name_sql(column: Profile) -> str:
    """Returns a column's name in SQL, in quotes where it needs them."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", column.name) and column.name.lower() not in _SQL_WORDS
    return column.name if plain else quote_identifier(column.name)


def _value_sql(column: Profile, value: str) -> str:
    """Returns SQL of a value, typed as `user_sql.infer_types` types the column."""
    return value if column.numbers == column.present else quote_literal(value)


def _is_one(column: Profile) -> str:
    """Returns code of the predicate that a column of 0 and 1 is 1."""
    return python_literal(f"{_name_sql(column)} = {_value_sql(column, column.one)}")


def _list_uses(column: Profile) -> list[tuple[Choice, bool]]:
    """Lists the uses of a column of actions, ratings or counts, each with whether it is beyond doubt."""
    if usual_names.describes_past(column):
        return []
    values = [usual_names.plain_value(value) for value, _ in column.top]
    if column.listed and 2 <= column.distinct <= _FEW:
        known = sum(value in usual_names.KNOWN_ACTIONS for value in values)
        textual = column.numbers < column.present
        if textual and (2 * known > len(values) or (known and usual_names.is_action_name(column))):
            return _use_actions(column)
        if usual_names.is_action_name(column) and not {"status", "response"} & set(column.tokens):
            return [(_list_values(column), False)]
    words = set(column.tokens)
    if column.numbers < column.present:
        return []
    if column.low < -1 or (column.low < 0 and words & usual_names.QUANTITY_WORDS):
        return _use_signed(column)
    if words & usual_names.RATING_WORDS and column.distinct <= _RATINGS and column.distinct > 1:
        return _use_ratings(column)
    counts = (words & usual_names.COUNT_WORDS and column.low >= 0) or words & usual_names.RATING_WORDS
    return _use_counts(column) if counts and column.distinct > 1 else []


def _use_actions(column: Profile) -> list[tuple[Choice, bool]]:
    name = _name_sql(column)
    kinds = {value: usual_names.plain_value(value) for value, _ in column.top}
    shares = dict(column.top)

    def among(*groups: frozenset[str]) -> list[str]:
        return [value for value, plain in kinds.items() if any(plain in group for group in groups)]

    listing = _format_shares(column)
    found: list[tuple[Choice, bool]] = []
    rejected, shown = among(usual_names.REJECTED), among(usual_names.SHOWN)
    unwished = [*rejected, *shown]
    taken, wanted = among(usual_names.TAKEN), among(usual_names.WANTED, usual_names.TAKEN)
    if unwished and len(unwished) < len(kinds):
        code = f"{name} NOT IN ({_list_sql(unwished)})"
        share = 1 - sum(shares[value] for value in unwished)
        found.append((Choice("positive", python_literal(code), listing, share), True))
    for group in (taken, wanted):
        if group and len(group) < len(kinds) - len(unwished) and (group is taken or group != taken):
            code = f"{name} IN ({_list_sql(group)})"
            share = sum(shares[value] for value in group)
            found.append((Choice("positive", python_literal(code), listing, share), False))
    if wanted and len(wanted) < len(kinds) - len(unwished):
        cases = [f"WHEN {name} IN ({_list_sql(taken)}) THEN 5"] if taken else []
        rest = [value for value in wanted if value not in taken]
        cases += [f"WHEN {name} IN ({_list_sql(rest)}) THEN 3"] if rest else []
        why = "weighs stronger wishes more"
        found.append((Choice("weight", python_literal(f"CASE {' '.join(cases)} ELSE 1 END"), why), False))
    return found or [(_list_values(column), False)]


def _list_values(column: Profile) -> Choice:
    """Offers the most frequent value of an action column as the positive one."""
    code = f"{_name_sql(column)} IN ({_value_sql(column, column.top[0][0])})"
    why = f"{_format_shares(column)}; name those that count as wishes"
    return Choice("positive", python_literal(code), why)


def _format_shares(column: Profile) -> str:
    """Formats the values of a column with their shares."""
    return f"{column.name}: " + ", ".join(f"{value} {format_percent(share)}" for value, share in column.top)


def _list_sql(values: Sequence[str]) -> str:
    return ", ".join(map(quote_literal, values))


def _use_ratings(column: Profile) -> list[tuple[Choice, bool]]:
    code = f"{_name_sql(column)} >= {format_number(_GOOD * column.high, '')}"
    return [(Choice("positive", python_literal(code), f"{_format_range(column)}; good ratings alone"), False)]


def _use_signed(column: Profile) -> list[tuple[Choice, bool]]:
    """Lists the uses of ratings around 0, and of quantities of which the negative ones take something back."""
    words, code = set(column.tokens), python_literal(f"{_name_sql(column)} > 0")
    if words & usual_names.RATING_WORDS:
        return [(Choice("positive", code, f"{_format_range(column)}; good ratings alone"), False)]
    if words & usual_names.COUNT_WORDS and column.negative < _MOST_NEGATIVE:
        why = f"{_format_range(column)}; the negative ones, {format_percent(column.negative)}, take something back"
        sure = bool(words & usual_names.QUANTITY_WORDS)
        return [(Choice("positive", code, why, 1 - column.negative), sure)]
    return []


def _use_counts(column: Profile) -> list[tuple[Choice, bool]]:
    name = _name_sql(column)
    spread = _format_range(column)
    found = []
    if column.low >= 0:
        code = f"ln(1 + {name})"
        found.append((Choice("weight", python_literal(code), f"{spread}; weighs larger ones more"), False))
    code = f"{name} > {format_number(column.median, '')}"
    found.append((Choice("positive", python_literal(code), f"{spread}; the larger half alone"), False))
    return found


def _format_range(column: Profile) -> str:
    """Formats the range of a column of numbers."""
    low, high, median = (format_number(value) for value in (column.low, column.high, column.median))
    return f"{column.name}: {low} to {high}, half at most {median}"
