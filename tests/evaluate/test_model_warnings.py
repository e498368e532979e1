"""Each warning on planted figures: when it appears, when it does not, and what it says."""

import copy
import dataclasses

import pytest

from twotower_tf.config import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    Hash,
    History,
    InBatchSoftmax,
    SampledSoftmax,
    SamplingConfig,
    TrainConfig,
)
from twotower_tf.evaluate.model_warnings import RULES, Facts, find_warnings

CONFIG = ExperimentConfig(
    name="shop",
    data=DataConfig(item_id="sku"),
    item_features=(Hash("brand", buckets=50), Hash("sku", buckets=500)),
    user_features=(Hash("user_id", buckets=100),),
    loss=SampledSoftmax(),
    train=TrainConfig(epochs=8),
    evaluation=EvaluationConfig(ks=(10, 20, 50)),
)
GOOD = {
    "split": "test",
    "protocol": {"ks": [10, 20, 50], "candidates": 1000, "queries": 400},
    "users": 400,
    "metrics": {"recall@10": 0.2, "recall@20": 0.3, "recall@50": 0.4},
    "intervals": {"recall@20": [0.25, 0.35]},
    "baselines": {"popularity": {"recall@20": 0.1}, "random": {"recall@20": 0.02}},
    "collapse": {
        "item_cosine": {"mean": 0.05},
        "user_cosine": {"mean": 0.05},
        "item_effective_rank": 20.0,
        "vector_dim": 32,
        "trained_items": 1000,
        "items_with_shared_vector": 0,
        "distinct_items@10": 700,
    },
}
TRAINING = {"epochs": 8, "best_epoch": 5}
AUDIT = {"item": {"sku": {"features": {"sku": {"sharing": {"measured": 0.6}, "suggested_buckets": 50_000}}}}}


def found(changes=(), config=CONFIG, training=TRAINING, columns=AUDIT):
    document = copy.deepcopy(GOOD)
    for path, value in dict(changes).items():
        *parents, name = path.split("/")
        place = document
        for parent in parents:
            place = place[parent]
        place[name] = value
    return find_warnings(Facts(config, document, training, columns))


def test_a_good_model_has_none():
    assert found() == []
    assert found(training={}, columns={}) == []


