"""The losses written out row by row in float64 NumPy, and random batches to try them on."""

from dataclasses import dataclass

import numpy as np

DIM = 4


@dataclass
class World:
    """A batch as the samplers give it; `present` and `hits` say which candidates are not negatives."""

    users: np.ndarray  # [B, D]
    own: np.ndarray  # [B, D]
    negatives: np.ndarray  # [B, n, D]
    shared: np.ndarray  # [S, D]
    past: np.ndarray  # [Q, D]
    in_batch: bool
    positive_log_q: np.ndarray  # [B]
    negative_log_q: np.ndarray  # [B, n]
    present: np.ndarray  # [B, n] what each counts, 0 where there is none
    column_log_q: np.ndarray  # [C]
    hits: np.ndarray  # [H, 2]
    weights: np.ndarray  # [B]
    own_as_columns: np.ndarray | None = None  # [B, D] where they are moved apart from the positives

    def columns(self):
        own = self.own if self.own_as_columns is None else self.own_as_columns
        return np.concatenate([own if self.in_batch else own[:0], self.shared, self.past])

    def items(self):
        return np.concatenate([self.own, self.negatives.reshape(-1, DIM), self.shared])

    def inputs(self):
        """What the layer is given."""
        given = {
            "user_vectors": self.users,
            "item_vectors": self.items(),
            "positive_log_q": self.positive_log_q[:, None],
            "sample_weight": self.weights[:, None],
        }
        if self.negatives.shape[1]:
            given |= {"negative_log_q": self.negative_log_q, "negative_weight": self.present}
        given = {name: value.astype(np.float32) for name, value in given.items()}
        if len(self.column_log_q):
            given["column_log_q"] = self.column_log_q[:, None].astype(np.float32)
            given["hits"] = self.hits.astype(np.int32)
        return given

    def met(self, b):
        """Cosines, log q and weights of the negatives that row b really meets."""
        hits = {int(column) for row, column in self.hits if row == b}
        columns = self.columns()
        met = [
            (self.users[b] @ columns[j], self.column_log_q[j], 1.0)
            for j in range(len(columns))
            if j not in hits and np.isfinite(self.column_log_q[j])
        ]
        met += [
            (self.users[b] @ self.negatives[b, k], self.negative_log_q[b, k], self.present[b, k])
            for k in range(self.negatives.shape[1])
            if self.present[b, k]
        ]
        return np.array(met, np.float64).reshape(-1, 3).T


def world(seed, batch, n, shared=0, queue=0, in_batch=False, hit_share=0.2):
    """A random batch; some negatives absent, some slots empty, some weights 0 but not all."""
    rng = np.random.default_rng(seed)

    def unit(*shape):
        x = rng.normal(size=(*shape, DIM))
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    columns = batch * in_batch + shared + queue
    column_log_q = np.log(rng.uniform(0.001, 0.9, columns))
    column_log_q[columns - queue :][: rng.integers(0, queue + 1)] = np.inf
    hit = (rng.random((batch, columns)) < hit_share) & np.isfinite(column_log_q)
    if in_batch:
        hit[np.arange(batch), np.arange(batch)] = True
    weights = rng.uniform(0.0, 2.0, batch) * (rng.random(batch) < 0.8)
    weights[0] += 0.5
    return World(
        users=unit(batch),
        own=unit(batch),
        negatives=unit(batch, n),
        shared=unit(shared),
        past=unit(queue),
        in_batch=in_batch,
        positive_log_q=np.log(rng.uniform(0.001, 0.9, batch)),
        negative_log_q=np.log(rng.uniform(0.001, 0.9, (batch, n))),
        present=(rng.random((batch, n)) < 0.7) * rng.uniform(0.2, 5.0, (batch, n)),
        column_log_q=column_log_q,
        hits=np.argwhere(hit),
        weights=weights,
    )


def log_sum(values):
    peak = max(values)
    return peak + np.log(np.sum(np.exp(np.array(values) - peak)))


def mean(values, weights):
    return np.average(values, weights=weights) if len(values) else 0.0


def softmax(w, b, temperature, correct):
    cosines, log_q, weights = w.met(b)
    own = w.users[b] @ w.own[b] / temperature - correct * w.positive_log_q[b]
    return log_sum([own, *(cosines / temperature - correct * log_q + np.log(weights))]) - own


def bilateral(w, b, positive, negative, correct):
    cosines, log_q, weights = w.met(b)
    if not len(cosines):
        return 0.0
    return -(w.users[b] @ w.own[b]) / positive + log_sum(list(cosines / negative - correct * log_q + np.log(weights)))


def gbce(w, b, temperature, t):
    cosines, _, weights = w.met(b)
    if not len(cosines):
        return 0.0
    alpha = min(1.0, weights.sum() * np.exp(w.positive_log_q[b]))
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    own = beta * np.log1p(np.exp(-(w.users[b] @ w.own[b]) / temperature))
    return (own + np.sum(weights * np.log1p(np.exp(cosines / temperature)))) / (1 + weights.sum())


def contrastive(w, b, margin, negative_weight):
    cosines, _, weights = w.met(b)
    return 1.0 - w.users[b] @ w.own[b] + negative_weight * mean(np.maximum(0.0, cosines - margin), weights)


def logistic(w, b, temperature):
    cosines, _, weights = w.met(b)
    return mean(np.log1p(np.exp(-(w.users[b] @ w.own[b] - cosines) / temperature)), weights)


def triplet(w, b, margin):
    cosines, _, weights = w.met(b)
    return mean(np.maximum(0.0, margin - w.users[b] @ w.own[b] + cosines), weights)


def total(w, row, *arguments):
    """The weighted mean of a row's loss."""
    return sum(w.weights[b] * row(w, b, *arguments) for b in range(len(w.users))) / w.weights.sum()


def ranks(w, temperature=1.0, correct=False):
    """How many candidates of each row have a higher logit than its own item."""
    found = []
    for b in range(len(w.users)):
        cosines, log_q, _ = w.met(b)
        own = w.users[b] @ w.own[b] / temperature - correct * w.positive_log_q[b]
        found.append(int(np.sum(cosines / temperature - correct * log_q > own)))
    return found
