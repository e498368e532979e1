"""Training on users' sequences, against the log by hand: every event once, with its own history, profile and time."""

import collections
import csv
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.model.filled import fill_tables
from twotower_tf import config as configuration
from twotower_tf.config import (
    GRU,
    CosineLogitBCE,
    DataConfig,
    ExperimentConfig,
    GivenSplit,
    Hash,
    History,
    InBatch,
    InBatchSoftmax,
    Labelled,
    ModelConfig,
    Queue,
    SampledSoftmax,
    SamplingConfig,
    SelfAttention,
    TrainConfig,
    Uniform,
    Weekday,
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
from twotower_tf.train.sequences import Windows

USERS, ITEMS, LENGTH, DAY = 24, 30, 6, 86_400
SHARED = SamplingConfig((Uniform(per_positive=8, shared=True),), recency_half_life=3.0)


def write_log(path, seed=4, longest=20):
    """User u has between one and 20 events; times repeat; a fifth of the rows has label 0; the last is held out."""
    rng = np.random.default_rng(seed)
    log = []
    for user in range(USERS):
        count = 1 + user * (longest - 1) // (USERS - 1)
        times = np.sort(rng.integers(0, 12, count)) * DAY + 5 * DAY
        for place, time in enumerate(times):
            split = "test" if place and place == count - 1 else "train"
            label = int(split == "test" or place == 0 or rng.random() < 0.8)
            item, mood = rng.integers(ITEMS), rng.integers(9)
            log.append(
                {
                    "user": f"u{user}",
                    "item": f"i{item}",
                    "mood": f"m{mood}",
                    "time": time,
                    "click": label,
                    "split": split,
                }
            )
    with (path / "events.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(log[0]))
        writer.writeheader()
        writer.writerows(log)
    with (path / "items.csv").open("w") as file:  # every third item has no shelf
        file.write("item,shelf\n" + "".join(f"i{i},{f's{i % 4}' if i % 3 else ''}\n" for i in range(ITEMS)))
    return log


def experiment(root, encoder="self_attention", **changes):
    fields = {
        "loss": SampledSoftmax(temperature=0.2, correct=False),
        "sampling": SHARED,
        "train": TrainConfig(batch_size=4, monitor=""),
    }
    return ExperimentConfig(
        name="t",
        data=DataConfig(
            root=str(root),
            events="events.csv",
            items="items.csv",
            user_id="user",
            item_id="item",
            timestamp="time",
            label="click",
            split=GivenSplit("split"),
        ),  # fmt: skip
        item_features=(Hash("item", buckets=50_000), Hash("shelf", buckets=1000)),  # a bucket for each value
        user_features=(
            Hash("mood", buckets=100),
            Weekday("time"),
            History(of="item", length=LENGTH, encoder=encoder),
            History(of="shelf", length=LENGTH, encoder=GRU(), name="shelves"),
            History(of="item", length=3, encoder="mean", name="recent"),
        ),
        model=ModelConfig(embedding_dim=8, vector_dim=12, item_hidden=(), user_hidden=(16,)),
        **(fields | changes),
    )


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


def keys(start, end, user):
    return {"user_row": np.array(user), "history_start": np.array(start), "history_end": np.array(end)}


def test_windows_are_few_reach_back_and_are_cut_at_other_places():
    # Of user 0 three new events, whose histories have 40 positives and more of earlier runs; user 1 has 14 events.
    columns = keys([0, 0, 0, *[50] * 14], [40, 41, 43, *range(50, 64)], [0] * 3 + [1] * 14)
    windows = Windows(columns, np.arange(17), length=6)
    assert windows.count == 1 + 3
    cuts = set()
    for seed in range(12):
        epoch = windows.epoch(np.arange(17), np.random.default_rng(seed), size=1)
        assert sorted(epoch.rows) == list(range(17)) and len(epoch.first) == 4
        covered = []
        for number, (first, stop) in enumerate(zip(epoch.first, epoch.stop, strict=True)):
            rows = slice(epoch.bounds[number], epoch.bounds[number + 1])
            np.testing.assert_array_equal(
                epoch.seen[rows], np.maximum(columns["history_end"][epoch.rows[rows]] - first, 0)
            )
            assert stop - first <= 6 and stop - first == epoch.seen[rows].max()
            if 0 in epoch.rows[rows]:
                assert (first, stop) == (37, 43)  # the last event sees six, the first the three before it
            else:
                covered += range(first, stop)
                cuts.add(first)
        assert sorted(covered) == list(range(50, 63))
    assert len(cuts) > 3
    thinned = windows.epoch(np.array([2, 16]), np.random.default_rng(0), size=1)
    assert sorted(thinned.rows) == [2, 16] and len(thinned.first) == 4  # the others are empty
    assert (thinned.stop - thinned.first).tolist().count(0) == 2


def test_batches_have_windows_of_about_one_length():
    counts = np.random.default_rng(1).integers(1, 40, 200)
    user = np.repeat(np.arange(200), counts)
    start = np.repeat(np.cumsum(counts) - counts, counts)
    columns = keys(start, start + np.concatenate([np.arange(count) for count in counts]), user)
    epoch = Windows(columns, np.arange(len(user)), 40).epoch(np.arange(len(user)), np.random.default_rng(0), size=20)
    lengths = (epoch.stop - epoch.first).reshape(10, 20)
    padded = (lengths.max(axis=1) * 20).sum()
    assert padded < 1.25 * (counts - 1).sum() < 0.8 * 200 * 39
    assert np.abs(np.diff(lengths.mean(axis=1))).max() > 5  # in random order
    by_time = Windows(columns, np.arange(len(user)), 40).epoch(
        np.arange(len(user)), np.random.default_rng(0), 20, times=np.repeat(np.arange(200), counts)
    )
    users = user[by_time.rows[by_time.bounds[:-1]]].reshape(10, 20)
    assert (users.max(axis=1) - users.min(axis=1)).max() < 60


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


REFUSED = {
    "data.timestamp=": "user_features[2].encoder: self_attention reads the order of events, and the log has no times; "
    "name their column in data.timestamp, or use encoder='mean'",
    "user_features.2.length=7": "train.rows: 'sequence' cuts all histories with a causal encoder into the same "
    "windows; 'history' has 7, 'shelves' has 6; give them one length, or set train.rows to 'event'",
    "user_features.2.length=0": "user_features.2.length: invalid value '0' (expected a number greater than 0)",
    "user_features.2.encoder.heads=3": "user_features[2].encoder.heads: invalid value 3 (expected a divisor of 8, the "
    "embedding_dim of 'item')",
    "user_features=(History(of='item',encoder='mean'),)": "train.rows: invalid value 'sequence' without a causal "
    "history encoder (expected a History with encoder='self_attention' or 'gru'); use one, or set train.rows to "
    "'event'",
    "user_features=(History(of='item',encoder=Attention(query='user')),)": "user_features[0].encoder.query: invalid "
    "value 'user' for a user tower without a feature other than histories; add one, or use query='learned'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_configuration_that_no_sequence_can_be_trained_with_is_refused(text):
    config = experiment("data")
    more = {"data.timestamp=": ["user_features.1=Hash('day',buckets=9)", "sampling.recency_half_life=0"]}
    texts = [*more.get(text, []), *(["train.rows=sequence"] if "encoder='mean'" in text else []), text]
    with pytest.raises(ConfigError) as error:
        configuration.override(config, texts)
    assert str(error.value).endswith(REFUSED[text])


def test_rows_are_chosen_by_the_encoder_unless_they_are_given():
    config = experiment("data")
    assert config.train.rows == "sequence"
    assert dataclasses.replace(config, train=TrainConfig(rows="event")).train.rows == "event"
    plain = configuration.override(config, ["user_features.2.encoder=last", "user_features.3.encoder=mean"])
    assert plain.train.rows == "event"
    again = configuration.override(plain, ["user_features.2.encoder=SelfAttention(blocks=1)"])
    assert again.train.rows == "sequence" and again.user_features[2].encoder == SelfAttention(blocks=1)
    assert configuration.from_json(configuration.to_json(again), "here") == again
    assert configuration.override(plain, ["train.rows=event", "user_features.2.encoder=gru"]).train.rows == "event"


def test_batches_and_masks_follow_the_kind_of_rows_unless_they_are_given():
    config = dataclasses.replace(experiment("data"), train=TrainConfig(), sampling=SamplingConfig((InBatch(),)))

    def chosen(*texts):
        found = configuration.override(config, texts)
        return found.train.rows, found.train.batch_size, found.sampling.masked

    plain = ["user_features.2.encoder=last", "user_features.3.encoder=mean"]
    assert chosen() == ("sequence", 64, "row")
    assert chosen(*plain) == ("event", 4096, "user")
    assert chosen("train.rows=event") == ("event", 4096, "user")
    assert chosen(*plain, "train.batch_size=64", "sampling.masked=row") == ("event", 64, "row")
    assert chosen("train.batch_size=4096", "sampling.masked=user") == ("sequence", 4096, "user")
    assert chosen(*plain, "train=TrainConfig(batch_size=64)") == ("event", 64, "user")
    assert config.batch_size == 64
