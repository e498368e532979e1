"""Training on users' sequences, against the log by hand: every event once, with its own history, profile and time."""

import collections
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.model.filled import fill_tables
from tests.train.sequence_log import DAY, ITEMS, LENGTH, experiment, write_log
from twotower_tf import config as configuration
from twotower_tf.config import (
    CosineLogitBCE,
    History,
    InBatch,
    InBatchSoftmax,
    Labelled,
    LeaveLastOut,
    Queue,
    SamplingConfig,
    TrainConfig,
    Uniform,
)
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.model import two_tower
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.sampling.samplers import estimate_events
from twotower_tf.train import sampling_stats, training_loop
from twotower_tf.train.batches import Batches
from twotower_tf.train.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("sequences")
    log = write_log(root)
    config = experiment(root)
    prepare_log(config, root / "run", threads=1)
    encode(config, Prepared.open(root / "run"))
    return root, log


def batches(root, **changes):
    config, prepared = experiment(root, **changes), Prepared.open(root / "run")
    encoded = EncodedData(config, prepared)
    return Batches(config, prepared, encoded), encoded, prepared


def mood_names():
    texts = [f"m{number}" for number in range(9)]
    return dict(zip(tf.strings.to_hash_bucket_fast(texts, 100).numpy().tolist(), texts, strict=True))


def history_of(log, event):
    """A user's training positives strictly before an event, oldest first, as numbers of the items."""
    past = [
        each for each in log
        if each["user"] == event["user"] and each["click"] and each["split"] == "train" and each["time"] < event["time"]
    ]  # fmt: skip
    return [int(each["item"][1:]) for each in sorted(past, key=lambda each: each["time"])]


def seen_items(x, key, names):
    """By row of a batch, what it has seen of its sequence."""
    values = x[f"user_{key}"]
    return [[names[bucket] for bucket in values[window, :seen]] for window, seen in x[f"user_{key}_places"]]


def test_an_epoch_has_every_event_once_with_its_own_history_mood_and_day(world):
    root, log = world
    made, encoded, prepared = batches(root, train=TrainConfig(batch_size=1, monitor=""))
    catalogue = encoded.item_batch(np.arange(ITEMS))["ids"]
    items = {int(b): int(name[1:]) for b, name in zip(catalogue[:, 0], prepared.item_ids(), strict=True)}
    shelves = {int(b): int(name[1:]) % 4 for b, name in zip(catalogue[:, 1], prepared.item_ids(), strict=True)}
    moods = mood_names()
    events = [each for each in log if each["split"] == "train" and each["click"]]
    assert made.examples == len(events) and made.steps > made.examples / LENGTH
    found = []
    for x, y, weight in made.epoch(0):
        assert len(y) == len(weight) == len(x["user_ids"]) and x["user_values0"].shape[1] <= LENGTH
        own = x["item_ids"][x["places_of_items"], 0][: len(y)]
        rows = zip(own, x["user_ids"], seen_items(x, "values0", items), seen_items(x, "values1", shelves), strict=True)
        found += [(items[int(item)], moods[int(ids[0])], int(ids[1]), past, shelf) for item, ids, past, shelf in rows]
    assert len(found) == len(events)
    left = [
        (int(each["item"][1:]), each["mood"], (each["time"] // DAY + 3) % 7, history_of(log, each), each["user"])
        for each in events
    ]
    positives = collections.Counter(each["user"] for each in events)
    assert sum(len(past) > LENGTH for *_, past, _ in left) > 20
    for item, mood, day, past, shelf in found:
        # A user with more than six positives has windows that begin later than the histories in them.
        match = next(
            each
            for each in left
            if each[:3] == (item, mood, day)
            and bool(past) == bool(each[3])
            and each[3][len(each[3]) - len(past) :] == past
            and (past == each[3] or positives[each[4]] > LENGTH)
        )
        left.remove(match)
        assert shelf == [each % 4 for each in past if each % 3]  # as the signature has it: no place without a value
    assert not left


def test_the_order_of_the_rows_is_an_order(tmp_path):
    log = write_log(tmp_path)
    config = experiment(tmp_path)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, timestamp="", split=LeaveLastOut()),
        user_features=(History(of="item", length=40, encoder="self_attention"),),
        sampling=SamplingConfig((Uniform(8, shared=True),)),
    )
    prepare_log(config, tmp_path / "run", threads=1)
    prepared = Prepared.open(tmp_path / "run")
    encode(config, prepared)
    encoded = EncodedData(config, prepared)
    catalogue = encoded.item_batch(np.arange(prepared.num_items))["ids"][:, 0]
    items = dict(zip(catalogue.tolist(), prepared.item_ids().tolist(), strict=True))
    found = []
    for x, y, _ in Batches(config, prepared, encoded).epoch(0):
        own = x["item_ids"][x["places_of_items"], 0][: len(y)]
        found += [(items[int(item)], past) for item, past in zip(own, seen_items(x, "values0", items), strict=True)]
    expected = []
    for user in {each["user"] for each in log}:
        clicked = [each["item"] for each in log if each["user"] == user and each["click"]]
        kept = clicked[: len(clicked) - 2] if len(clicked) > 2 else clicked  # the last two are held out
        expected += [(item, clicked[:place]) for place, item in enumerate(kept)]
    assert len(found) > 100
    assert all(each in expected for each in found) and len(found) > 0.9 * len(expected)


