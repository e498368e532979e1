"""Writes a synthetic ads log with a known preference model: `twotower synth`.

A click's item is drawn from softmax(true preference) over the items that exist at that time and that the user has not
clicked yet, so ranking unseen items by the true preference is the best any model can do. Impressions without a click
show items by popularity alone. No user clicks an item twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from twotower_tf import artifacts
from twotower_tf.datasets import synthetic_world as world
from twotower_tf.errors import ConfigError
from twotower_tf.output_directory import check_replaceable
from twotower_tf.progress import Progress, silent
from twotower_tf.tables.timestamps import SECONDS_PER_DAY

CHUNK_EVENTS = 1_000_000  # events in memory at once; a file part of each day holds one chunk's
CHUNK_USERS = 50_000
CLICK_RATE = 0.3  # of an average placement
PLACEMENTS = ("feed", "top", "sidebar", "interstitial")
PLACEMENT_SHARES = (0.5, 0.2, 0.2, 0.1)
PLACEMENT_APPEAL = (1.1, 1.3, 0.5, 0.9)  # click rate relative to the average
DEVICES = ("phone", "tablet", "desktop")
OUTPUTS = ("events", "items.csv", "users.csv", "truth.npz")

_REJECTION_PASSES, _REJECTION_ROUNDS = 6, 48
_DENSE_CELLS = 4_000_000

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Chunk:
    """Events of some users, ordered by user, then time. All arrays [num_events] int64; `click` bool."""

    user: Ints
    day: Ints
    second: Ints
    click: npt.NDArray[np.bool_]
    placement: Ints


def write_synthetic_log(
    output: Path,
    *,
    events: int = 200_000,
    users: int = 5_000,
    items: int = 1_000,
    days: int = 14,
    seed: int = 17,
    format: Literal["csv", "parquet"] = "csv",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Writes `events/dt=YYYYMMDD/part-*`, `items.csv`, `users.csv` and `truth.npz` into `output`, by one rename.

    `truth.npz` holds user_id [num_users], user_vector [num_users, d] float32, item_id [num_items], item_vector
    [num_items, d] float32 and item_bias [num_items] float32; the true preference is
    user_vector . item_vector + item_bias. Memory grows with users and items, not with events. Equal arguments give
    equal bytes.

    Args:
        output: directory to write. An earlier synthetic log there is replaced.
        events: number of impressions, clicked or not.
        users: size of the population; in a short log some never appear.
        items: size of the catalogue; some items are created during the log.
        days: length of the log.
        seed: of the random generators.
        format: of the event files.
        progress: receives the number of events written.

    Returns:
        the numbers of events, clicks, users, items, new_items, days and files, and output.

    Raises:
        ConfigError: for a size below 1 (items: below 10) or an unknown format.
        DataError: where `output` has files that are not an earlier synthetic log.
    """
    _check_sizes({"events": events, "users": users, "days": days}, items, format)
    output = output.resolve()
    check_replaceable(output, OUTPUTS, "truth.npz", "a synthetic log")
    streams = [np.random.default_rng([seed, part]) for part in range(4)]
    space = world.make_space(streams[0])
    catalogue = world.make_items(streams[1], space, items, days)
    people = world.make_users(streams[2], space, users, days)
    counts = streams[3].multinomial(events, people.activity)
    sampler = _ClickSampler(catalogue)
    clicks = written = files = 0
    with artifacts.atomic_directory(output, replace=True) as directory:
        for day in range(days):
            _name_day_directory(directory, day).mkdir(parents=True)
        for number, (first, last) in enumerate(_divide_users(counts)):
            rng = np.random.default_rng([seed, 4, number])
            chunk = _draw_events(rng, people, counts, first, last, days, sampler.click_limit)
            item = _draw_items(rng, chunk, people, sampler)
            table = _build_events(rng, chunk, item, people, catalogue, written, events)
            for day, part in _divide_days(table, chunk):
                _write(part, _name_day_directory(directory, day) / f"part-{number:05d}.{format}")
                files += 1
            written += len(item)
            clicks += int(chunk.click.sum())
            progress("synth", written, events)
        _write(catalogue.table, directory / "items.csv")
        _write(people.table, directory / "users.csv")
        _write_truth(directory / "truth.npz", people, catalogue)
    return {
        "events": written,
        "clicks": clicks,
        "users": users,
        "items": items,
        "new_items": int((catalogue.created_day > 0).sum()),
        "days": days,
        "files": files,
        "output": str(output),
    }


