"""Chooses the split, the towers, the loss and the training loop by the kind of log.

docs/benchmarks.md has what was measured of these choices on validation data. In short: ids alone want linear towers,
features want hidden layers with dropout; a history says more of a user with few positives than the hash of an id, and
where many of them are in order, a transformer says most; ids alone without an order want the mean of the items taken;
training stops when validation no longer improves; a batch is a share of the positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twotower_tf.number_texts import format_percent
from twotower_tf.onboarding.column_profile import ONE, TableProfile
from twotower_tf.onboarding.feature_lines import Line
from twotower_tf.onboarding.guess_roles import Roles
from twotower_tf.onboarding.outcome_columns import Outcomes
from twotower_tf.prepare import date_split
from twotower_tf.sql import Connection
from twotower_tf.tables.duckdb_engine import fetch_row
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.values import python_literal

_FEWEST_DAYS = 4  # of directories, for a split by whole days
_HELD_OUT = 0.1  # of the log, each for validation and test
_TRAINED = 1 - 2 * _HELD_OUT
_FEWEST_VALIDATED = 30  # positives that can choose an epoch
_SMALLEST_BATCH, _LARGEST_BATCH = 16, 1024
_STEPS = 100  # of an epoch, at least
_MANY_POSITIVES = 100  # of the median user, from which the id is worth an embedding next to a history
# Ordered ids alone with so many positives, and so many of the median user, have a transformer if the catalogue is small
# enough to be compared with as a whole: minutes of training for each hundred thousand.
_READ_IN_ORDER = (200_000, 2_000_000)
_LONG_ENOUGH = 20
_WHOLE_CATALOGUE = 20_000
_LARGEST_WINDOWS, _WINDOW_STEPS = 32, 250  # windows of a batch, and steps of an epoch, at least
_LIST_COLUMNS = 4096  # items that all users of a step are compared with, where ids have no order
_LIST_USERS = 256  # of such a step, at most
_GROWING = 0.05  # of the events are of items that were added, at least, where that is corrected for
_RICH = 2  # features in addition to ids and histories, from which towers have hidden layers


@dataclass(frozen=True)
class LogShape:
    """How many positives a log has, and of whom.

    Attributes:
        positives: number of events that are positives.
        users: number of users with one.
        median: positives of the median user among them.
        long: positives of the user at the 90th percentile.
        items: number of items.
        ordered: whether times or the order of the file's rows order the events.
        features: number of features in addition to ids, histories and times.
        added: share of the events whose items were added while the log ran; 0 without times.
    """

    positives: int
    users: int
    median: float
    long: float
    items: int
    ordered: bool
    features: int
    added: float = 0.0

    @property
    def in_sequences(self) -> bool:
        """Whether a transformer is worth its time."""
        many = _READ_IN_ORDER[0] <= self.positives <= _READ_IN_ORDER[1] and self.median >= _LONG_ENOUGH
        return self.ordered and many and self.features < _RICH and self.items <= _WHOLE_CATALOGUE

    @property
    def in_lists(self) -> bool:
        """Whether it is who took what, and nothing else."""
        return not self.ordered and not self.features and self.repeated

    @property
    def length(self) -> int:
        """How many events of a user a long history holds."""
        return max(50, min(200, 10 * round(self.long / 10)))

    @property
    def repeated(self) -> bool:
        """Whether a typical user has a history."""
        return self.positives > 1.5 * self.users


def measure_shape(
    connection: Connection,
    events: TableProfile,
    roles: Roles,
    outcomes: Outcomes,
    *,
    ordered: bool,
    features: int,
    items: int,
    added: float,
) -> LogShape:
    """Counts the positives of each user; a predicate is taken into account by its share of the events."""
    table, holds, share = events.table, "true", outcomes.positive_share
    if outcomes.label:
        holds = f"lower({table.text(outcomes.label)}) IN {ONE}"
        share /= max(1e-9, next(choice.share for choice in outcomes.chosen if choice.field == "label"))
    id_text = table.text(roles.user.column)
    positives, users, median, long = fetch_row(
        connection,
        f"""
        WITH counts AS (
            SELECT count(*) AS n FROM {table.name} WHERE {holds} AND {id_text} IS NOT NULL GROUP BY {id_text}
        )
        SELECT coalesce(sum(n), 0), count(*), coalesce(median(n), 0), coalesce(quantile_cont(n, 0.9), 0) FROM counts
        """,
    )
    return LogShape(int(positives * share), users, median * share, long * share, items, ordered, features, added)


def choose_split(
    events: TableProfile, roles: Roles, outcomes: Outcomes, sources: Sequence[InputFile], ordered: bool
) -> Line:
    """Chooses the split of the log; `ordered` says that times or the order of the file's rows order the events."""
    partitions = {date_split.parse_day(dict(source.partition).get(date_split.PARTITION, "")) for source in sources}
    days = sorted(day for day in partitions if day is not None)
    dated = len(days) if len(days) == len(partitions) else 0
    moment = events.moments.get(roles.time.column)
    if outcomes.split:
        missing = {"train", "valid", "test"} - set(outcomes.split_values)
        lacking = f"; no row is {' or '.join(sorted(missing))}" if missing else ""
        return Line(f"GivenSplit(column={python_literal(outcomes.split)})", f"the log has its own split{lacking}")
    if dated >= _FEWEST_DAYS and (moment is None or not moment.places):
        return Line(
            f"DateSplit(train_days={(days[-1] - days[0]).days - 1}, valid_days=1, test_days=1)",
            f"the directories have {dated} days: the last is test, the one before it validation",
        )
    if moment is None and ordered:
        why = "the order of each user's rows in the file: the last event is test, the one before it validation"
        return Line("LeaveLastOut()", why)
    if moment is None:
        return Line("RandomSplit(valid_fraction=0.1, test_fraction=0.1)", "without times the log is split at random")
    if moment.places:
        return Line("LeaveLastOut()", "positions per user: the last event is test, the one before it validation")
    return Line("TimeSplit(valid_fraction=0.1, test_fraction=0.1)", "the last tenth of the log is test")