def test_the_vector_and_the_loss_of_each_event_are_those_of_rows_of_events(world):
    root, log = world
    made, encoded, _ = batches(root)
    config = made._config
    model = fill_tables(two_tower.build(config))
    rng = np.random.default_rng(3)
    for weight in model.trainable_weights:
        if "user_history" in weight.name:
            weight.assign(rng.normal(size=weight.shape) * 0.5)
    inputs = {name: tensor for name, tensor in model.input.items() if name.startswith("user_")}
    at_places = type(two_tower.tower(model, "item"))(inputs, model.get_layer("user_vector").output)
    ordinary, items = two_tower.tower(model, "user"), two_tower.tower(model, "item")
    order = made._order(0)
    exact = 0
    for step, (x, _, weight) in enumerate(made.epoch(0)):
        rows = order.rows[order.bounds[step] : order.bounds[step + 1]]
        vectors = at_places({name: x[name] for name in inputs}).numpy()
        by_event = encoded.user_batch("train", rows)
        alone = ordinary({f"user_{key}": value for key, value in by_event.items()}).numpy()
        full = np.array([seen == (values >= 0).sum() for (_, seen), values in
                         zip(x["user_values0_places"], by_event["values0"], strict=True)])  # fmt: skip
        np.testing.assert_allclose(vectors[full], alone[full], atol=2e-6)
        exact += full.sum()
        # The loss: softmax of the own item among the shared ones that are not the user's, weighted by recency.
        given = items({"item_ids": x["item_ids"]}).numpy()[x["places_of_items"]]
        own, shared = given[: len(rows)], given[len(rows) :]
        assert len(shared) == 8
        logits = vectors @ shared.T / 0.2
        for row, column in x["hits"]:
            logits[row, column] = -np.inf
        positive = (vectors * own).sum(axis=1) / 0.2
        losses = np.log(np.exp(positive) + np.exp(logits).sum(axis=1)) - positive
        model(x, training=False)
        assert len(np.unique(weight)) > 1
        expected = (losses * weight[:, 0]).sum() / weight.sum()
        np.testing.assert_allclose(float(tf.add_n(model.losses)), expected, rtol=1e-5)
    assert exact > 60


def test_an_interrupted_epoch_goes_on_with_the_same_batches_and_the_queue_has_the_rows_before(world):
    root, _ = world
    changes = {"loss": InBatchSoftmax(), "sampling": SamplingConfig((InBatch(), Queue(size=15)))}
    made, encoded, _ = batches(root, **changes)
    whole, rest, other = (list(made.epoch(*args)) for args in ((0,), (0, 2), (1,)))
    for (x, *_), (again, *_) in zip(whole[2:], rest, strict=True):
        for name, value in x.items():
            np.testing.assert_array_equal(value, again[name])
    assert any(len(x["user_ids"]) != len(new["user_ids"]) for (x, *_), (new, *_) in zip(whole, other, strict=True))
    own = encoded.keys("train")["item_row"][made._order(0).rows]
    for step, drawn in made.drawn(0):
        begin = made._order(0).bounds[step]
        np.testing.assert_array_equal(drawn.queued, own[max(0, begin - 15) : begin])
    from_dataset = next(iter(made.dataset(0).as_numpy_iterator()))[0]
    for name, value in whole[0][0].items():
        np.testing.assert_array_equal(value, from_dataset[name])


def test_what_a_user_takes_later_is_a_negative_where_only_own_items_are_masked(world):
    root, _ = world
    own, liked = (
        batches(root, sampling=SamplingConfig((Uniform(per_positive=25, shared=True),), masked=masked))[0]
        for masked in ("row", "user")
    )
    keys = own._keys
    for (_, drawn), (x, *_), (other, *_) in zip(own.drawn(0), own.epoch(0), liked.epoch(0), strict=True):
        same, taken = set(), set()
        for row, (user, item) in enumerate(zip(drawn.rows.users, drawn.rows.own, strict=True)):
            positives = keys["item_row"][(keys["user_row"] == user) & (keys["label"] == 1)]
            same |= {(row, int(column)) for column in np.flatnonzero(drawn.shared == item)}
            taken |= {(row, int(column)) for column in np.flatnonzero(np.isin(drawn.shared, positives))}
        assert {tuple(pair) for pair in x["hits"].tolist()} == same < taken
        assert {tuple(pair) for pair in other["hits"].tolist()} == taken