BAD = {
    "below_chance": (
        {"metrics/recall@20": 0.01, "intervals/recall@20": [0.0, 0.019]},
        "recall@20 is 0.0100, below the 0.0200 of random lists; check data.label, data.positive and data.split: what "
        "is held out does not follow from what was trained",
    ),
    "below_popularity": (
        {"metrics/recall@20": 0.0999},
        "recall@20 is 0.0999, below the 0.1000 of the most popular items for everyone; give the user tower a History "
        "or more features, raise train.epochs, or try loss=InBatchSoftmax()",
    ),
    "below_recent_popularity": (
        {"baselines/recent_popularity": {"recall@20": 0.3001}, "protocol/recent_days": 2.971},
        "recall@20 is 0.3000, below the 0.3001 of the most popular items of the last 2.97 days for everyone; set "
        "sampling.recency_half_life, so that newer positives count more, or give the user tower a History",
    ),
    "below_item_knn": (
        {"baselines/item_knn": {"recall@20": 0.3501}},
        "recall@20 is 0.3000, below the 0.3501 of item-KNN, which counts the users that items have in common; give the "
        "user tower a History or more features, raise train.epochs, or try loss=InBatchSoftmax()",
    ),
    "collapsed_item_tower": (
        {"collapse/item_cosine": {"mean": 0.91}},
        "random pairs of items have a mean cosine of 0.91: the item tower has collapsed; lower train.initial_lr, add "
        "negatives (sampling.negatives), or try loss=InBatchSoftmax()",
    ),
    "collapsed_user_tower": (
        {"collapse/user_cosine": {"mean": 0.99}},
        "random pairs of users have a mean cosine of 0.99: the user tower has collapsed; lower train.initial_lr, add "
        "negatives (sampling.negatives), or try loss=InBatchSoftmax()",
    ),
    "collinear_items": (
        {"collapse/item_effective_rank": 1.9},
        "item vectors have an effective rank of 1.9 in 32 dimensions: they are nearly collinear; add item features, or "
        "train longer with more negatives",
    ),
    "same_items_for_all": (
        {"collapse/distinct_items@10": 20},
        "400 queries get 20 distinct items in all: nearly the same list; give the user tower a History or more "
        "features, raise train.epochs, or try loss=InBatchSoftmax()",
    ),
    "few_users": (
        {"users": 99},
        "only 99 users in the test split: recall@20 may be anything from 0.2500 to 0.3500 (95 %); hold out more in "
        "data.split before you compare models",
    ),
    "items_share_vectors": (
        {"collapse/items_with_shared_vector": 2},
        "2 of 1,000 trained items have the vector of another one, and stand in each other's lists: their ids share a "
        "hash bucket; set item_features.1.hashes to 2, or raise item_features.1.buckets from 500 to 50000",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_warning(name):
    changes, text = BAD[name]
    assert found(changes) == [{"name": name, "text": text}]


def test_the_best_epoch_is_the_last():
    last = {"epochs": 8, "best_epoch": 8}
    assert found(training=last) == [
        {
            "name": "best_epoch_is_last",
            "text": "the best epoch is the last of 8: training ended while recall@20 still rose; raise train.epochs, "
            "with train.patience to stop in time",
        }
    ]
    (one,) = found(training={"epochs": 1, "best_epoch": 1})
    assert one["text"] == (
        "one epoch was trained: more may be better; raise train.epochs, with train.patience to stop in time"
    )
    unmonitored = dataclasses.replace(CONFIG, train=TrainConfig(epochs=8, monitor=""))
    assert found(training=last, config=unmonitored) == []


def test_no_remedy_that_the_model_has():
    features = (*CONFIG.user_features, History(of="sku", length=5))
    config = dataclasses.replace(CONFIG, user_features=features, loss=InBatchSoftmax(), sampling=SamplingConfig())
    recent = {"baselines/recent_popularity": {"recall@20": 0.4}, "protocol/recent_days": 7.0}
    remedies = [
        found(changes, config=config)[0]["text"].partition("; ")[2]
        for changes in ({"metrics/recall@20": 0.05}, {"collapse/item_cosine": {"mean": 0.95}}, recent)
    ]
    assert remedies == [
        "give the user tower more features, or raise train.epochs",
        "lower train.initial_lr, or add negatives (sampling.negatives)",
        "set sampling.recency_half_life, so that newer positives count more",
    ]


def test_what_is_just_good_enough():
    assert found({"metrics/recall@20": 0.1, "users": 100, "collapse/distinct_items@10": 21}) == []
    by_chance = found({"metrics/recall@20": 0.01, "intervals/recall@20": [0.0, 0.021]})
    assert [each["name"] for each in by_chance] == ["below_popularity"]
    assert found({"baselines/item_knn": {"recall@20": 0.35}}) == []
    assert found({"collapse/item_cosine": None, "collapse/user_cosine": None}) == []
    assert found({"collapse/vector_dim": 2, "collapse/item_effective_rank": 1.5}) == []
    assert found({"collapse/items_with_shared_vector": 2, "collapse/trained_items": 10_000}) == []


def test_one_warning_of_popularity_is_enough():
    recent = {"baselines/recent_popularity": {"recall@20": 0.3}, "protocol/recent_days": 7.0}
    assert found(recent) == []
    knn = {"baselines/item_knn": {"recall@20": 0.4}}
    assert [each["name"] for each in found({**recent, **knn, "metrics/recall@20": 0.05, "intervals": {}})] == [
        "below_popularity"
    ]


def test_why_items_share_vectors():
    shared = {"collapse/items_with_shared_vector": 300}
    (unaudited,) = found(shared, columns={})
    assert unaudited["text"].endswith("raise item_features.1.buckets from 500 to 1000")
    alone = {"item": {"sku": {"features": {"sku": {"sharing": {"measured": 0.0}, "suggested_buckets": 500}}}}}
    (unread,) = found(shared, columns=alone)
    assert unread["text"].endswith(
        "though no two ids share a hash bucket: the item tower hardly reads them; train longer"
    )
    (without,) = found(shared, config=dataclasses.replace(CONFIG, item_features=CONFIG.item_features[:1]))
    assert without["text"].endswith("no item feature distinguishes them; add Hash('sku', buckets=...) to item_features")
    collapsed = found({**shared, "collapse/item_effective_rank": 1.0})
    assert [each["name"] for each in collapsed] == ["collinear_items"]


def test_every_rule_is_tested():
    assert set(RULES) == {*BAD, "best_epoch_is_last"}
