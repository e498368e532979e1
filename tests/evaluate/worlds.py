"""Small data sets for the evaluation's tests, and slow oracles that share no code with it."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa


class FakePrepared:
    """The part of `Prepared` that evaluation reads, from lists of (user, item, label), an hour apart.

    Users with an even row are "f", of every third nothing is known; items have the tags "t<row % 2>" and "t<row % 3>".
    """

    def __init__(self, num_users, num_items, train=(), valid=(), test=()):
        self.num_users, self.num_items = num_users, num_items
        self.splits = {"train": list(train), "valid": list(valid), "test": list(test)}
        self.paths = SimpleNamespace(
            examples=lambda split: Path("prepared/examples") / split, columns=Path("prepared/columns.json")
        )

    def items(self, columns):
        """Item 3 is "i3", called "Item 3"; every fifth item has no name."""
        rows = range(self.num_items)
        names = [None if row % 5 == 0 else f"Item {row}" for row in rows]
        tags = [f"t{row % 2}|t{row % 3}" for row in rows]
        table = pa.table({"item_id": [f"i{row}" for row in rows], "item_name": names, "tags": tags})
        return table.select(columns)

    def read_rows(self, split, columns, rows):
        genders = [None if user % 3 == 0 else "mf"[user % 2 == 0] for user, _, _ in self.splits[split]]
        return pa.table({"user.gender": pa.array(genders, pa.string())}).select(columns).take(rows)

    def user_ids(self):
        return np.array([f"u{row}" for row in range(self.num_users)], object)

    def num_rows(self, split):
        return len(self.splits[split])

    def num_positives(self, split):
        return sum(label for _, _, label in self.splits[split])

    def columns(self, split, names):
        rows = np.array(self.splits[split], np.int64).reshape(-1, 3)
        before = {"train": 0, "valid": len(self.splits["train"])}
        hours = np.arange(len(rows)) + before.get(split, len(self.splits["train"]) + len(self.splits["valid"]))
        rows = np.column_stack([rows, 1_700_000_000 + 3600 * hours])
        kinds = {"user_row": np.int32, "item_row": np.int32, "label": np.int8, "timestamp": np.int64}
        places = {name: place for place, name in enumerate(kinds)}
        return {name: rows[:, places[name]].astype(kinds[name]) for name in names}

    def _positives(self, which):
        events = self.splits["train"] + (self.splits["valid"] if which == "seen" else [])
        return [[item for user, item, label in events if user == each and label] for each in range(self.num_users)]

    def sequence(self, which):
        return np.array(sum(self._positives(which), []), np.int32)

    def sequence_users(self, which):
        return np.cumsum([0, *map(len, self._positives(which))]).astype(np.int64)

    def train_count(self):
        return np.bincount(self.sequence("train"), minlength=self.num_items).astype(np.int64)


def random_world(rng, num_users=12, num_items=15):
    """Few items and users, so that repeats, users who saw all, and users with nothing held out all occur."""

    def events(count):
        return [
            (int(rng.integers(num_users)), int(rng.integers(num_items)), int(rng.random() < 0.7)) for _ in range(count)
        ]

    return FakePrepared(num_users, num_items, events(60), events(20), events(40))


def query_oracle(prepared, split, query, exclude_seen):
    """(example row, user, relevant items, seen items) of every query, by dictionaries."""
    past = prepared.splits["train"] + (prepared.splits["valid"] if split == "test" else [])
    seen = {user: set() for user in range(prepared.num_users)}
    if exclude_seen:
        for user, item, label in past:
            if label:
                seen[user].add(item)
    asked = {}
    result = []
    for row, (user, item, label) in enumerate(prepared.splits[split]):
        if not label:
            continue
        if query == "event" and item not in seen[user]:
            result.append((row, user, {item}, seen[user]))
        asked.setdefault(user, (row, set()))[1].add(item)
    if query == "user":
        for user in sorted(asked):
            row, items = asked[user]
            if items - seen[user]:
                result.append((row, user, items - seen[user], seen[user]))
    return result


def ordered_metrics(order, relevant, k):
    """recall, ndcg, hit_rate, mrr, map at k of one order of items."""
    hits = [item in relevant for item in order[:k]]
    gain = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
    best = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
    return {
        "recall": sum(hits) / len(relevant),
        "ndcg": gain / best,
        "hit_rate": float(any(hits)),
        "mrr": 1 / (hits.index(True) + 1) if any(hits) else 0.0,
        "map": sum(sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit) / len(relevant),
    }


def every_order(scores, relevant, seen, k):
    """The metrics of one query, averaged over every order that its scores allow: for a handful of items."""
    items = [item for item in range(len(scores)) if item not in seen]
    allowed = [
        order
        for order in itertools.permutations(items)
        if all(scores[first] >= scores[then] for first, then in itertools.pairwise(order))
    ]
    values = [ordered_metrics(order, relevant, k) for order in allowed]
    return {name: sum(value[name] for value in values) / len(values) for name in values[0]}


def metric_oracle(scores, relevant, seen, k):
    """The same for any number of items, group by group of equal scores; None where nothing is relevant."""
    if not relevant:
        return None
    levels = {}
    for item, score in enumerate(scores):
        if item not in seen:
            levels.setdefault(score, []).append(item)
    found = gain = first = precisions = 0.0
    better = 0  # relevant items of higher scores
    none = 1.0  # the probability of no relevant item so far
    above = 0
    for score in sorted(levels, reverse=True):
        size, wanted = len(levels[score]), sum(item in relevant for item in levels[score])
        for place in range(above, min(k, above + size)):
            found += wanted / size
            gain += wanted / size / math.log2(place + 2)
            if wanted:
                up_to = better + 1 + (place - above) * (wanted - 1) / max(1, size - 1)
                precisions += wanted / size * up_to / (place + 1)
            # that the first relevant item of the group is here: the other ones behind it
            behind = above + size - place - 1
            if wanted:
                first += none * math.comb(behind, wanted - 1) / math.comb(size, wanted) / (place + 1)
        within = max(0, min(k, above + size) - above)
        none *= math.comb(size - wanted, within) / math.comb(size, within)
        above += size
        better += wanted
    best = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
    return {
        "recall": found / len(relevant),
        "ndcg": gain / best,
        "hit_rate": 1.0 - none,
        "mrr": first,
        "map": precisions / len(relevant),
    }
