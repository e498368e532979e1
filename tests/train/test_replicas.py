"""Workers that share a batch: the parts of a batch are the batch, and their gradients add up to that of one worker.

What workers send each other stands in a list here, in one process, so that the gradient is that of everything together.
`test_local_cluster` has real processes.
"""

import contextlib
import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.model.filled import fill_tables
from tests.train import changing_items, sequence_log, test_options, test_rows_of_users
from tests.train.option_cases import CASES
from twotower_tf.config import InBatch, InBatchSoftmax, Queue, SamplingConfig, SelfAttention, TrainConfig, Uniform
from twotower_tf.errors import ConfigError
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.model import replicas, two_tower
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train.batches import Batches, Shard

options = test_options.prepared
users = test_rows_of_users.world

LOSSES = ("queue", "full softmax", "bilateral, corrected", "contrastive", "click, weighted", "users", "sequences")
MORE = (
    "uniform",
    "recency",
    "mined",
    "sampled softmax",
    "gbce, shared, learned",
    "pairwise, weighted",
    "triplet",
    "click, labelled",
)


class Unanswered(Exception):
    """A worker has sent what others have to send, too, before it can go on."""


class Exchange:
    """Stands for the messages between workers: each step is computed again with one message more, until none is left.

    Attributes:
        sent: what workers have sent of the message that none has got yet.
    """

    def __init__(self, monkeypatch):
        self.sent, self._answers, self._place = [], [], 0
        monkeypatch.setattr(replicas, "gather_rows", lambda part: self._exchange(part, lambda all: tf.concat(all, 0)))
        monkeypatch.setattr(replicas, "sum_over_replicas", lambda value: self._exchange(value, tf.add_n))
        monkeypatch.setattr(replicas, "share_loss", lambda part: part)

    def _exchange(self, value, join):
        self._place += 1
        if self._place <= len(self._answers):
            return self._answers[self._place - 1]
        self.sent.append((value, join))
        raise Unanswered

    def compute(self, steps):
        """Returns what all workers' steps return."""
        self._answers = []
        while True:
            self.sent, results = [], []
            for step in steps:
                self._place = 0
                with contextlib.suppress(Unanswered):
                    results.append(step())
            if results:
                assert not self.sent  # all workers send alike
                return results
            self._answers.append(self.sent[0][1]([value for value, _ in self.sent]))


def experiments(options, users, tmp_path):
    """Yields (run directory, configuration) of a name."""

    def find(name):
        if name in CASES:
            return options / "run", test_options.experiment(options, CASES[name])
        if name == "users":
            both = SamplingConfig((InBatch(), Uniform(per_positive=7, shared=True), Queue(size=5)))
            return users[0] / "run", test_rows_of_users.experiment(users[0], sampling=both)
        sequence_log.write_log(tmp_path)
        config = sequence_log.experiment(
            tmp_path,
            SelfAttention(dropout=0.0),  # whose random numbers are each worker's own
            train=TrainConfig(rows="sequence", batch_size=5, monitor=""),
        )
        prepare_log(config, tmp_path / "run", threads=1)
        encode(config, Prepared.open(tmp_path / "run"))
        return tmp_path / "run", config

    return find


@pytest.mark.parametrize("name", [*LOSSES, *(pytest.param(name, marks=pytest.mark.quality) for name in MORE)])
def test_gradients_of_three_workers_add_up_to_those_of_one(name, options, users, tmp_path, monkeypatch):
    run_dir, config = experiments(options, users, tmp_path)(name)
    opened = Prepared.open(run_dir)
    encoded = EncodedData(config, opened)
    model = fill_tables(two_tower.build(config))
    queue = getattr(model.get_layer("loss"), "past", tf.Variable(0.0))

    def load(shard):
        made = Batches(config, opened, encoded, shard)
        if made.samplers.mined is not None:
            rng = np.random.default_rng(5)
            items, of_users = rng.normal(size=(opened.num_items, 4)), rng.normal(size=(opened.num_users, 4))
            made.samplers.mined.refresh(np.arange(opened.num_users), of_users, items)
        return [x for x, *_ in made.epoch(0)][:2]

    def compute(x, before):
        queue.assign(before)
        model(x, training=True)
        return tf.add_n(model.losses)

    def gradients(tape, loss):
        return [tf.convert_to_tensor(each).numpy() for each in tape.gradient(loss, model.trainable_weights)]

    expected, before = [], queue.numpy()
    for x in load(Shard(0, 1)):
        with tf.GradientTape() as tape:
            loss = compute(x, before)
        expected.append((before, loss.numpy(), gradients(tape, loss), queue.numpy()))
        before = queue.numpy()
    exchange, batches = Exchange(monkeypatch), [load(Shard(worker, 3)) for worker in range(3)]
    for step, (before, loss_of_one, gradients_of_one, queue_of_one) in enumerate(expected):
        steps = [functools.partial(compute, batches[worker][step], before) for worker in range(3)]
        with tf.GradientTape() as tape:
            loss = tf.add_n(exchange.compute(steps))
        np.testing.assert_allclose(loss.numpy(), loss_of_one, rtol=1e-5)
        assert loss_of_one > 1e-3
        np.testing.assert_allclose(queue.numpy(), queue_of_one, atol=1e-6)
        for got, wanted in zip(gradients(tape, loss), gradients_of_one, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-6)


def test_workers_read_items_as_of_the_same_times(tmp_path):
    changing_items.write(tmp_path / "data", users=40, items=30, days=10, clicks=600)
    shared = SamplingConfig((InBatch(), Uniform(20, shared=True)))
    train = TrainConfig(batch_size=32, monitor="")
    config = changing_items.experiment(tmp_path / "data", "table", sampling=shared, loss=InBatchSoftmax(), train=train)
    prepare_log(config, tmp_path / "run", threads=1)
    opened = Prepared.open(tmp_path / "run")
    encode(config, opened)
    encoded = EncodedData(config, opened)
    whole, _, _ = next(Batches(config, opened, encoded).epoch(0))
    own, drawn = [], []
    for worker in range(3):
        x, labels, _ = next(Batches(config, opened, encoded, Shard(worker, 3)).epoch(0))
        own.append(x["item_numeric"][: len(labels)])
        drawn.append(x["item_numeric"][len(labels) :])
    assert [len(each) for each in (*own, *drawn)] == [10, 11, 11, 6, 7, 7]
    np.testing.assert_array_equal(np.concatenate([*own, *drawn]), whole["item_numeric"])
    assert len(np.unique(whole["item_numeric"])) > 5


def test_a_batch_with_fewer_rows_than_workers_is_refused(options):
    config = test_options.experiment(options)
    config = dataclasses.replace(config, train=TrainConfig(batch_size=3, monitor=""), loss=InBatchSoftmax())
    opened = Prepared.open(options / "run")
    with pytest.raises(ConfigError, match=r"train.batch_size: invalid value 3 for 4 workers .*raise it"):
        Batches(config, opened, EncodedData(config, opened), Shard(1, 4))
