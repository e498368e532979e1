"""Every loss over candidates against NumPy: values, ranks, gradients, hand-computed numbers."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from tests.model.losses import oracle
from tests.model.losses.oracle import world
from twotower_tf.model.losses import blockwise_logits
from twotower_tf.model.losses.generalized_bce import GBCELoss
from twotower_tf.model.losses.pairwise import CosineContrastiveLoss, PairwiseLogisticLoss, TripletHingeLoss
from twotower_tf.model.losses.softmax import BilateralSoftmaxLoss, SoftmaxLoss

# name: (layer, its arguments, the row's loss, its arguments, temperature and correction of the logits that rank)
LOSSES = {
    "softmax": (SoftmaxLoss, (0.1, False, True), oracle.softmax, (0.1, 1), (0.1, True)),
    "softmax_wide": (SoftmaxLoss, (0.02, False, True), oracle.softmax, (0.02, 1), (0.02, True)),
    "softmax_uncorrected": (SoftmaxLoss, (0.5, False, False), oracle.softmax, (0.5, 0), (0.5, False)),
    "bilateral": (BilateralSoftmaxLoss, (0.3, 0.2, False), oracle.bilateral, (0.3, 0.2, 0), (0.2, False)),
    "bilateral_corrected": (BilateralSoftmaxLoss, (0.1, 0.4, True), oracle.bilateral, (0.1, 0.4, 1), (0.4, True)),
    "gbce": (GBCELoss, (0.3, False, 0.75), oracle.gbce, (0.3, 0.75), (1.0, False)),
    "contrastive": (CosineContrastiveLoss, (0.3, 5.0), oracle.contrastive, (0.3, 5.0), (1.0, False)),
    "logistic": (PairwiseLogisticLoss, (0.2, False), oracle.logistic, (0.2,), (1.0, False)),
    "triplet": (TripletHingeLoss, (0.4,), oracle.triplet, (0.4,), (1.0, False)),
}
# batch, own negatives, shared, queue, in-batch
SHAPES = [
    (1, 0, 0, 0, True),
    (1, 3, 0, 0, False),
    (9, 0, 0, 0, True),
    (7, 2, 0, 0, False),
    (8, 0, 11, 0, False),
    (5, 4, 6, 3, True),
    (6, 1, 0, 5, True),
    (3, 2, 20, 0, False),
    (4, 0, 0, 7, False),
]


def made(name, w, **changes):
    """The layer, with the world's past in its queue."""
    layer_class, arguments, *_ = LOSSES[name]
    layer = layer_class(*arguments, in_batch=w.in_batch, queue=len(w.past), **changes)
    layer.build({key: value.shape for key, value in w.inputs().items()})
    if len(w.past):
        layer.past.assign(w.past)
    return layer


def run(layer, given):
    """The layer's added loss and its ranks."""
    ranks = layer({name: tf.constant(value) for name, value in given.items()})
    return float(layer.losses[0]), ranks.numpy()[:, 0].tolist()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("rows", [None, 2])
def test_loss_and_ranks_equal_numpy(name, rows, monkeypatch):
    _, _, row, arguments, ranking = LOSSES[name]
    for seed, shape in enumerate(SHAPES):
        if rows and shape[0] < 5:
            continue
        w = world(seed, *shape)
        if rows:  # blocks of two rows, the last one mostly not full
            monkeypatch.setattr(blockwise_logits, "BLOCK_ELEMENTS", rows * max(1, len(w.column_log_q)) + 1)
        loss, ranks = run(made(name, w), w.inputs())
        expected = oracle.total(w, row, *arguments)
        assert abs(loss - expected) < 1e-5 * max(1.0, abs(expected)), shape
        assert ranks == oracle.ranks(w, *ranking), shape


@pytest.mark.parametrize("name", LOSSES)
def test_products_in_bfloat16_give_two_digits_of_losses_ranks_and_gradients(name):
    _, _, row, arguments, ranking = LOSSES[name]
    w = world(29, 200, 1, 40, 30, True, hit_share=0.05)
    given = {key: tf.constant(value) for key, value in w.inputs().items()}
    vectors = [given["user_vectors"], given["item_vectors"]]
    layers = [made(name, w), made(name, w, products="bfloat16")]
    gradients = []
    for layer in layers:
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            ranks = layer(given).numpy()[:, 0]
            loss = layer.losses[0]
        gradients.append(np.concatenate([each.numpy() for each in tape.gradient(loss, vectors)]))
    expected = oracle.total(w, row, *arguments)
    assert abs(float(loss) - expected) < 0.004 * abs(expected)
    whole, narrow = gradients
    # A number of bfloat16 is right to one part in 512; what a product is rounded by adds up by chance. Logits of a
    # temperature of 0.02 are tens apart, and a part in 512 of that is more.
    limit = 0.03 if name == "softmax_wide" else 0.01
    assert 0.0 < np.linalg.norm(narrow - whole) < limit * np.linalg.norm(whole)
    off = np.abs(ranks - oracle.ranks(w, *ranking))
    assert off.max() <= 5 and off.mean() < 0.5  # of 271 candidates, a few of which are as near as its own item