def _check_sizes(sizes: dict[str, int], items: int, format: str) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ConfigError(f"--{name}: invalid number {value} (expected at least 1)")
    if items < 10:
        raise ConfigError(f"--items: invalid number {items} (expected at least 10)")
    if format not in ("csv", "parquet"):
        raise ConfigError(f"--format: invalid format {format!r} (expected 'csv' or 'parquet')")


# --- impressions and clicks ---------------------------------------------------------------------------------------


def _divide_users(counts: Ints) -> Iterator[tuple[int, int]]:
    """Yields ranges of users whose events fit in memory together."""
    ends = counts.cumsum()
    first = 0
    while first < len(counts):
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + CHUNK_EVENTS, side="right"))
        last = min(max(last, first + 1), first + CHUNK_USERS, len(counts))
        if ends[last - 1] > before:
            yield first, last
        first = last


def _draw_events(
    rng: np.random.Generator, people: world.Users, counts: Ints, first: int, last: int, days: int, click_limit: int
) -> _Chunk:
    """Draws the events of users first..last without their items."""
    user = np.repeat(np.arange(first, last), counts[first:last])
    weekday_weights = np.array([1.0, 1.0, 1.0, 1.05, 1.1, 1.3, 1.25])[np.arange(days) % 7]  # START is a Monday
    passed = np.concatenate([[0.0], weekday_weights.cumsum()])
    start = passed[people.joined_day[user]]
    place = start + rng.random(len(user)) * (passed[-1] - start)
    day = np.searchsorted(passed, place, side="right").clip(1, days) - 1
    hours = 1.0 + 0.8 * np.sin((np.arange(24) - 13) * np.pi / 12)  # most at 19:00, least at 7:00
    second = rng.choice(24, len(user), p=hours / hours.sum()) * 3600 + rng.integers(0, 3600, len(user))
    order = np.lexsort((second, day, user))
    placement = rng.choice(len(PLACEMENTS), len(user), p=PLACEMENT_SHARES)
    appeal = np.array(PLACEMENT_APPEAL) / np.dot(PLACEMENT_APPEAL, PLACEMENT_SHARES)
    click = rng.random(len(user)) < CLICK_RATE * appeal[placement]
    click &= _count_earlier_clicks(user, click) < click_limit
    return _Chunk(user, day[order], second[order], click, placement)


def _count_earlier_clicks(user: Ints, click: npt.NDArray[np.bool_]) -> Ints:
    """Counts the clicks of the same user before each event; `user` is sorted."""
    before: Ints = click.cumsum() - click
    return before - before[np.searchsorted(user, user)]


def _draw_items(rng: np.random.Generator, chunk: _Chunk, people: world.Users, sampler: _ClickSampler) -> Ints:
    """Draws the item of every event, [num_events]."""
    item = np.empty(len(chunk.user), np.int64)
    shown = ~chunk.click
    item[shown] = sampler.draw_popular(rng, chunk.day[shown])
    item[chunk.click] = sampler.draw_preferred(rng, people.vector, chunk.user[chunk.click], chunk.day[chunk.click])
    return item


