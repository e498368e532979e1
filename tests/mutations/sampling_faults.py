"""Deliberate faults of what is drawn for training, and of sequences."""

from tests.mutations.fault import OPTIONS, Fault

SAMPLING_FAULTS = (
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
        "count, compute_weight(each, plan, batch))",
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
        "(SECONDS_PER_DAY * half_life)",
        "(3_600.0 * half_life)",
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
)