@pytest.mark.parametrize("name", ["softmax", "triplet"])
@pytest.mark.parametrize("ranked", [1, 4, 5])
def test_only_the_first_rows_are_ranked(name, ranked, monkeypatch):
    _, _, row, arguments, ranking = LOSSES[name]
    w = world(3, 8, 2, 5, 0, True)
    monkeypatch.setattr(blockwise_logits, "BLOCK_ELEMENTS", 2 * len(w.column_log_q))
    monkeypatch.setattr(blockwise_logits, "RANKED", ranked)
    loss, ranks = run(made(name, w), w.inputs())
    assert ranks == oracle.ranks(w, *ranking)[:ranked] + [-1] * (8 - ranked)
    assert abs(loss - oracle.total(w, row, *arguments)) < 1e-5


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(4, 2, 3, 3, True), (3, 0, 5, 0, False)])
def test_gradients_are_those_of_finite_differences(name, shape, monkeypatch):
    _, _, row, arguments, _ = LOSSES[name]
    w = world(17, *shape)
    monkeypatch.setattr(blockwise_logits, "BLOCK_ELEMENTS", 3 * len(w.column_log_q))
    layer, given = made(name, w), {key: tf.constant(value) for key, value in w.inputs().items()}
    vectors = [given["user_vectors"], given["item_vectors"]]
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        layer(given)
        tripled = 3.0 * layer.losses[0]
    by_user, by_item = (each.numpy() for each in tape.gradient(tripled, vectors))
    batch, n = w.negatives.shape[:2]
    parts = {"users": by_user, "own": by_item[:batch], "shared": by_item[batch * (1 + n) :]}
    parts["negatives"] = by_item[batch : batch * (1 + n)].reshape(batch, n, oracle.DIM)
    size = max(1.0, np.abs(by_user).max())
    w.own_as_columns = w.own

    def slope(part, place):
        losses = []
        for step in (1e-6, -1e-6):
            moved = getattr(w, part).copy()
            moved[place] += step
            losses.append(oracle.total(dataclasses.replace(w, **{part: moved}), row, *arguments))
        return (losses[0] - losses[1]) / 2e-6

    held = np.isfinite(w.column_log_q[len(w.column_log_q) - len(w.past) :]).sum()
    for part, gradient in parts.items():
        for place in np.ndindex(gradient.shape):
            expected = slope(part, place)
            if part == "own":  # as columns they are pushed for the queue's vectors too, which take no gradient
                expected += slope("own_as_columns", place) * (batch + held) / batch
            assert abs(gradient[place] - 3.0 * expected) < 1e-5 * size, (part, place)


@pytest.mark.parametrize("name", ["softmax", "logistic"])
def test_a_learned_temperature_follows_its_gradient_and_a_fixed_one_has_none(name):
    w = world(3, 5, 2, 4, 0, True)
    row, arguments = (oracle.softmax, (1,)) if name == "softmax" else (oracle.logistic, ())
    kinds = {"softmax": lambda learn: SoftmaxLoss(0.3, learn, True, in_batch=True)}
    kinds["logistic"] = lambda learn: PairwiseLogisticLoss(0.3, learn, in_batch=True)
    learned, fixed = kinds[name](True), kinds[name](False)
    with tf.GradientTape() as tape:
        learned({key: tf.constant(value) for key, value in w.inputs().items()})
        loss = learned.losses[0]
    gradient = float(tape.gradient(loss, learned.log_temperature))
    losses = [oracle.total(w, row, 0.3 * math.exp(step), *arguments) for step in (1e-6, -1e-6)]
    assert abs(gradient - (losses[0] - losses[1]) / 2e-6) < 1e-5
    run(fixed, w.inputs())
    assert fixed.trainable_weights == [] and len(learned.trainable_weights) == 1
    assert abs(float(learned.log_temperature) - math.log(0.3)) < 1e-6


