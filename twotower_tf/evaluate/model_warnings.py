"""Lists warnings about a trained model: what is wrong with its figures, and what to change.

Each rule reads `metrics.json` and the configuration. A warning is an object of `metrics.json` with the rule's name and
a text, which `run`, `evaluate`, `export`, `versions` and report.html repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twotower_tf.config import ExperimentConfig, Hash, History, InBatchSoftmax, feature_name
from twotower_tf.evaluate.ranking import TOP

Document = Mapping[str, Any]

FEW_USERS = 100
COLLAPSED_COSINE = 0.9  # a tower counts as collapsed above this mean cosine of random pairs
COLLAPSED_RANK = 2.0  # item vectors count as collapsed below this effective rank
SHARED_VECTORS = 0.001  # share of the items whose vector another item has, too
_HEADLINE_K = 20


@dataclass(frozen=True)
class Facts:
    """What the rules read: metrics.json as `document`, train.json, prepared/columns.json; {} where one is missing."""

    config: ExperimentConfig
    document: Document
    training: Document
    columns: Document

    @property
    def headline(self) -> str:
        """The metric that the rules compare: recall at the cut-off nearest to 20."""
        return f"recall@{min(self.document['protocol']['ks'], key=lambda k: (abs(k - _HEADLINE_K), k))}"


def find_warnings(facts: Facts) -> list[dict[str, str]]:
    """Returns `{"name", "text"}` of each rule that applies, in the order of `RULES`."""
    found = ((name, rule(facts)) for name, rule in RULES.items())
    return [{"name": name, "text": text} for name, text in found if text]


def _has_history(config: ExperimentConfig) -> bool:
    return any(isinstance(each, History) for each in config.user_features)


def _learn_more(config: ExperimentConfig) -> str:
    more = "more features" if _has_history(config) else "a History or more features"
    return _join_remedies(config, [f"give the user tower {more}", "raise train.epochs"])


def _join_remedies(config: ExperimentConfig, remedies: list[str]) -> str:
    """Joins remedies by commas; the usual loss is one of them where the model has another."""
    if not isinstance(config.loss, InBatchSoftmax):
        remedies = [*remedies, "try loss=InBatchSoftmax()"]
    return f"{', '.join(remedies[:-1])}, or {remedies[-1]}"


def _below_baseline(facts: Facts, baseline: str, described: str, remedy: str) -> str:
    metric = facts.headline
    own, other = facts.document["metrics"][metric], facts.document["baselines"][baseline][metric]
    if own >= other:
        return ""
    return f"{metric} is {own:.4f}, below the {other:.4f} of {described}; {remedy}"


def _reaches(facts: Facts, baseline: str) -> bool:
    """Tests whether a baseline lies within the model's interval or below: of few users, chance explains more."""
    metric = facts.headline
    _, high = facts.document["intervals"].get(metric, (0.0, facts.document["metrics"][metric]))
    return bool(high >= facts.document["baselines"][baseline][metric])


def _below_chance(facts: Facts) -> str:
    if _reaches(facts, "random"):
        return ""
    remedy = "check data.label, data.positive and data.split: what is held out does not follow from what was trained"
    return _below_baseline(facts, "random", "random lists", remedy)


def _below_popularity(facts: Facts) -> str:
    described = "the most popular items for everyone"
    return "" if _below_chance(facts) else _below_baseline(facts, "popularity", described, _learn_more(facts.config))


def _below_recent_popularity(facts: Facts) -> str:
    if "recent_popularity" not in facts.document["baselines"] or _below_chance(facts) or _below_popularity(facts):
        return ""
    described = f"the most popular items of the last {facts.document['protocol']['recent_days']:.3g} days for everyone"
    remedy = "set sampling.recency_half_life, so that newer positives count more"
    if not _has_history(facts.config):
        remedy += ", or give the user tower a History"
    return _below_baseline(facts, "recent_popularity", described, remedy)


def _below_item_knn(facts: Facts) -> str:
    if "item_knn" not in facts.document["baselines"] or _below_chance(facts) or _below_popularity(facts):
        return ""
    if _reaches(facts, "item_knn"):
        return ""
    described = "item-KNN, which counts the users that items have in common"
    return _below_baseline(facts, "item_knn", described, _learn_more(facts.config))


