"""From every option of negatives and losses to a batch and its loss, against NumPy written from what the option means.

A small log is prepared, sampled and batched by the package. What each row may meet, with which probability, and what
its loss then is, is enumerated here from the log's lines; nothing of `sampling` or `model.losses` is used for it.
"""

import csv
import dataclasses
import math
import random
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.sampling.worlds import fits
from twotower_tf.config import (
    BilateralSoftmax,
    CosineContrastive,
    CosineLogitBCE,
    DataConfig,
    Downsample,
    ExperimentConfig,
    GivenSplit,
    Hash,
    InBatch,
    InBatchSoftmax,
    Labelled,
    Mined,
    PairwiseLogistic,
    Popularity,
    Queue,
    Rejections,
    SameAttribute,
    SampledSoftmax,
    SamplingConfig,
    SkipAbove,
    TrainConfig,
    TripletHinge,
    Uniform,
)
from twotower_tf.config.losses import LOSSES
from twotower_tf.config.sampling import Negatives
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.model.losses import registry
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train.batches import Batches

BUILT_IN = (
    "CosineLogitBCE",
    "InBatchSoftmax",
    "SampledSoftmax",
    "BilateralSoftmax",
    "CosineContrastive",
    "PairwiseLogistic",
    "TripletHinge",
)
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


# --- the table --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Draws that a row has for itself: their probabilities, how many, what one counts, whether they are hard."""

    probabilities: Callable[..., dict[int, float]]
    draws: int
    weight: float = 1.0
    hard: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """A configuration, and what it means.

    Attributes:
        negatives: of the configuration.
        loss: of the configuration.
        meaning: the loss of one row; None for `CosineLogitBCE`, whose mean is over all candidates.
        own: what rows draw for themselves, in the order of `negatives`.
        shared: (probabilities, draws) for the whole batch.
        queue: slots.
        share: of each item among an epoch's positives.
        sampling: other fields of `SamplingConfig`.
        age: the factor of a row's weight by its age in days.
        labelled: rows with label 0 are rows of their own.
        learned: weights of its own that the loss trains.
        size: rows of an epoch.
    """

    negatives: tuple[Any, ...]
    loss: Any
    meaning: Any = None
    own: tuple[Drawn, ...] = ()
    shared: tuple[tuple[dict[int, float], int], ...] = ()
    queue: int = 0
    share: list[float] = dataclasses.field(default_factory=share)
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
    age: Callable[[float], float] = lambda days: 1.0
    labelled: bool = False
    learned: int = 0
    size: float = len(POSITIVES)

    @property
    def in_batch(self):
        return InBatch() in self.negatives


EVEN = of_all([1.0] * ITEMS)
ROOTS = of_all([max(count, 2) ** 0.5 for count in COUNT])
SOFT, PAIR = InBatchSoftmax(temperature=0.2), PairwiseLogistic(temperature=0.3)
OWN = SampledSoftmax(temperature=0.2)
IN = (InBatch(),)


def hard(probabilities, draws=1, weight=1.0):
    return Drawn(probabilities, draws, weight, hard=True)