def test_the_scale_of_a_user_follows_from_the_users_vector(monkeypatch):
    w = world(5, 6, 2, 4, 3, True)
    monkeypatch.setattr(blockwise_logits, "BLOCK_ELEMENTS", 2 * len(w.column_log_q))
    layer, given = SoftmaxLoss(0.3, False, True, True, in_batch=True, queue=3), w.inputs()
    layer.build({key: value.shape for key, value in given.items()})
    layer.past.assign(w.past)
    assert [weight.name for weight in layer.trainable_weights] == ["user_scale:0"]
    assert abs(run(layer, given)[0] - oracle.total(w, oracle.softmax, 0.3, 1)) < 1e-5  # all users alike at first

    def personal(w, b, direction):
        return oracle.softmax(w, b, 0.3 / np.exp(w.users[b] @ direction), 1)

    direction = np.linspace(-1.5, 2, oracle.DIM)
    layer.user_scale.assign(direction)
    users = tf.constant(given["user_vectors"])
    with tf.GradientTape() as tape:
        tape.watch(users)
        layer({**given, "user_vectors": users})
        loss = layer.losses[0]
    assert abs(float(loss) - oracle.total(w, personal, direction)) < 1e-5
    by_scale, by_user = (each.numpy() for each in tape.gradient(loss, [layer.user_scale, users]))
    for place in range(oracle.DIM):
        step = 1e-6 * np.eye(oracle.DIM)[place]
        slope = (oracle.total(w, personal, direction + step) - oracle.total(w, personal, direction - step)) / 2e-6
        assert abs(by_scale[place] - slope) < 1e-4
        moved = [dataclasses.replace(w, users=w.users + sign * step * (np.arange(6) == 2)[:, None]) for sign in (1, -1)]
        slope = (oracle.total(moved[0], personal, direction) - oracle.total(moved[1], personal, direction)) / 2e-6
        assert abs(by_user[2, place] - slope) < 1e-4


@pytest.mark.parametrize("name", ["bilateral", "contrastive", "triplet"])
def test_other_losses_train_no_weight_of_their_own(name):
    w = world(3, 5, 2, 4, 3, True)
    assert made(name, w).trainable_weights == []


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_without_a_negative_loses_nothing(name):
    w = world(5, 3, 2, 2, 0, True)
    w.hits = np.array([(b, j) for b in range(3) for j in range(5) if b == 1 or b == j])
    w.present[1] = 0.0
    w.weights = np.array([0.0, 1.0, 0.0])
    given = {key: tf.constant(value) for key, value in w.inputs().items()}
    layer = made(name, w)
    with tf.GradientTape() as tape:
        tape.watch(given["item_vectors"])
        layer(given)
        loss = layer.losses[0]
    left = 1.0 - w.users[1] @ w.own[1] if name == "contrastive" else 0.0  # the part without negatives
    assert abs(float(loss) - left) < 1e-6
    gradient = tape.gradient(loss, given["item_vectors"]).numpy()
    assert np.isfinite(gradient).all()
    gradient[1] += w.users[1] * (name == "contrastive")
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_nothing_weighs_anything():
    for name in LOSSES:
        w = world(5, 3, 2, 2, 0, True)
        w.weights[:] = 0.0
        assert run(made(name, w), w.inputs())[0] == 0.0


def test_an_empty_queue_is_met_by_nobody():
    for name, (_, _, row, arguments, _) in LOSSES.items():
        w = world(8, 4, 0, 0, 6, False)
        w.column_log_q[:] = np.inf
        w.hits = w.hits[:0]
        loss, ranks = run(made(name, w), w.inputs())
        assert abs(loss - oracle.total(w, row, *arguments)) < 1e-6 and ranks == [0, 0, 0, 0]