def explain_omitted_user_id(shape: LogShape, roles: Roles) -> str:
    """Explains why the user's id is not a feature; "" where it is one."""
    if roles.grouped:
        return "an id of one basket or visit, which never comes again"
    if not shape.repeated:
        return "most users have a single positive: an embedding of the id learns nothing that the next one needs"
    if shape.in_sequences:
        return "the history in its order says more than an embedding of the id; add Hash(...) of it to compare"
    if shape.median < _MANY_POSITIVES:
        return (
            f"the median user has {shape.median:.0f} positives: the history says more than an embedding of the id; "
            "add Hash(...) of it to compare"
        )
    return ""


def choose_history(shape: LogShape, item: str) -> Line | None:
    """Chooses the history of the user tower; None where users have no past.

    Of ordered ids alone, recent items say most of the next one; next to features, the history says what a user likes.
    """
    if not shape.repeated:
        return None
    if shape.in_sequences:
        encoder = 'encoder=SelfAttention(block="ligr", hidden=128)'
        why = "a transformer over the user's positives before the event, as in configs/movielens_1m.py"
        return Line(f"History(of={python_literal(item)}, length={shape.length}, {encoder})", why)
    length = 50 if shape.ordered else shape.length
    what = f"the user's {'positives before the event' if shape.ordered else 'other positives: the log has no order'}"
    encoder = ', encoder="recency"' if shape.ordered and shape.features < _RICH else ""
    return Line(f"History(of={python_literal(item)}, length={length}{encoder})", what)