CASES = {
    "uniform": Case((Uniform(3),), OWN, softmax(0.2, True), (Drawn(uniform, 3),)),
    "uniform shared": Case((Uniform(5, shared=True),), OWN, softmax(0.2, True), shared=((EVEN, 5),)),
    "popularity": Case((Popularity(3),), OWN, softmax(0.2, True), (Drawn(popularity(0.75, 1), 3),)),
    "popularity alpha": Case((Popularity(2, alpha=2.0),), OWN, softmax(0.2, True), (Drawn(popularity(2, 1), 2),)),
    "popularity floor": Case((Popularity(2, floor=4.0),), OWN, softmax(0.2, True), (Drawn(popularity(0.75, 4), 2),)),
    "popularity shared": Case(
        (*IN, Popularity(6, alpha=0.5, floor=2.0, shared=True)), SOFT, softmax(0.2, True), shared=((ROOTS, 6),)
    ),
    "two of the row's own": Case(
        (Uniform(3), Popularity(1)),
        OWN,
        softmax(0.2, True),
        (Drawn(uniform, 3), Drawn(popularity(0.75, 1), 1)),
    ),
    "in-batch": Case(IN, SOFT, softmax(0.2, True)),
    "in-batch, temperature": Case(IN, InBatchSoftmax(temperature=0.7), softmax(0.7, True)),
    "in-batch, uncorrected": Case(IN, InBatchSoftmax(temperature=0.2, correct=False), softmax(0.2, False)),
    "in-batch, learned": Case(IN, InBatchSoftmax(temperature=0.2, learn_temperature=True), softmax(0.2, 1), learned=1),
    "queue": Case((*IN, Queue(size=12)), SOFT, softmax(0.2, True), queue=12),
    "downsample": Case(
        IN,
        SOFT,
        softmax(0.2, True),
        share=share(thinned(0.03)),
        sampling={"downsample": Downsample(t=0.03)},
        size=sum(thinned(0.03)(*each) for each in POSITIVES),
    ),
    "per user": Case(
        IN,
        SOFT,
        softmax(0.2, True),
        share=share(at_most(2)),
        sampling={"per_user": 2},
        size=sum(at_most(2)(*each) for each in POSITIVES),
    ),
    "downsample and per user": Case(
        IN,
        SOFT,
        softmax(0.2, True),
        share=share(at_most(2, thinned(0.03))),
        sampling={"downsample": Downsample(t=0.03), "per_user": 2},
        size=sum(at_most(2, thinned(0.03))(*each) for each in POSITIVES),
    ),
    "recency": Case(
        IN, SOFT, softmax(0.2, True), sampling={"recency_half_life": 5.0}, age=lambda days: 0.5 ** (days / 5)
    ),
    "rejections": Case((*IN, Rejections(2)), SOFT, softmax(0.2, True), (hard(rejected("click", 0), 2),)),
    "rejections weight": Case(
        (*IN, Rejections(2, weight=3.0)), SOFT, softmax(0.2, True), (hard(rejected("click", 0), 2, 3.0),)
    ),
    "rejections explicit": Case(
        (*IN, Rejections(3, explicit=True)), SOFT, softmax(0.2, True), (hard(rejected("hidden", 1), 3),)
    ),
    "rejections alone": Case((Rejections(2),), OWN, softmax(0.2, True), (hard(rejected("click", 0), 2),)),
    "skip above": Case((*IN, SkipAbove(2)), SOFT, softmax(0.2, True), (hard(above, 2),)),
    "skip above weight": Case((*IN, SkipAbove(weight=0.5)), SOFT, softmax(0.2, True), (hard(above, 1, 0.5),)),
    "same attribute": Case((*IN, SameAttribute(("shape",), 2)), SOFT, softmax(0.2, True), (hard(alike(shape), 2),)),
    "same attributes": Case(
        (*IN, SameAttribute(("shape", "colour"), weight=2.0)),
        SOFT,
        softmax(0.2, True),
        (hard(alike(shape, colour), 1, 2.0),),
    ),
    "mined": Case((*IN, Mined((2, 4), 2)), SOFT, softmax(0.2, True), (hard(ranked(2, 4), 2),)),
    "mined weight": Case((*IN, Mined((1, 3), weight=0.25)), SOFT, softmax(0.2, True), (hard(ranked(1, 3), 1, 0.25),)),
    "easy and hard of the row's own": Case(
        (Rejections(1, weight=2.0), Uniform(3)),
        OWN,
        softmax(0.2, True),
        (hard(rejected("click", 0), 1, 2.0), Drawn(uniform, 3)),
    ),
    "sampled softmax": Case(
        (Uniform(6, shared=True), Popularity(3, alpha=0.5, floor=2.0, shared=True), Rejections()),
        SampledSoftmax(temperature=0.4),
        softmax(0.4, True),
        (hard(rejected("click", 0)),),
        shared=((EVEN, 6), (ROOTS, 3)),
    ),
    "sampled softmax, uncorrected": Case(
        (Popularity(3, alpha=2.0),),
        SampledSoftmax(correct=False),
        softmax(0.05, False),
        (Drawn(popularity(2, 1), 3),),
    ),
    "sampled softmax, learned": Case(
        (Uniform(4, shared=True),),
        SampledSoftmax(learn_temperature=True),
        softmax(0.05, 1),
        shared=((EVEN, 4),),
        learned=1,
    ),
    "bilateral": Case((Uniform(3),), BilateralSoftmax(0.3, 0.2), bilateral(0.3, 0.2, False), (Drawn(uniform, 3),)),
    "bilateral, corrected": Case(
        (*IN, Popularity(5, alpha=0.5, floor=2.0, shared=True), SkipAbove(weight=3.0)),
        BilateralSoftmax(0.3, 0.2, correct=True),
        bilateral(0.3, 0.2, True),
        (hard(above, 1, 3.0),),
        shared=((ROOTS, 5),),
    ),
    "contrastive": Case(
        (*IN, Rejections(2, weight=3.0)),
        CosineContrastive(margin=0.1, negative_weight=7.0),
        contrastive(0.1, 7.0),
        (hard(rejected("click", 0), 2, 3.0),),
    ),
    "pairwise": Case((Uniform(3),), PAIR, logistic(0.3), (Drawn(uniform, 3),)),
    "pairwise, weighted": Case(
        (Uniform(3), SameAttribute(("colour",), weight=0.5)),
        PAIR,
        logistic(0.3),
        (Drawn(uniform, 3), hard(alike(colour), 1, 0.5)),
    ),
    "pairwise, learned": Case(
        (Uniform(2),), PairwiseLogistic(0.3, learn_temperature=True), logistic(0.3), (Drawn(uniform, 2),), learned=1
    ),
    "triplet": Case((*IN, Uniform(4)), TripletHinge(margin=0.6), triplet(0.6), (Drawn(uniform, 4),)),
    "click": Case((Uniform(2),), CosineLogitBCE(), own=(Drawn(uniform, 2),), learned=2),
    "click, weighted": Case(
        (Rejections(2, weight=3.0), Uniform(1)),
        CosineLogitBCE(),
        own=(hard(rejected("click", 0), 2, 3.0), Drawn(uniform, 1)),
        learned=2,
    ),
    "click, labelled": Case(
        (Labelled(), Uniform(2)), CosineLogitBCE(), own=(Drawn(uniform, 2),), labelled=True, learned=2, size=len(LOG)
    ),
}


