"""Deliberate faults, one line of the package each, and the test files that must notice them.

A fault is found by its text, which stands once in the package, and a test file by its name, so that files may move.
Where the code changes, the text of its fault changes with it; `test_faults.py` says which one no longer applies.
"""

from tests.mutations.fault import OPTIONS, Fault
from tests.mutations.sampling_faults import SAMPLING_FAULTS

FAULTS = (
    *SAMPLING_FAULTS,
    # --- batches and losses -------------------------------------------------------------------------------------------
    Fault(
        "a labelled negative is given negatives",
        "positive = label == 1  # a labelled",
        "positive = label >= 0  # a labelled",
        OPTIONS,
    ),
    Fault(
        "rows' weights do not reach the click loss",
        "weights = candidates.weights[:, tf.newaxis] * tf.concat([own, candidates.negatives_weight], axis=1)",
        "weights = tf.concat([own, candidates.negatives_weight], axis=1)",
        OPTIONS,
    ),
    Fault(
        "correct=False is ignored",
        """        self.learn_temperature = learn_temperature
        self.correct = correct
""",
        """        self.learn_temperature = learn_temperature
        self.correct = True
""",
        OPTIONS,
    ),
    Fault(
        "learn_temperature is ignored",
        "        self.learn_temperature = learn_temperature\n        self.correct = correct\n",
        "        self.learn_temperature = False\n        self.correct = correct\n",
        OPTIONS,
    ),
    Fault(
        "BilateralSoftmax has its temperatures exchanged",
        """        self.temperature_positive = temperature_positive
        self.temperature_negative = temperature_negative
""",
        """        self.temperature_positive = temperature_negative
        self.temperature_negative = temperature_positive
""",
        OPTIONS,
    ),
    Fault(
        "the correction of a column has the wrong sign",
        "bias = -self.columns_log_q if correct",
        "bias = self.columns_log_q if correct",
        ("test_losses.py",),
    ),
    Fault(
        "the correction of the positive is forgotten",
        "own, negatives = own - self.positive_log_q, negatives - self.negatives_log_q",
        "own, negatives = own, negatives - self.negatives_log_q",
        ("test_losses.py",),
    ),
    Fault(
        "negatives that are not there count",
        "tf.where(self.negatives_weight > 0.0, negatives, IMPOSSIBLE)",
        "negatives",
        ("test_losses.py",),
    ),
    Fault(
        "hits count as negatives in a mean",
        "met = tf.cast(there - (bounds[1:] - bounds[:-1]), tf.float32)",
        "met = tf.cast(there, tf.float32)",
        ("test_losses.py",),
    ),
    Fault(
        "an empty slot of the queue is a candidate",
        "bias=tf.where(there, bias, IMPOSSIBLE)",
        "bias=tf.where(there, bias, 0.0)",
        ("test_losses.py",),
    ),
    Fault(
        "the margin of the triplet loss has the wrong sign",
        "candidates.positive - self.margin",
        "candidates.positive + self.margin",
        ("test_losses.py",),
    ),
    Fault(
        "the contrastive loss ignores its weight",
        "return attraction + self.negative_weight * mean, ranks",
        "return attraction + mean, ranks",
        ("test_losses.py",),
    ),
    Fault(
        "the logit of the cosine has no gradient at its ends",
        "return 2.0 * tf.math.atanh(COSINE_SCALE * cosine)",
        "return 2.0 * tf.math.atanh(tf.clip_by_value(cosine, -COSINE_SCALE, COSINE_SCALE))",
        ("test_cosine_logit.py",),
    ),
    Fault(
        "the click loss is divided by the number of candidates",
        "tf.math.divide_no_nan(tf.reduce_sum(weights * entropy), total)",
        "tf.reduce_mean(weights * entropy)",
        ("test_cosine_logit.py",),
    ),
    # --- tables and optimizer -----------------------------------------------------------------------------------------
    Fault(
        "row-wise Adagrad forgets its past",
        "a = held + tf.reduce_mean(tf.square(gradient), axis=1)",
        "a = tf.reduce_mean(tf.square(gradient), axis=1)",
        ("test_optimizers.py",),
    ),
    Fault(
        "the mean of values counts padding",
        "embeddings, places, segments, num_segments",
        "2.0 * embeddings, places, segments, num_segments",
        ("test_two_tower.py",),
    ),
    Fault(
        "no value reads row 0",
        "return embeddings * tf.cast(present, tf.float32)[..., tf.newaxis]",
        "return embeddings",
        ("test_two_tower.py",),
    ),
    Fault(
        "every row of a table begins with random content",
        "rows = np.flatnonzero(chosen[start:stop])",
        "rows = np.arange(stop - start)",
        ("test_two_tower.py",),
    ),
    Fault(
        "rows that hold something are drawn again",
        "empty = ~tf.reduce_any(held != 0, axis=1).numpy()",
        "empty = np.ones(len(rows), bool)",
        ("test_two_tower.py",),
    ),
    Fault(
        "a history reads only what an epoch's own items are",
        "items[sequence[merge_ranges(first, end, len(sequence))]] = True",
        "items[self.keys('train')['item_row'][rows]] = True",
        ("test_readable_rows.py",),
    ),
    Fault(
        "negatives begin without content",
        "found |= part.sampler.drawable(rows)",
        "found |= part.sampler.drawable(rows) & False",
        ("test_readable_rows.py",),
    ),
    Fault(
        "learning rates do not decay",
        "rate = config.initial_lr * tf.pow(config.lr_decay_rate, exponent)",
        "rate = config.initial_lr + 0.0 * exponent",
        ("test_optimizers.py",),
    ),
    # --- evaluation and search ----------------------------------------------------------------------------------------
    Fault(
        "seen items are ranked",
        "scores[queries.seen.block(start, stop)] = -np.inf",
        "queries.seen.block(start, stop)",
        ("test_ranking.py",),
    ),
    Fault(
        "test forgets that validation positives are seen",
        'which = "seen" if split == "test" else "train"\n    if evaluation',
        'which = "train"\n    if evaluation',
        ("test_protocol.py",),
    ),
    Fault(
        "excluded items are answered",
        "rough[excluded.queries, excluded.rows] = -np.inf",
        "rough[excluded.queries[:0], excluded.rows[:0]] = -np.inf",
        ("test_exact.py",),
    ),
    Fault(
        "ScaNN's short answers stay short",
        "short = np.flatnonzero(np.isneginf(scores[:, -1])) if len(table) else np.empty(0, np.int64)",
        "short = np.empty(0, np.int64)",
        ("test_scann_searcher.py",),
    ),
    Fault(
        "equal scores go to the higher row",
        "keys |= columns",
        "keys |= np.int64(2**31 - 1) - columns",
        ("test_topk.py",),
    ),
    # --- evaluation ---------------------------------------------------------------------------------------------------
    Fault(
        "confidence intervals take the queries of a user as independent",
        "sums = np.bincount(user, own - center)",
        "sums = own - center",
        ("test_intervals.py",),
    ),
    Fault(
        "an item is its own neighbour",
        "AND a.i < b.i",
        "AND a.i <= b.i",
        ("test_item_knn.py",),
    ),
    Fault(
        "a model as good as a baseline is warned about",
        "if own >= other:",
        "if own > other:",
        ("test_model_warnings.py",),
    ),
    Fault(
        "AUC counts ties for the negative",
        "(np.cumsum(counts) - (counts - 1) / 2)[place]",
        "(np.cumsum(counts) - counts / 2)[place]",
        ("test_click_quality.py",),
    ),
    # --- data ---------------------------------------------------------------------------------------------------------
    Fault(
        "rows at one time are parted by the split",
        'branches = [f"WHEN k.ts >= {cut} THEN {code}"',
        'branches = [f"WHEN k.ts > {cut} THEN {code}"',
        ("test_preparation.py",),
    ),
    Fault(
        "test rows do not know validation positives",
        '_MEMBERS = {"train": "split = 0", "seen": "split <= 1"}',
        '_MEMBERS = {"train": "split = 0", "seen": "split = 0"}',
        ("test_preparation.py",),
    ),
    Fault(
        "a missing number is standardized as if it were 0",
        "return tf.where(present, value, 0.0)[:, tf.newaxis]",
        "return value[:, tf.newaxis]",
        ("test_tower_encoder.py",),
    ),
    Fault(
        "the newest item of a history has no gap to the event",
        "place < counts[:, np.newaxis] - 1",
        "place < counts[:, np.newaxis]",
        ("test_time_gaps.py",),
    ),
)
