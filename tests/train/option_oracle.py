"""A small log, and what each option of negatives and losses means for it, enumerated from its lines.

Nothing of `sampling` or `model.losses` is used.
"""

import math
import random

import numpy as np

USERS, ITEMS, BATCH, EPOCHS, DIM = 10, 12, 8, 10, 5
DAY = 86_400
SHAPES, COLOURS = ("cube", "ball", "rod"), ("red", "blue")


# --- the log ----------------------------------------------------------------------------------------------------------


def planted_log():
    """Ten users are shown ten of twelve items each, on two pages of five; items 0 to 3 are clicked most often."""
    chance = random.Random(5)
    rows = []
    for user in range(USERS):
        for number, item in enumerate(chance.sample(range(ITEMS), 10)):
            click = chance.random() < (0.75 if item < 4 else 0.25)
            rows.append(
                {
                    "user": user,
                    "item": item,
                    "time": 1_700_000_000 + chance.randrange(20 * DAY) if chance.random() < 0.9 else "",
                    "click": int(click),
                    "hidden": int(not click and chance.random() < 0.4),
                    "worth": chance.choice([1, 2, 3]),
                    "page": f"page {user * 2 + number // 5}",
                    "place": number % 5 + 1,
                    "split": "train",
                }
            )
    return rows


LOG = planted_log()
EVENT = {(row["user"], row["item"]): row for row in LOG}
TAKEN = {user: {row["item"] for row in LOG if row["user"] == user and row["click"]} for user in range(USERS)}
COUNT = [sum(item in taken for taken in TAKEN.values()) for item in range(ITEMS)]
POSITIVES = [(row["user"], row["item"]) for row in LOG if row["click"]]


def unit(seed, rows):
    x = np.random.default_rng(seed).normal(size=(rows, DIM))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


USER_VECTORS, ITEM_VECTORS = unit(1, USERS), unit(2, ITEMS)


def cosine(user, item):
    return float(USER_VECTORS[user] @ ITEM_VECTORS[item])


# --- what the options mean: the probability of each item for a row, by enumeration ------------------------------------


def allowed(user, own=None):
    return [item for item in range(ITEMS) if item not in TAKEN[user] or item == own]


def even(pool):
    return {item: 1 / len(pool) for item in pool}


def uniform(user, item, own=None):
    return even(allowed(user, own))


def popularity(alpha, floor):
    def probabilities(user, item, own=None):
        weights = {j: max(COUNT[j], floor) ** alpha if max(COUNT[j], floor) else 0.0 for j in allowed(user, own)}
        return {j: weight / sum(weights.values()) for j, weight in weights.items()}

    return probabilities


def of_all(weights):
    """For the whole batch: no user's positives are left out."""
    return {item: weight / sum(weights) for item, weight in enumerate(weights)}


def rejected(column, value):
    def probabilities(user, item):
        shown = [row for row in LOG if row["user"] == user and not row["click"]]
        return even([row["item"] for row in shown if row[column] == value])

    return probabilities


def above(user, item):
    own = EVENT[user, item]
    page = [row for row in LOG if row["page"] == own["page"] and not row["click"]]
    return even([row["item"] for row in page if row["place"] < own["place"]])


def alike(*functions):
    def probabilities(user, item):
        return even([j for j in allowed(user) if all(each(j) == each(item) for each in functions)])

    return probabilities


def shape(item):
    return SHAPES[item % 3]


def colour(item):
    return COLOURS[item % 2]


def ranked(first, last):
    def probabilities(user, item):
        order = sorted(allowed(user), key=lambda j: -cosine(user, j))
        return even(order[first - 1 : last])

    return probabilities


def share(kept=lambda user, item: 1.0):
    """Of the positives trained on in an epoch: how many of them are this item's."""
    weights = [sum(kept(user, item) for user, item in POSITIVES if item == j) for j in range(ITEMS)]
    return [weight / sum(weights) for weight in weights]


def since_it_came(item):
    """Of the timed positives, by weight, those since the item's first event less the mean gap of its events."""
    times = [row["time"] for row in LOG if row["item"] == item and row["time"]]
    end = max(row["time"] for row in LOG if row["time"])
    begin = min(times) - (end - min(times)) / len(times)
    timed = [row for row in LOG if row["time"] and row["click"]]
    return sum(row["worth"] for row in timed if row["time"] >= begin) / sum(row["worth"] for row in timed)


def thinned(t):
    def kept(user, item):
        z = COUNT[item] / len(POSITIVES)
        return min(1.0, (math.sqrt(z / t) + 1) * t / z)

    return kept


def at_most(n, before=lambda user, item: 1.0):
    """Of what is kept before, in proportion, so much that a user keeps n."""

    def kept(user, item):
        return before(user, item) * min(1.0, n / sum(before(user, j) for j in TAKEN[user]))

    return kept


# --- the losses of one row, from (cosine, log q, weight) of what it meets ---------------------------------------------


def log_sum(terms):
    return math.log(sum(weight * math.exp(logit) for logit, weight in terms))


def softmax(temperature, correct):
    def loss(positive, log_q, met):
        own = positive / temperature - correct * log_q
        return log_sum([(own, 1.0), *((c / temperature - correct * q, w) for c, q, w in met)]) - own

    return loss


def bilateral(positives, negatives, correct):
    def loss(positive, log_q, met):
        return log_sum([(c / negatives - correct * q, w) for c, q, w in met]) - positive / positives if met else 0.0

    return loss


def gbce(temperature, t):
    def loss(positive, log_q, met):
        if not met:
            return 0.0
        alpha = min(1.0, len(met) * math.exp(log_q))
        beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
        terms = [math.log1p(math.exp(c / temperature)) for c, *_ in met]
        return (beta * math.log1p(math.exp(-positive / temperature)) + sum(terms)) / (1 + len(met))

    return loss


def mean(function, met):
    return sum(w * function(c) for c, _, w in met) / sum(w for *_, w in met) if met else 0.0


def contrastive(margin, negative_weight):
    return lambda positive, log_q, met: (
        1 - positive + negative_weight * mean(lambda c: max(0.0, c - margin), met)
    )  # fmt: skip


def logistic(temperature):
    return lambda positive, log_q, met: mean(lambda c: math.log1p(math.exp((c - positive) / temperature)), met)


def triplet(margin):
    return lambda positive, log_q, met: mean(lambda c: max(0.0, margin - positive + c), met)