# --- the test ---------------------------------------------------------------------------------------------------------


def experiment(root, case=CASES["in-batch"]):
    return ExperimentConfig(
        name="options",
        data=DataConfig(
            root=str(root),
            events="events.csv",
            items="items.csv",
            user_id="user",
            item_id="item",
            timestamp="time",
            label="click",
            rejected="hidden = 1",
            weight="worth",
            list_id="page",
            position="place",
            split=GivenSplit("split"),
        ),
        item_features=(Hash("item", buckets=1000),),
        user_features=(Hash("user", buckets=1000),),
        sampling=SamplingConfig(case.negatives, **case.sampling),
        loss=case.loss,
        train=TrainConfig(batch_size=BATCH, monitor=""),
    )


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("options")
    write(root / "events.csv", LOG)
    write(root / "items.csv", [{"item": j, "shape": shape(j), "colour": colour(j)} for j in range(ITEMS)])
    config = experiment(root)
    prepare_log(config, root / "run", threads=1)
    encode(config, Prepared.open(root / "run"))
    return root


def names(ids, encoded_ids):
    """From a bucket to the number of the user or item, each in a bucket of its own."""
    found = {int(bucket): int(name) for bucket, name in zip(encoded_ids, ids, strict=True)}
    assert len(found) == len(ids)
    return np.vectorize(found.get)


@pytest.mark.parametrize("name", CASES)
def test_an_option_gives_the_batches_and_the_loss_that_it_means(name, prepared):
    case = CASES[name]
    config, opened = experiment(prepared, case), Prepared.open(prepared / "run")
    encoded = EncodedData(config, opened)
    made = Batches(config, opened, encoded)
    assert abs(made.examples - case.size) < 1
    keys = encoded.keys("train")
    first_of = [int(np.flatnonzero(keys["user_row"] == row)[0]) for row in range(USERS)]
    user_of = names(opened.user_ids(), encoded.user_batch("train", np.array(first_of))["ids"][:, 0])
    item_of = names(opened.item_ids(), encoded.item_batch(np.arange(ITEMS))["ids"][:, 0])
    if made.samplers.mined is not None:
        order = {side: ids().astype(int) for side, ids in (("u", opened.user_ids), ("i", opened.item_ids))}
        made.samplers.mined.refresh(
            np.arange(USERS), USER_VECTORS[order["u"]].astype(np.float32), ITEM_VECTORS[order["i"]].astype(np.float32)
        )
    layer = registry.layer(config)
    queue: list[int] = []
    counts = np.zeros((2, len(case.own) + len(case.shared), ITEMS))  # drawn, and expected
    for epoch in range(EPOCHS):
        for step, (x, y, _) in enumerate(made.epoch(epoch)):
            users, items = user_of(x["user_ids"][:, 0]).tolist(), item_of(x["item_ids"][:, 0]).tolist()
            batch = taken_apart(case, users, items, y, counts)
            if epoch or step >= 3:
                continue
            expected = expected_loss(case, batch, queue)
            assert abs(loss_of(layer, x, users, items) - expected) < 2e-5 * max(1.0, abs(expected))
            queue = [*queue, *batch.own][-case.queue :] if case.queue else []
    assert len(layer.trainable_weights) == case.learned
    for drawn, wanted in zip(*counts, strict=True):
        assert fits(drawn, wanted / wanted.sum())


@dataclasses.dataclass
class Batch:
    """A batch as users and items: rows' own, their draws `[batch][kind][draws]` or none, the shared ones."""

    users: list[int]
    own: list[int]
    labels: list[int]
    draws: list[list[list[int]]]
    shared: list[int]