def test_a_small_temperature_gives_numbers_at_the_extremes():
    # One user opposite to its own item, one on it; cosines of -1 and 1 at temperature 0.01 are logits 200 apart.
    w = world(1, 2, 0, 0, 0, True)
    w.users, w.own = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]), np.array([[-1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    w.hits, w.weights = np.array([[0, 0], [1, 1]]), np.ones(2)
    w.column_log_q = w.positive_log_q = np.log([0.5, 0.5])
    layer = SoftmaxLoss(0.01, True, True, in_batch=True)
    given = {key: tf.constant(value) for key, value in w.inputs().items()}
    with tf.GradientTape() as tape:
        tape.watch(given["user_vectors"])
        layer(given)
        loss = layer.losses[0]
    # Row 0: own logit -100, the other's 0; row 1: own 100, the other's 0.
    assert abs(float(loss) - 50.0) < 1e-3
    gradients = tape.gradient(loss, [given["user_vectors"], layer.log_temperature])
    np.testing.assert_allclose(gradients[0][0], [50.0, 50.0, 0.0, 0.0], atol=1e-3)
    assert abs(float(gradients[1]) + 50.0) < 1e-3


def test_the_correction_favours_popular_items():
    # Two items, equally near. The popular one is in three of four batches' places: as a negative it is met three times
    # as often, so its logit must come down by ln 3 against the rare one's: a softmax over [-ln .75, -ln .25] gives the
    # popular positive exp(-ln .75) / (exp(-ln .75) + exp(-ln .25)) = 1/4, a loss of ln 4, the rare one 3/4, ln 4/3.
    # Its gradient pulls the popular positive harder (3/4) than the rare one (1/4), which repairs that the popular
    # item is pushed away as a negative three times as often.
    w = world(1, 2, 0, 0, 0, True)
    w.users = w.own = np.array([[1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    w.hits = np.array([[0, 0], [1, 1]])
    w.column_log_q = w.positive_log_q = np.log([0.75, 0.25])
    for weights, expected in (([1, 0], math.log(4)), ([0, 1], math.log(4 / 3)), ([1, 1], math.log(16 / 3) / 2)):
        w.weights = np.array(weights, float)
        layer = SoftmaxLoss(1.0, False, True, in_batch=True)
        given = {key: tf.constant(value) for key, value in w.inputs().items()}
        with tf.GradientTape() as tape:
            tape.watch(given["item_vectors"])
            layer(given)
            loss = layer.losses[0]
        assert abs(float(loss) - expected) < 1e-6
        pull = -tape.gradient(loss, given["item_vectors"]).numpy()[:, 0]
        if weights == [1, 0]:
            np.testing.assert_allclose(pull, [0.75, -0.75], atol=1e-6)
        if weights == [0, 1]:
            np.testing.assert_allclose(pull, [-0.25, 0.25], atol=1e-6)
    assert abs(run(SoftmaxLoss(1.0, False, False, in_batch=True), w.inputs())[0] - math.log(2)) < 1e-6


def test_pure_in_batch_is_equation_3_of_yi_et_al():
    # P(y_i | x_i) = exp(s_ii - log p_i) / Σ_{j in batch} exp(s_ij - log p_j), one matrix at once.
    w = world(2, 9, 0, 0, 0, True, hit_share=0.0)
    w.positive_log_q = w.column_log_q
    logits = w.users @ w.own.T / 0.1 - w.column_log_q
    probability = np.exp(np.diag(logits)) / np.exp(logits).sum(axis=1)
    expected = -(w.weights * np.log(probability)).sum() / w.weights.sum()
    assert abs(run(made("softmax", w), w.inputs())[0] - expected) < 1e-5


def test_uniform_shared_negatives_are_the_full_softmax_on_average():
    # E[(1/S) Σ exp(z_j) / q] over uniform draws is the whole catalogue's sum: with every item once, exactly.
    w = world(4, 5, 0, 12, 0, False, hit_share=0.0)
    w.column_log_q[:] = w.positive_log_q[:] = -math.log(12)
    full = [
        math.log(np.exp(w.users[b] @ w.shared.T / 0.1).sum() + math.exp(w.users[b] @ w.own[b] / 0.1))
        - w.users[b] @ w.own[b] / 0.1
        for b in range(5)
    ]
    expected = (w.weights * full).sum() / w.weights.sum()
    assert abs(run(made("softmax", w), w.inputs())[0] - expected) < 1e-5


def test_equal_temperatures_make_the_bilateral_loss_a_softmax_without_its_positive():
    w = world(6, 6, 2, 4, 0, True)
    w.weights = np.eye(6)[2]
    layer = BilateralSoftmaxLoss(0.2, 0.2, False, in_batch=True)
    cosines, _, weights = w.met(2)
    decoupled = -math.log(math.exp(w.users[2] @ w.own[2] / 0.2) / (weights * np.exp(cosines / 0.2)).sum())
    assert abs(run(layer, w.inputs())[0] - decoupled) < 1e-5
    # exp(-softmax loss) and exp(-decoupled loss) are a/(a + b) and a/b.
    softmax = run(SoftmaxLoss(0.2, False, False, in_batch=True), w.inputs())[0]
    assert abs(math.exp(softmax) - math.exp(decoupled) - 1.0) < 1e-4


def test_weights_ten_times_as_large_teach_the_same():
    for name in LOSSES:
        w = world(9, 6, 2, 3, 0, True)
        before = run(made(name, w), w.inputs())[0]
        w.weights = 10.0 * w.weights
        assert abs(run(made(name, w), w.inputs())[0] - before) < 1e-5 * max(1.0, abs(before))


@pytest.mark.parametrize("name", LOSSES)
def test_a_layer_is_rebuilt_from_its_configuration(name):
    w = world(9, 4, 2, 3, 5, True)
    layer = made(name, w)
    again = type(layer).from_config(layer.get_config())
    again.build({key: value.shape for key, value in w.inputs().items()})
    again.past.assign(w.past)
    assert run(again, w.inputs()) == run(layer, w.inputs()) and again.name == layer.name