def _last_epoch(facts: Facts) -> str:
    training = facts.training
    if not (facts.config.train.monitor and training) or training["best_epoch"] != training["epochs"]:
        return ""
    if training["epochs"] == 1:
        return "one epoch was trained: more may be better; raise train.epochs, with train.patience to stop in time"
    return (
        f"the best epoch is the last of {training['epochs']}: training ended while {facts.config.train.monitor} still "
        "rose; raise train.epochs, with train.patience to stop in time"
    )


def _collapsed_tower(side: str) -> Callable[[Facts], str]:
    def rule(facts: Facts) -> str:
        cosine = facts.document["collapse"][f"{side}_cosine"]
        if not cosine or cosine["mean"] <= COLLAPSED_COSINE:
            return ""
        return (
            f"random pairs of {side}s have a mean cosine of {cosine['mean']:.2f}: the {side} tower has collapsed; "
            f"{_join_remedies(facts.config, ['lower train.initial_lr', 'add negatives (sampling.negatives)'])}"
        )

    return rule


def _collinear_items(facts: Facts) -> str:
    collapse = facts.document["collapse"]
    rank, size = collapse["item_effective_rank"], facts.document["protocol"]["candidates"]
    if not rank < COLLAPSED_RANK < collapse["vector_dim"] or size <= TOP:
        return ""
    return (
        f"item vectors have an effective rank of {rank:.1f} in {collapse['vector_dim']} dimensions: they are nearly "
        "collinear; add item features, or train longer with more negatives"
    )


def _same_items(facts: Facts) -> str:
    protocol, distinct = facts.document["protocol"], facts.document["collapse"][f"distinct_items@{TOP}"]
    if protocol["queries"] < FEW_USERS or protocol["candidates"] < 10 * TOP or distinct > 2 * TOP:
        return ""
    remedy = _learn_more(facts.config)
    return f"{protocol['queries']:,} queries get {distinct} distinct items in all: nearly the same list; {remedy}"


def _few_users(facts: Facts) -> str:
    users, split = facts.document["users"], facts.document["split"]
    if users >= FEW_USERS:
        return ""
    low, high = facts.document["intervals"].get(facts.headline, (0.0, 1.0))
    return (
        f"only {users} users in the {split} split: {facts.headline} may be anything from {low:.4f} to {high:.4f} "
        "(95 %); hold out more in data.split before you compare models"
    )


def _shared_vectors(facts: Facts) -> str:
    shared, size = (facts.document["collapse"][name] for name in ("items_with_shared_vector", "trained_items"))
    collapsed = _collapsed_tower("item")(facts) or _collinear_items(facts)
    if shared < max(1, SHARED_VECTORS * size) or collapsed:
        return ""
    said = f"{shared:,} of {size:,} trained items have the vector of another one, and stand in each other's lists"
    hashes = [
        (place, each)
        for place, each in enumerate(facts.config.item_features)
        if isinstance(each, Hash) and each.column == facts.config.data.item_id
    ]
    if not hashes:
        return (
            f"{said}: no item feature distinguishes them; add Hash({facts.config.data.item_id!r}, buckets=...) to "
            "item_features"
        )
    place, feature = max(hashes, key=lambda each: each[1].buckets)
    audited = facts.columns.get("item", {}).get(feature.column, {}).get("features", {}).get(feature_name(feature), {})
    if audited and not audited["sharing"]["measured"]:
        return f"{said}, though no two ids share a hash bucket: the item tower hardly reads them; train longer"
    buckets = max(2 * feature.buckets, audited.get("suggested_buckets", 0))
    raised = f"item_features.{place}.buckets from {feature.buckets} to {buckets}"
    second = f"set item_features.{place}.hashes to 2, or " if feature.hashes == 1 else ""
    return f"{said}: their ids share a hash bucket; {second}raise {raised}"


RULES: dict[str, Callable[[Facts], str]] = {
    "below_chance": _below_chance,
    "below_popularity": _below_popularity,
    "below_recent_popularity": _below_recent_popularity,
    "below_item_knn": _below_item_knn,
    "best_epoch_is_last": _last_epoch,
    "collapsed_item_tower": _collapsed_tower("item"),
    "collapsed_user_tower": _collapsed_tower("user"),
    "collinear_items": _collinear_items,
    "same_items_for_all": _same_items,
    "few_users": _few_users,
    "items_share_vectors": _shared_vectors,
}
