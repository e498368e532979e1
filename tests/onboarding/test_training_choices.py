"""What `init` proposes to train, by the kind of log: its positives, features, items and order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.onboarding.test_roles import feature_text, propose
from twotower_tf.config import Catalogue, FullSoftmax, History, LeaveLastOut, SelfAttention, Uniform, load
from twotower_tf.onboarding import training_choices
from twotower_tf.onboarding.render_config import render_proposal


def test_few_positives_need_small_batches_and_no_early_stop(tmp_path: Path) -> None:
    """0.2 % of 20,000 events are positives: some 40 of as many users."""
    rng = np.random.default_rng(3)
    columns = {
        "user_id": rng.integers(0, 3000, 20_000),
        "item_id": rng.integers(0, 200, 20_000),
        "timestamp": 1_760_000_000 + np.arange(20_000) * 30,
        "converted": (np.arange(20_000) % 500 == 0).astype(int),
        "device": rng.choice(["a", "b"], 20_000),
    }
    proposal = propose(tmp_path, {"events": columns})
    assert proposal.sections["train"].code == 'TrainConfig(batch_size=8, epochs=5, monitor="")'  # 32 train
    assert "only 40 positives" in " ".join(proposal.notes)
    assert '"user_id"' not in feature_text(proposal) and "History" not in feature_text(proposal)
    assert 'Hash("device"' in feature_text(proposal)


@pytest.mark.parametrize(
    ("per_user", "user_id", "batch"),
    [(12, False, 256), (150, True, 512)],  # 34,560 and 72,000 positives to train on, a hundred steps at least
)
def test_the_kind_of_log_decides(per_user: int, user_id: bool, batch: int, tmp_path: Path) -> None:
    """Ids alone have linear towers; the user's id is hashed where users have many positives."""
    count = 3600 if per_user == 12 else 600
    rng = np.random.default_rng(2)
    columns = {
        "user_id": np.repeat(np.arange(count), per_user),
        "item_id": rng.integers(0, 900, count * per_user),
        "timestamp": 1_760_000_000 + rng.integers(0, 86_400, count * per_user),
    }
    proposal = propose(tmp_path, {"events": columns})
    text = feature_text(proposal)
    assert ('Hash("user_id"' in text) == user_id and 'History(of="item_id", length=50, encoder="recency")' in text
    assert "item_hidden=(), user_hidden=()" in proposal.sections["model"].code
    assert proposal.sections["train"].code == f"TrainConfig(batch_size={batch}, epochs=20, patience=3)"
    assert proposal.sections["loss"].code == "InBatchSoftmax(temperature=0.1)"


def test_ids_without_an_order_are_trained_on_user_by_user(tmp_path: Path) -> None:
    """The mean of the items taken, in their own table: 600 users make at least four batches."""
    order = np.random.default_rng(2).permutation(600 * 12)
    columns = {"user_id": np.repeat(np.arange(600), 12)[order], "item_id": order % 900}
    names: dict[str, Any] = {}
    exec(render_proposal(propose(tmp_path, {"events": columns}), "c", "c.py"), names)  # it imports what it names
    config = names["get_config"]()
    assert [type(each) for each in config.user_features] == [History]
    assert (config.model.combine, config.model.item_hidden, config.train.rows) == ("add", (), "user")
    assert (config.train.batch_size, config.sampling.negatives) == (128, (Uniform(per_positive=900, shared=True),))


def test_features_have_a_hidden_layer_with_dropout(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    columns = {
        "user_id": np.repeat(np.arange(300), 10),
        "item_id": np.arange(3_000) % 70,
        "timestamp": 1_760_000_000 + rng.integers(0, 86_400, 3_000),
        "device": rng.choice(["a", "b"], 3_000),
        "country": rng.choice(["c", "d", "e"], 3_000),
    }
    proposal = propose(tmp_path, {"events": columns})
    names: dict[str, Any] = {}
    exec(render_proposal(proposal, "c", "c.py"), names)  # it imports what it names
    model = names["get_config"]().model
    assert (model.item_hidden, model.user_hidden, model.dropout) == ((128,), (128,), 0.3)
    assert proposal.sections["loss"].code == "InBatchSoftmax(temperature=0.1)"


def test_long_sequences_of_few_items_have_a_transformer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where there are many positives in order; the rows' own order is one."""
    rng = np.random.default_rng(2)
    columns = {"user_id": np.repeat(np.arange(300), 40), "item_id": rng.integers(0, 900, 12_000)}
    plain = propose(tmp_path, {"events": columns})
    assert 'encoder="recency"' in feature_text(plain) and "InBatchSoftmax" in plain.sections["loss"].code
    monkeypatch.setattr(training_choices, "_READ_IN_ORDER", (10_000, 20_000))
    proposal = propose(tmp_path, {"events": columns})
    text = render_proposal(proposal, "shop", "shop.py")
    assert (
        max(map(len, text.splitlines())) <= 120
        and "\n            table_optimizer=LazyAdam(initial_lr=0.002),\n" in text
    )
    (tmp_path / "shop.py").write_text(text, encoding="utf-8")
    found = load(tmp_path / "shop.py")
    history = next(each for each in found.user_features if isinstance(each, History))
    assert history.encoder == SelfAttention(block="ligr", hidden=128) and history.length == 50
    assert len(found.user_features) == 1 and found.data.split == LeaveLastOut() and not found.data.timestamp
    assert found.loss == FullSoftmax(learn_temperature=True) and found.sampling.negatives == (Catalogue(),)
    assert found.train.rows == "sequence" and found.train.batch_size == 1  # 300 windows: 250 steps
    assert found.model.initial_scale == 0.1 and found.model.vector_dim == 64
    shuffled = {**columns, "user_id": rng.permutation(columns["user_id"])}
    assert "SelfAttention" not in feature_text(propose(tmp_path, {"events": shuffled}))


@pytest.mark.parametrize("added", [False, True])
def test_items_that_were_added_while_the_log_ran_are_corrected_for(added: bool, tmp_path: Path) -> None:
    """90 items from the start, some of them taken once or twice, and ten of the second half."""
    rng = np.random.default_rng(2)
    times = np.sort(rng.integers(0, 10 * 86_400, 6_000))
    popular = 1.0 / np.arange(1, 91)
    items = rng.choice(90, 6_000, p=popular / popular.sum())
    late = added & (np.arange(6_000) >= 3_000) & (rng.random(6_000) < 0.3)
    items[late] = rng.integers(90, 100, np.count_nonzero(late))
    columns = {"user_id": rng.integers(0, 500, 6_000), "item_id": items, "timestamp": 1_760_000_000 + times}
    loss = propose(tmp_path, {"events": columns}).sections["loss"]
    if added:
        share = round(100 * np.mean(late))
        assert (
            loss.code == "InBatchSoftmax(temperature=0.1, growing=True)" and f"{share} % of the events" in loss.comment
        )
    else:
        assert loss.code == "InBatchSoftmax(temperature=0.1)"
    # Without times there is nothing to see.
    del columns["timestamp"]
    assert "growing" not in propose(tmp_path, {"events": columns}).sections["loss"].code
