"""Deliberate faults, one line of the package each, and the test files that must notice them.

A fault is found by its text, which stands once in the package, and a test file by its name, so that files may move.
Where the code changes, the text of its fault changes with it; `test_faults.py` says which one no longer applies.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: what is wrong then.
        old: the right text, which stands once in the package.
        new: the wrong one.
        tests: names of test files of which at least one must fail; the cheapest first.
    """

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


OPTIONS = ("test_options.py",)

FAULTS = (
    # --- sampling: what is drawn --------------------------------------------------------------------------------------
    Fault(
        "the correction takes the share of all positives, not of those kept by thinning",
        "self.share: Floats = counts / max(counts.sum(), 1e-12)",
        "self.share: Floats = np.bincount(items, minlength=num_items) / max(len(items), 1)",
        OPTIONS,
    ),
    Fault(
        "Rejections(explicit=True) takes every impression",
        'rejected = keys["rejected"] if kind.explicit else keys["label"] != 1',
        'rejected = keys["label"] != 1',
        OPTIONS,
    ),
    Fault(
        "SkipAbove has list and place exchanged",
        '("user_row", "item_row", "label", "list", "position")\n            return',
        '("user_row", "item_row", "label", "position", "list")\n            return',
        OPTIONS,
    ),
    Fault(
        "SkipAbove takes what stood below, too",
        "self._ends = np.where(known, np.searchsorted(at[order], at), self._starts)",
        "self._ends = np.where(known, np.searchsorted(at[order], (shown + 1) * places), self._starts)",
        ("test_hard.py",),
    ),
    Fault(
        "a hard kind's weight is ignored",
        "count, negatives_plan.weight(each, plan, batch))",
        "count, 1.0)",
        OPTIONS,
    ),
    Fault(
        "a rejection's default weight does not grow with the candidates",
        "return max(1.0, drawn.columns(batch) / CANDIDATES_PER_WEIGHT)",
        "return 1.0",
        ("test_negatives_plan.py",),
    ),
    Fault(
        "hard negatives are corrected like draws from the catalogue",
        "logs = np.repeat(own[:, np.newaxis], self.draws, axis=1)",
        "logs = np.zeros((len(own), self.draws), np.float32)",
        ("test_mixture.py",),
    ),
    Fault(
        "a mixture forgets how often each kind draws",
        "sampler.own_probability(rows) * draws for sampler",
        "sampler.own_probability(rows) for sampler",
        (*OPTIONS, "test_mixture.py"),
    ),
    Fault(
        "shared draws are left out of the columns' mixture",
        "q += part.draws * part.sampler.shared_probability(known)",
        "q += 0 * part.sampler.shared_probability(known)",
        ("test_mixture.py",),
    ),
    Fault(
        "the queue is left out of the columns' mixture",
        "as_own = batch * self.in_batch + queued",
        "as_own = batch * self.in_batch",
        ("test_mixture.py",),
    ),
    Fault(
        "the queue keeps the oldest",
        "slots[self.queue - len(before) :] = before",
        "slots[: len(before)] = before",
        ("test_mixture.py",),
    ),
    Fault(
        "Popularity ignores alpha",
        "np.where(raised > 0, raised, 1.0) ** alpha * (raised > 0)",
        "np.where(raised > 0, raised, 1.0) * (raised > 0)",
        ("test_catalogue_samplers.py",),
    ),
    Fault(
        "Popularity ignores its floor",
        "raised = np.maximum(counts, floor)",
        "raised = np.maximum(counts, 1.0)",
        ("test_catalogue_samplers.py",),
    ),
    Fault(
        "Popularity counts in float32, whose whole numbers end at 2^24",
        "raised = np.maximum(counts, floor).astype(np.float64)",
        "raised = np.maximum(counts, floor).astype(np.float32)",
        ("test_catalogue_samplers.py",),
    ),
    Fault(
        "a user's positives are drawn as negatives",
        "left = np.flatnonzero(positives.contain(users[places], drawn))",
        "left = np.flatnonzero(np.zeros(len(places), bool))",
        ("test_catalogue_samplers.py",),
    ),
    Fault(
        "a user's positives weigh in the probability",
        "return self.weight(items) / self._left[rows.users][:, np.newaxis]",
        "return self.weight(items) / self._total + 0 * self._left[rows.users][:, np.newaxis]",
        ("test_catalogue_samplers.py",),
    ),
    Fault(
        "SameAttribute takes any item",
        "starts, sizes = self._members.starts[group], self._members.counts[group]",
        "starts, sizes = 0 * self._members.starts[group], 0 * group + len(self._members)",
        ("test_hard.py",),
    ),
    Fault(
        "Mined ranks one place too high",
        "cut = num_items - (first - 1)",
        "cut = num_items - first",
        ("test_hard.py",),
    ),
    Fault(
        "a rejection that was taken later stays a rejection",
        "Pairs(users, items, len(positives.counts), positives.num_items).without(positives)",
        "Pairs(users, items, len(positives.counts), positives.num_items)",
        ("test_hard.py",),
    ),
    Fault(
        "thinning keeps the hot",
        "kept = (np.sqrt(share / t) + 1.0) * t / share",
        "kept = np.sqrt(share / t)",
        ("test_epoch_selection.py",),
    ),
    Fault(
        "downsample is ignored where per_user is given",
        "kept = np.ones(len(users)) if self._kept is None else self._kept\n",
        "kept = np.ones(len(users))\n",
        OPTIONS,
    ),
    Fault(
        "a row's age is counted in hours",
        "_DAY = 86_400.0",
        "_DAY = 3_600.0",
        ("test_epoch_selection.py",),
    ),
    Fault(
        "rows without a time weigh nothing",
        "factors[~timed] = factors[timed].mean()",
        "factors[~timed] = 0.0",
        ("test_epoch_selection.py",),
    ),
    Fault(
        "accidental hits are found for the first of equal columns alone",
        "per_item = times[liked]",
        "per_item = np.minimum(times[liked], 1)",
        ("test_pairs.py", "test_options.py"),
    ),
    # --- sequences ----------------------------------------------------------------------------------------------------
    Fault(
        "a place of a sequence sees the one after it",
        "tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0)",
        "tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 1)",
        ("test_learned_encoders.py",),
    ),
    Fault(
        "an event sees itself in its sequence",
        "seen = np.where(end > start, end - begin, 0)",
        "seen = np.where(end > start, np.minimum(end - begin + 1, self._length), 0)",
        ("test_sequences.py",),
    ),
    Fault(
        "items without a value are counted as seen",
        "seen = before[windows.window, windows.seen]",
        "seen = windows.seen",
        ("test_sequences.py",),
    ),
    Fault(
        "the padding's position is taken as the newest",
        "last = tf.reduce_max(tf.where(ids >= 0, tf.range(1, shape[1] + 1), 0), axis=1)",
        "last = tf.fill([shape[0]], shape[1])",
        ("test_learned_encoders.py",),
    ),
    Fault(
        "only own items are masked, whatever sampling.masked says",
        'if self._masked == "row":',
        "if True:",
        ("test_sequences.py",),
    ),
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
        "tf.math.divide_no_nan(tf.reduce_sum(weights * entropy), tf.reduce_sum(weights))",
        "tf.reduce_mean(weights * entropy)",
        ("test_cosine_logit.py",),
    ),
    # --- tables and optimizer -----------------------------------------------------------------------------------------
    Fault(
        "row-wise Adagrad forgets its past",
        "a = tf.gather(slots[0], rows) + tf.reduce_mean(tf.square(gradient), axis=1)",
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
)