def test_statistics_look_at_the_first_events_of_a_step(world):
    made, encoded, _ = batches(world[0], sampling=SamplingConfig((Uniform(per_positive=7, shared=True),)))
    view = sampling_stats.look(made, encoded, rows=5)
    _, drawn = next(made.drawn(0))
    np.testing.assert_array_equal(view.own, drawn.rows.own[:5])
    assert len(drawn.rows) > 5 and set(view.kinds["Uniform"].places) <= set(range(5))


def test_the_events_of_a_batch_are_those_that_users_have_on_average(world):
    config = experiment(world[0])
    users = np.repeat([1, 2, 3], [2, 3, 4])
    assert estimate_events(config, users) == 4 * 3 and estimate_events(config, np.repeat([1, 2], 40)) == 4 * LENGTH
    assert estimate_events(configuration.override(config, ["train.rows=event"]), users) == 4


def test_labelled_negatives_are_rows_at_their_own_places(world):
    root, log = world
    made, encoded, prepared = batches(
        root, loss=CosineLogitBCE(), sampling=SamplingConfig((Labelled(), Uniform(2))),
        train=TrainConfig(batch_size=2, monitor=""),
    )  # fmt: skip
    train = [each for each in log if each["split"] == "train"]
    assert made.examples == len(train) and any(not each["click"] for each in train)
    catalogue = encoded.item_batch(np.arange(ITEMS))["ids"]
    items = {int(b): int(name[1:]) for b, name in zip(catalogue[:, 0], prepared.item_ids(), strict=True)}
    refused = {(int(each["item"][1:]), *history_of(log, each)) for each in train if not each["click"]}
    found = 0
    for x, y, weight in made.epoch(0):
        assert len(x["places_of_items"]) == 3 * len(y)  # each with two draws of its own, behind all own items
        for row in np.flatnonzero(y[:, 0, 0] == 0):
            past = seen_items(x, "values0", items)[row]
            item = items[int(x["item_ids"][x["places_of_items"][row], 0])]
            assert any(item == each and list(history)[len(history) - len(past) :] == past for each, *history in refused)
            assert weight[row].tolist() == [1, 0, 0]
            found += 1
    assert found


def test_a_training_is_resumed_with_the_same_kind_of_rows(world, tmp_path):
    config = experiment(world[0])
    model = fill_tables(training_loop.compile_model(config, steps_per_epoch=9))
    model.optimizer.build(model.trainable_variables)
    state = {"epochs": 1, "step": 0, "best_epoch": 1, "best": None, "history": [], "stopped": False}
    Checkpoints(config, tmp_path).save(model, state)
    events = configuration.override(config, ["train.rows=event", "sampling.masked=row"])
    other = training_loop.compile_model(events, steps_per_epoch=9)
    with pytest.raises(ArtifactError) as error:
        Checkpoints(events, tmp_path).resume(other)
    assert str(error.value) == (
        f"{tmp_path}/checkpoints/00001-000000000/state.json: the checkpoint is of train.rows=sequence (got event); "
        "resume with train.rows=sequence, or start over without --resume"
    )
    Checkpoints(events, tmp_path).restore_best(other)  # the weights are the same ones
    by_name = {weight.name: weight.numpy() for weight in model.trainable_weights}
    assert by_name.keys() == {weight.name for weight in other.trainable_weights}
    for weight in other.trainable_weights:
        np.testing.assert_array_equal(weight.numpy(), by_name[weight.name])


def test_a_log_of_single_events_is_refused_in_one_line(tmp_path):
    write_log(tmp_path, longest=1)
    config = experiment(tmp_path)
    prepare_log(config, tmp_path / "run", threads=1)
    encode(config, Prepared.open(tmp_path / "run"))
    with pytest.raises(DataError) as error:
        batches(tmp_path)
    assert str(error.value) == (
        "train.rows: invalid value 'sequence' for a log in which no training event has an earlier positive of its user "
        "(expected users with at least two positives, at different times); use a feature other than History, or a "
        "longer log"
    )


def test_a_batch_of_more_windows_than_there_are_is_refused(world):
    with pytest.raises(ConfigError) as error:
        batches(world[0], train=TrainConfig(batch_size=5000, monitor=""))
    single, _, _ = batches(world[0], train=TrainConfig(batch_size=1, monitor=""))
    assert str(error.value) == (
        f"train.batch_size: invalid value 5000 (expected at most {single.steps}, the windows of users' sequences); "
        f"lower it, e.g. --set train.batch_size={single.steps // 4}"
    )
