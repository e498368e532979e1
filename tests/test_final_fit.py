"""The final fit is the training that the same log gives when its validation rows are written as training rows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import twotower_tf as tt
from twotower_tf import artifacts, final_fit, run_stages
from twotower_tf.artifacts import RunPaths
from twotower_tf.features.arrays import EncodedData
from twotower_tf.model.losses import candidates
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train.batches import Batches

pytestmark = pytest.mark.tensorflow

EPOCHS = 3


def write_log(root: Path) -> pd.DataFrame:
    """40 users of two tastes with eight clicks each, in an order of their own; `part` is leave-last-out by hand."""
    rng = np.random.default_rng(5)
    rows = [(f"u{user}", f"i{10 * (user % 2) + item}", turn) for user in range(40)
            for turn, item in enumerate(rng.permutation(10)[:8])]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "turn"])
    frame["timestamp"] = 1_700_000_000 + 3600 * frame["turn"] + rng.permutation(len(frame))
    frame["part"] = frame["turn"].map({6: "valid", 7: "test"}).fillna("train")
    root.mkdir()
    frame.to_csv(root / "events.csv", index=False)
    return frame


def experiment(root: Path, rows: str, split: tt.GivenSplit | tt.LeaveLastOut) -> tt.ExperimentConfig:
    encoder = "mean" if rows == "event" else tt.GRU()
    return tt.ExperimentConfig(
        name="tiny",
        data=tt.DataConfig(root=str(root), split=split),
        item_features=(tt.Hash("item_id", buckets=1000),),
        user_features=(tt.Hash("user_id", buckets=1000), tt.History(of="item_id", length=4, encoder=encoder)),
        model=tt.ModelConfig(embedding_dim=4, vector_dim=4, item_hidden=(), user_hidden=()),
        sampling=tt.SamplingConfig(negatives=(tt.Popularity(per_positive=20, shared=True),)),
        loss=tt.SampledSoftmax(),
        train=tt.TrainConfig(batch_size=16, epochs=EPOCHS, rows=rows, monitor="recall@5", evaluate_every=EPOCHS),
        evaluation=tt.EvaluationConfig(ks=(5,)),
        index=tt.IndexConfig(k=5),
    )


def read_weights(run_dir: Path) -> dict[str, np.ndarray]:
    return dict(np.load(RunPaths(run_dir).checkpoints / f"{EPOCHS:05d}-{0:09d}" / "weights.npz"))


class Killed(Exception):
    pass


def killed_in_the_second_epoch(stage: str, done: int, total: int) -> None:
    if stage == "train" and done > total // 2:
        raise Killed


def relabel(frame: pd.DataFrame, root: Path) -> None:
    """Writes the log with the validation rows as training rows."""
    root.mkdir()
    frame.assign(part=frame["part"].replace("valid", "train")).to_csv(root / "events.csv", index=False)


def test_sequences_of_both_parts_are_the_batches_of_the_relabelled_log(tmp_path: Path) -> None:
    frame = write_log(tmp_path / "log")
    relabel(frame, tmp_path / "relabelled")
    final = final_fit.with_validation(experiment(tmp_path / "log", "sequence", tt.LeaveLastOut()), 1)
    other = experiment(tmp_path / "relabelled", "sequence", tt.GivenSplit(column="part"))
    found = []
    for name, config in (("final", final), ("other", other)):
        tt.Pipeline(config, tmp_path / name).prepare()
        prepared = Prepared.open(tmp_path / name)
        batches = Batches(config, prepared, EncodedData(config, prepared))
        assert batches.examples == 280  # of 320 events all but each user's last
        found.append([*batches.epoch(0)])
    assert len(found[0]) == len(found[1]) >= 2
    for one, two in zip(*found, strict=True):
        assert one[0].keys() == two[0].keys() and candidates.HITS in one[0]
        for name, value in one[0].items():
            np.testing.assert_array_equal(value, two[0][name])


def test_a_final_fit_is_a_training_on_both_parts(tmp_path: Path) -> None:
    frame = write_log(tmp_path / "log")
    config = experiment(tmp_path / "log", "event", tt.GivenSplit(column="part"))
    run_dir = tmp_path / "run"
    log: list[str] = []
    pipeline = tt.Pipeline(config, run_dir, tmp_path / "export", log=log.append)
    with pytest.raises(tt.ArtifactError, match="no finished training from which a final fit could take"):
        pipeline.prepare() and pipeline.final_fit()
    pipeline.train()

    # Killed and called again, it goes on; in between there is no model to evaluate or to export.
    with pytest.raises(Killed):
        tt.Pipeline(config, run_dir, progress=killed_in_the_second_epoch).final_fit()
    for stage in (pipeline.evaluate, pipeline.export):
        with pytest.raises(tt.ArtifactError, match="the final fit is not finished; continue it with `twotower train"):
            stage()
    begun = artifacts.read_json(next(RunPaths(run_dir / "final").checkpoints.iterdir()) / "state.json", "run directory")
    assert begun["epochs"] == 1
    fitted = pipeline.final_fit()
    assert (fitted.epochs, fitted.best_epoch, fitted.skipped) == (EPOCHS, EPOCHS, False)
    assert "prepare: up to date" in log and "final fit: 3 epochs on the training and the validation part" in log

    relabel(frame, tmp_path / "relabelled")
    other = experiment(tmp_path / "relabelled", "event", tt.GivenSplit(column="part"))
    other = dataclasses.replace(other, train=dataclasses.replace(other.train, monitor=""))
    relabelled = tt.Pipeline(other, tmp_path / "by_hand")
    relabelled.prepare()
    relabelled.train()
    final, expected, before = (read_weights(path) for path in (run_dir / "final", tmp_path / "by_hand", run_dir))
    assert final.keys() == expected.keys() and len(final) >= 4
    for name, value in expected.items():
        np.testing.assert_allclose(final[name], value, rtol=1e-3, atol=1e-5)
    assert any(not np.allclose(final[name], before[name], atol=1e-3) for name in final)

    check_figures(pipeline, Prepared.open(tmp_path / "by_hand"))
    check_repetition(pipeline)


def check_figures(pipeline: tt.Pipeline, relabelled: Prepared) -> None:
    """Figures and bundle are of the final fit, and report so."""
    run_dir = pipeline.run_dir
    final = Prepared.open(run_dir / "final")
    assert final.train_count().tolist() == relabelled.train_count().tolist()
    assert (final.num_rows("train"), final.num_rows("valid"), final.num_rows("test")) == (280, 0, 40)
    figures = pipeline.evaluate().figures
    assert figures["trained_on"] == {"splits": ["train", "valid"], "positives": 280, "epochs": EPOCHS}
    assert figures["protocol"]["queries"] == 40
    page = " ".join(RunPaths(run_dir).report.read_text().split())
    assert (
        "trained on the training and the validation part together: 280 positives, 3 epochs, the best number of the "
        "validation run." in page
    )
    exported = pipeline.export()
    manifest = json.loads((exported.path / "manifest.json").read_text())
    assert manifest["evaluation"]["trained_on"]["splits"] == ["train", "valid"]
    assert json.loads((exported.path / "config.json").read_text())["data"]["train_on_valid"] is True
    # Every user's vector from the bundle ranks as the figures say: recall@5 of 40 test items by brute force.
    recommender = tt.Recommender(pipeline.export_dir)
    log = pd.read_csv(Path(pipeline.config.data.root) / "events.csv").sort_values(["user_id", "turn"])
    users = [{"user_id": user, "history": rows["item_id"].tolist()[:7][-4:]} for user, rows in log.groupby("user_id")]
    seen = [rows["item_id"].tolist()[:7] for _, rows in log.groupby("user_id")]
    wanted = [rows["item_id"].tolist()[7] for _, rows in log.groupby("user_id")]
    answers = recommender.recommend(users, k=5, exclude=seen)
    found = [item in answer["item_ids"] for item, answer in zip(wanted, answers, strict=True)]
    assert sum(found) / 40 == pytest.approx(figures["metrics"]["recall@5"], abs=1e-6)


def check_repetition(pipeline: tt.Pipeline) -> None:
    """What is up to date is skipped, validation figures are of the validated model, a new preparation removes both."""
    run_dir = pipeline.run_dir
    assert all(result.skipped for result in (pipeline.final_fit(), pipeline.evaluate(), pipeline.export()))
    assert final_fit.find_model(run_dir) == run_dir / "final"
    valid = pipeline.evaluate("valid").figures
    assert valid["trained_on"] == {"splits": ["train"], "positives": 240, "epochs": EPOCHS}
    history = artifacts.read_json(RunPaths(run_dir).train, "run directory")["history"]
    assert valid["metrics"]["recall@5"] == pytest.approx(history[-1]["val_recall@5"], abs=1e-6)

    path = RunPaths(run_dir).train
    artifacts.write_json(path, artifacts.read_json(path, "run directory") | {"best_epoch": 2})
    planned = final_fit.plan_final_fit(pipeline.config, run_dir)
    assert (planned.train.epochs, planned.data.train_on_valid) == (2, True)
    events = Path(pipeline.config.data.root) / "events.csv"
    events.write_text(events.read_text() + "u0,i3,9,1700090000,test\n")
    with pytest.raises(tt.DataError, match="its input files have changed since they were prepared"):
        pipeline.final_fit()
    pipeline.prepare()
    assert not (run_dir / "final").exists() and final_fit.find_model(run_dir) == run_dir


def test_a_run_without_validation_rows_has_no_final_fit(tmp_path: Path) -> None:
    frame = write_log(tmp_path / "log")
    frame[frame["part"] != "valid"].to_csv(tmp_path / "log" / "events.csv", index=False)
    config = experiment(tmp_path / "log", "event", tt.GivenSplit(column="part"))
    pipeline = tt.Pipeline(config, tmp_path / "run")
    pipeline.prepare()
    stages = run_stages.Stages(pipeline.run_dir)
    stages.begin("train", run_stages.compute_stage_key(config, pipeline.run_dir, "train"))
    stages.finish("train")
    artifacts.write_json(RunPaths(pipeline.run_dir).train, {"best_epoch": 1})
    with pytest.raises(tt.ConfigError, match="has no validation rows, so a final fit would train on the same rows"):
        pipeline.final_fit()