def taken_apart(case, users, items, y, counts):
    """Reads a batch by the agreed order, checks that it is one, and counts the draws."""
    width = sum(each.draws for each in case.own)
    batch = Batch(users, items[:BATCH], [], [], items[BATCH * (1 + width) :])
    assert len(users) == BATCH and len(batch.shared) == sum(draws for _, draws in case.shared)
    negatives = iter(items[BATCH : BATCH * (1 + width)])
    for place, (user, item) in enumerate(zip(users, batch.own, strict=True)):
        label = EVENT[user, item]["click"]
        assert label or case.labelled
        assert y[place, 0] == label if case.meaning else y[place, 0, 0] == label
        batch.labels.append(label)
        drawn = []
        for number, each in enumerate(case.own):
            met = [next(negatives) for _ in range(each.draws)]
            probabilities = each.probabilities(user, item) if label else {}
            drawn.append(met if probabilities else [])
            for j, probability in probabilities.items():
                counts[1, number, j] += each.draws * probability
            if probabilities:
                assert {*met} <= {*probabilities}
                np.add.at(counts[0, number], met, 1)
            else:
                assert {*met} == {item}  # in the place of what is not there
        batch.draws.append(drawn)
    first = 0
    for number, (probabilities, draws) in enumerate(case.shared, len(case.own)):
        np.add.at(counts[0, number], batch.shared[first : first + draws], 1)
        for j, probability in probabilities.items():
            counts[1, number, j] += draws * probability
        first += draws
    return batch


def expected_loss(case, batch, queue):
    """The mean of the rows' losses by weight, from what each meets."""
    timed = [row["time"] for row in LOG if row["time"]]
    ages = [(max(timed) - time) / DAY for time in timed]
    losses, weights = [], []
    for user, item, label, draws in zip(batch.users, batch.own, batch.labels, batch.draws, strict=True):
        event = EVENT[user, item]
        factor = case.age((max(timed) - event["time"]) / DAY) if event["time"] else np.mean([*map(case.age, ages)])
        weight = event["worth"] * factor
        if case.meaning is None:
            met = [(item, label, weight)]
            met += [(j, 0, weight * k.weight) for k, drawn in zip(case.own, draws, strict=True) for j in drawn]
            for j, is_click, each in met:
                probability = (1 + 0.999 * cosine(user, j)) / 2
                losses.append(-math.log(probability if is_click else 1 - probability))
                weights.append(each)
            continue
        own_log_q, met = what_a_row_meets(case, batch, queue, user, item, draws)
        losses.append(case.meaning(cosine(user, item), own_log_q, met))
        weights.append(weight)
    return np.average(losses, weights=weights)


def what_a_row_meets(case, batch, queue, user, item, draws):
    """Log q of the own item, and (cosine, log q, weight) of each negative."""
    rows = BATCH * case.in_batch + len(queue)
    everything = rows + sum(n for _, n in case.shared)

    def column_q(j):
        return (rows * case.share[j] + sum(n * p[j] for p, n in case.shared)) / everything

    easy = [each for each in case.own if not each.hard]

    def own_q(j):
        of_each = ((k.draws, k.probabilities(user, item, *([item] if j == item else []))) for k in easy)
        return sum(n * p[j] for n, p in of_each) / sum(k.draws for k in easy)

    if everything:
        own_log_q = math.log(column_q(item))
    else:
        own_log_q = math.log(own_q(item)) if easy else 0.0
    columns = [*(batch.own if case.in_batch else []), *batch.shared, *queue]
    met = [(cosine(user, j), math.log(column_q(j)), 1.0) for j in columns if j not in TAKEN[user]]
    for kind, drawn in zip(case.own, draws, strict=True):
        # A hard negative is not a sample of the catalogue: its logit has no correction of its own.
        met += [(cosine(user, j), own_log_q if kind.hard else math.log(own_q(j)), kind.weight) for j in drawn]
    return own_log_q, met


def loss_of(layer, x, users, items):
    """The package's loss of a batch."""
    vectors = (tf.constant(each, tf.float32) for each in (USER_VECTORS[users], ITEM_VECTORS[items]))
    given = {name: tf.constant(value) for name, value in x.items() if not name.startswith(("user_", "item_"))}
    layer(given | dict(zip(("user_vectors", "item_vectors"), vectors, strict=True)), training=True)
    assert len(layer.losses) == 1
    return float(layer.losses[0])


def test_every_option_is_in_the_table():
    """Each kind and loss stands in it, and each of their fields with another value than its default."""
    kinds = [*typing.get_args(typing.get_args(Negatives)[0]), *(LOSSES[name] for name in BUILT_IN)]
    used = [each for case in CASES.values() for each in (*case.negatives, case.loss)]
    used += [SamplingConfig(case.negatives, **case.sampling) for case in CASES.values()]
    for kind in (*kinds, SamplingConfig):
        mine = [each for each in used if type(each) is kind]
        assert mine, kind
        for field in dataclasses.fields(kind):
            if field.name != "type":
                assert any(getattr(each, field.name) != field.default for each in mine), (kind, field.name)
