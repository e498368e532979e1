"""`LeaveLastOut` and histories of a log without times: the order of its rows is that of the events."""

from __future__ import annotations

from pathlib import Path

import pytest

from twotower_tf.config import DataConfig, ExperimentConfig, Hash, History, LeaveLastOut
from twotower_tf.errors import ConfigError
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared


def test_the_last_rows_are_held_out_and_earlier_ones_are_the_history(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id\nu,i1\nv,i9\nu,i2\nu,i3\n")
    (tmp_path / "b.csv").write_text("user_id,item_id\nv,i1\nu,i0\n")
    config = ExperimentConfig(
        name="test",
        data=DataConfig(root=str(tmp_path), events="*.csv", timestamp="", split=LeaveLastOut()),
        item_features=(Hash("item_id", buckets=10),),
        user_features=(History(of="item_id", length=5),),
    )
    prepare_log(config, tmp_path / "run")
    prepared = Prepared.open(tmp_path / "run")
    names = [str(name) for name in prepared.item_ids()]
    found = {}
    for split, which in (("train", "train"), ("valid", "train"), ("test", "seen")):
        rows = prepared.columns(split, ["user_row", "item_row", "history_start", "history_end"])
        past = prepared.sequence(which)
        found[split] = [
            (names[item], [names[each] for each in past[start:end]])
            for item, start, end in zip(rows["item_row"], rows["history_start"], rows["history_end"], strict=True)
        ]
    assert found == {
        "train": [("i1", []), ("i9", []), ("i2", ["i1"]), ("i1", ["i9"])],
        "valid": [("i3", ["i1", "i2"])],
        "test": [("i0", ["i1", "i2", "i3"])],
    }
    with pytest.raises(ConfigError, match="--since: the order of a log without times is that of its own rows"):
        prepare_log(config, tmp_path / "next", since=tmp_path / "run")