class _ClickSampler:
    """Draws items exactly from the true distributions, without scoring the whole catalogue.

    A proposal is drawn by group (category and advertiser): the group by an upper bound of its share, the item by
    popularity; it is accepted with the probability that makes the result exact (rejection sampling). Clicks that are
    rejected too often, e.g. of a user who has clicked nearly all preferred items, are drawn from the full softmax.
    """

    def __init__(self, items: world.Items) -> None:
        self._vector, self._bias, self._created = items.vector, items.bias, items.created_day
        # No user exhausts the catalogue: at most half of the items that exist at the start are clicked.
        self.click_limit = max(1, int((items.created_day <= 0).sum()) // 2)
        self._order = np.argsort(items.group, kind="stable")
        bounds = np.searchsorted(items.group[self._order], np.arange(items.group.max() + 2))
        self._start = np.concatenate([[0.0], np.exp(items.bias[self._order].astype(np.float64)).cumsum()])
        self._group_start = self._start[bounds]
        sizes = np.diff(bounds)
        self._centre = np.add.reduceat(items.vector[self._order], bounds[:-1], axis=0) / sizes[:, None]
        self._group = items.group
        rest = np.linalg.norm(items.vector - self._centre[items.group], axis=1)
        self._radius = np.maximum.reduceat(rest[self._order], bounds[:-1])

    def draw_popular(self, rng: np.random.Generator, day: Ints) -> Ints:
        """Draws items by popularity among those that exist on `day`, [num_events]."""
        item = np.empty(len(day), np.int64)
        pending = np.arange(len(day))
        while len(pending):
            item[pending] = self._find_items(rng.random(len(pending)) * self._start[-1])
            pending = pending[self._created[item[pending]] > day[pending]]
        return item

    def draw_preferred(self, rng: np.random.Generator, vectors: world.Floats, user: Ints, day: Ints) -> Ints:
        """Draws items by softmax of the true preference among those that exist and that the user did not click before.

        Args:
            rng: random generator.
            vectors: user vectors, [num_users, d] float32.
            user: row of each click's user, sorted, [num_clicks]; a user's clicks in time order.
            day: day of each click, [num_clicks].

        Returns:
            Item rows [num_clicks], distinct for each user.
        """
        item = np.full(len(user), -1, np.int64)
        passes = 0
        while len(pending := np.flatnonzero(item < 0)):
            if passes < _REJECTION_PASSES:
                self._draw_by_rejection(rng, vectors, user, day, item, pending)
            else:
                self._draw_from_all(rng, vectors, user, day, item, pending)
            # Drawing the later of two equal clicks again is sampling without replacement.
            order = np.lexsort((item, user))
            again = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
            item[order[1:][again]] = -1
            passes += 1
        return item

    def _find_items(self, mass: npt.NDArray[np.float64]) -> Ints:
        """Returns the items at positions of the cumulated popularity."""
        place = np.searchsorted(self._start, mass, side="right") - 1
        item: Ints = self._order[place.clip(0, len(self._order) - 1)]
        return item

    def _draw_by_rejection(
        self, rng: np.random.Generator, vectors: world.Floats, user: Ints, day: Ints, item: Ints, pending: Ints
    ) -> None:
        """Fills `item[pending]` by rejection sampling; -1 remains where no round accepted an item."""
        first = int(user[0])
        taste = vectors[first : int(user[-1]) + 1]
        slack = np.linalg.norm(taste, axis=1)[:, None] * self._radius
        share = np.exp(taste @ self._centre.T + slack) * np.diff(self._group_start)
        share = (share.astype(np.float64).T / share.sum(axis=1)).T.cumsum(axis=1)
        share[:, -1] = 1.0
        ladder = (share + np.arange(len(taste))[:, None]).ravel()  # one sorted array for all users
        groups = len(self._radius)
        for _ in range(_REJECTION_ROUNDS):
            row = user[pending] - first
            group = np.searchsorted(ladder, row + rng.random(len(pending)), side="right") - row * groups
            group = group.clip(0, groups - 1)
            low, high = self._group_start[group], self._group_start[group + 1]
            found = self._find_items(low + rng.random(len(pending)) * (high - low))
            rest = self._vector[found] - self._centre[group]
            accept = np.exp(np.einsum("nd,nd->n", taste[row], rest) - slack[row, group])
            good = (rng.random(len(pending)) < accept) & (self._created[found] <= day[pending])
            good &= self._group[found] == group  # rounding may step over a group's edge
            item[pending[good]] = found[good]
            pending = pending[~good]
            if not len(pending):
                return

    def _draw_from_all(
        self, rng: np.random.Generator, vectors: world.Floats, user: Ints, day: Ints, item: Ints, pending: Ints
    ) -> None:
        """Fills `item[pending]` from the full softmax (Gumbel maximum), leaving earlier clicks out."""
        begin = np.searchsorted(user, user[pending])
        block = max(1, _DENSE_CELLS // len(self._bias))
        for start in range(0, len(pending), block):
            part = pending[start : start + block]
            score = vectors[user[part]] @ self._vector.T + self._bias + rng.gumbel(size=(len(part), len(self._bias)))
            score[self._created[None, :] > day[part][:, None]] = -np.inf
            for row, (low, high) in enumerate(zip(begin[start : start + block], part, strict=True)):
                before = item[low:high]
                score[row, before[before >= 0]] = -np.inf
            item[part] = score.argmax(axis=1)


# --- writing ------------------------------------------------------------------------------------------------------


def _build_events(
    rng: np.random.Generator,
    chunk: _Chunk,
    item: Ints,
    people: world.Users,
    catalogue: world.Items,
    first_id: int,
    total: int,
) -> pa.Table:
    """Builds the table of the chunk's events in time order."""
    device = (chunk.user * 7 // 3 + (rng.random(len(item)) < 0.15)) % len(DEVICES)  # people mostly use one device
    order = np.lexsort((chunk.second, chunk.day))
    table = pa.table(
        {
            "user_id": people.ids.take(pa.array(chunk.user[order])),
            "item_id": catalogue.ids.take(pa.array(item[order])),
            "timestamp": pa.array((world.START + SECONDS_PER_DAY * chunk.day + chunk.second)[order]),
            "click": pa.array(chunk.click[order].astype(np.int8)),
            "device_type": world.insert_missing(rng, "device_type", world.take_names(DEVICES, device[order])),
            "placement": world.take_names(PLACEMENTS, chunk.placement[order]),
        }
    )
    ids = pc.utf8_lpad(pc.cast(pa.array(np.arange(first_id, first_id + len(item))), pa.string()), len(str(total)), "0")
    return table.add_column(0, "event_id", pc.binary_join_element_wise("e", ids, ""))


def _divide_days(table: pa.Table, chunk: _Chunk) -> Iterator[tuple[int, pa.Table]]:
    """Yields the slices of a table in time order, one per day."""
    counts = np.bincount(chunk.day)
    starts = counts.cumsum() - counts
    for day in np.flatnonzero(counts):
        yield int(day), table.slice(int(starts[day]), int(counts[day]))


def _name_day_directory(directory: Path, day: int) -> Path:
    date = np.datetime64(world.START + SECONDS_PER_DAY * day, "s").astype("datetime64[D]")
    return directory / "events" / f"dt={str(date).replace('-', '')}"


def _write(table: pa.Table, path: Path) -> None:
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        with path.open("wb") as file:
            file.write(",".join(table.column_names).encode() + b"\n")
            # No value here needs quotes; Arrow would quote every text.
            csv.write_csv(table, file, csv.WriteOptions(include_header=False, quoting_style="none"))


def _write_truth(path: Path, people: world.Users, catalogue: world.Items) -> None:
    np.savez(
        path,
        user_id=np.asarray(people.ids.to_pylist(), dtype=np.str_),
        user_vector=people.vector,
        item_id=np.asarray(catalogue.ids.to_pylist(), dtype=np.str_),
        item_vector=catalogue.vector,
        item_bias=catalogue.bias,
    )
