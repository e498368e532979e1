"""From every option of negatives and losses to a batch and its loss, against NumPy written from what the option means.

A small log is prepared, sampled and batched by the package. What each row may meet, with which probability, and what
its loss then is, is enumerated from the log's lines; nothing of `sampling` or `model.losses` is used for it.
"""

import csv
import dataclasses
import math
import typing

import numpy as np
import pytest
import tensorflow as tf

from tests.sampling.worlds import fits
from tests.train.option_cases import CASES
from tests.train.option_oracle import (
    BATCH,
    DAY,
    EPOCHS,
    EVENT,
    ITEM_VECTORS,
    ITEMS,
    LOG,
    TAKEN,
    USER_VECTORS,
    USERS,
    colour,
    cosine,
    shape,
    since_it_came,
)
from twotower_tf.config import Catalogue, DataConfig, ExperimentConfig, GivenSplit, Hash, SamplingConfig, TrainConfig
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
    "FullSoftmax",
    "BilateralSoftmax",
    "GBCE",
    "CosineContrastive",
    "PairwiseLogistic",
    "TripletHinge",
)


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
            users, items = user_of(x["user_ids"][:, 0]).tolist(), item_of(x["item_ids"][:, 0])
            if Catalogue() in case.negatives:  # each item is encoded once
                assert sorted(items) == list(range(ITEMS))
                items = items[x["places_of_items"]]
            items = items.tolist()
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
    if Catalogue() in case.negatives:
        assert sorted(batch.shared) == list(range(ITEMS))
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
    """Log q of the own item, and (cosine, log q, weight) of each negative; with `growing` q is divided by `there`."""
    there = since_it_came if getattr(case.loss, "growing", False) else lambda j: 1.0
    rows = BATCH * case.in_batch + len(queue)
    everything = rows + sum(n for _, n in case.shared)

    def column_q(j):
        return (rows * case.share[j] + sum(n * p[j] for p, n in case.shared)) / everything / there(j)

    easy = [each for each in case.own if not each.hard]

    def own_q(j):
        of_each = ((k.draws, k.probabilities(user, item, *([item] if j == item else []))) for k in easy)
        return sum(n * p[j] for n, p in of_each) / sum(k.draws for k in easy) / there(j)

    if everything:
        own_log_q = math.log(column_q(item))
    else:
        own_log_q = math.log(own_q(item)) if easy else 0.0
    columns = [*(batch.own if case.in_batch else []), *batch.shared, *queue]
    masked = {item} if case.sampling.get("masked") == "row" else TAKEN[user]
    met = [(cosine(user, j), math.log(column_q(j)), 1.0) for j in columns if j not in masked]
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