def choose_training(shape: LogShape, outcomes: Outcomes) -> dict[str, Line]:
    """Chooses the fields `model`, `loss` and `train`.

    Args:
        shape: of the log.
        outcomes: of the log; a split without validation rows cannot choose an epoch.
    """
    validated = 0.0 if outcomes.split and "valid" not in outcomes.split_values else shape.positives * _HELD_OUT
    if shape.in_lists:
        return _train_on_lists(shape, validated >= _FEWEST_VALIDATED)
    if shape.in_sequences:
        return _train_on_sequences(shape, validated >= _FEWEST_VALIDATED)
    if shape.features >= _RICH:
        towers = Line(
            "ModelConfig(embedding_dim=64, vector_dim=64, item_hidden=(128,), user_hidden=(128,), dropout=0.3)",
            "with features of several kinds, a hidden layer with dropout",
        )
    else:
        towers = Line(
            "ModelConfig(embedding_dim=64, vector_dim=64, item_hidden=(), user_hidden=())",
            "of ids alone, linear towers",
        )
    trained = shape.positives * _TRAINED
    batch = _SMALLEST_BATCH
    while batch < _LARGEST_BATCH and 2 * batch * _STEPS <= trained:
        batch *= 2
    while batch > 1 and 4 * batch > trained:
        batch //= 2
    if validated < _FEWEST_VALIDATED:
        why = "too few validation positives to choose an epoch: the last is kept"
        train = Line(f'TrainConfig(batch_size={batch}, epochs=5, monitor="")', why)
    else:
        why = "training stops after three epochs without a better recall"
        train = Line(f"TrainConfig(batch_size={batch}, epochs=20, patience=3)", why)
    return {"model": towers, "loss": _choose_softmax(shape), "train": train}


def _choose_softmax(shape: LogShape) -> Line:
    if shape.added < _GROWING:
        return Line("InBatchSoftmax(temperature=0.1)", "")
    why = f"{format_percent(shape.added)} of the events are of items that were added while the log ran"
    return Line("InBatchSoftmax(temperature=0.1, growing=True)", why)


def _train_on_sequences(shape: LogShape, validated: bool) -> dict[str, Line]:
    """Chooses towers, loss and training of a transformer: what configs/movielens_1m.py was measured with."""
    windows, batch = max(shape.users, shape.positives * _TRAINED / shape.length), _LARGEST_WINDOWS
    while batch > 1 and batch * _WINDOW_STEPS > windows:
        batch //= 2
    rates = "initial_lr=0.002, table_optimizer=LazyAdam(initial_lr=0.002), lr_decay_rate=0.94, warmup_steps=100"
    monitor = "" if validated else ', monitor=""'
    return {
        "model": Line(
            "ModelConfig(embedding_dim=64, vector_dim=64, initial_scale=0.1)", "small embeddings learn faster"
        ),
        "loss": Line("FullSoftmax(temperature=0.1, learn_temperature=True)", "compares with the whole catalogue"),
        "train": Line(f"TrainConfig(batch_size={batch}, epochs=30, {rates}{monitor})", "windows of users' sequences"),
    }


def _train_on_lists(shape: LogShape, validated: bool) -> dict[str, Line]:
    """Chooses towers, loss and training of ids without an order; docs/benchmarks.md has what they reach on gowalla."""
    batch = _LIST_USERS
    while batch > 1 and 4 * batch > shape.users:
        batch //= 2
    stop = "patience=3" if validated else 'monitor=""'
    drawn = min(shape.items, _LIST_COLUMNS)
    return {
        "model": Line(
            'ModelConfig(embedding_dim=128, vector_dim=128, combine="add")', "a user is the mean of the items taken"
        ),
        "loss": Line("BilateralSoftmax()", ""),
        "sampling": Line(f"SamplingConfig((Uniform(per_positive={drawn}, shared=True),))", ""),
        "train": Line(
            f'TrainConfig(rows="user", batch_size={batch}, epochs=20, {stop}, lr_decay_rate=0.89, '
            "table_optimizer=LazyAdam(initial_lr=0.005))",
            "a training row is a user with all positives",
        ),
    }


def choose_evaluation(events: TableProfile, roles: Roles) -> Line | None:
    """Chooses the evaluation where the default does not fit."""
    user = events.columns[roles.user.column]
    if user.top and user.top[0][1] > 0.3:
        return Line(
            'EvaluationConfig(query="event", exclude_seen=False)',
            f"{user.top[0][0]!r} stands for many users: the items that one has seen are not those of the next",
        )
    return None
