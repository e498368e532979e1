"""`twotower tune` on a small log: what is searched, prepared, written, and removed."""

import dataclasses
from pathlib import Path

import pytest

import twotower_tf as tt
from tests.test_final_fit import experiment, write_log
from tests.tune.objectives import Inline
from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.cli.main import main
from twotower_tf.tune import run_trial, search_run

optuna = pytest.importorskip("optuna", reason="needs the package optuna (extra tune)")
pytestmark = pytest.mark.tensorflow


@pytest.mark.quality
def test_the_setting_that_learns_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two learning rates one is too small to learn anything; another length of histories is prepared by itself."""
    write_log(tmp_path / "log")
    config = experiment(tmp_path / "log", "event", tt.GivenSplit(column="part"))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, initial_lr=0.01, evaluate_every=1))
    artifacts.write_text(tmp_path / "tiny.json", configuration.to_json(config))
    monkeypatch.setattr(search_run, "TrialProcess", Inline)
    run_dir = tmp_path / "run"
    space = ("train.table_optimizer.initial_lr=Choice((1e-9, 0.2))", "user_features.1.length=Choice((4, 2))")
    command = ["tune", f"--config={tmp_path / 'tiny.json'}", f"--run_dir={run_dir}", "--trials=4"]
    assert main([*command, *(f"--space={text}" for text in space)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-2:] == [str(run_dir / "tune" / "tune.html"), str(run_dir / "tune" / "best.json")]

    found = artifacts.read_json(run_dir / "tune" / "tune.json", "search")
    rates = {trial["values"]["train.table_optimizer.initial_lr"] for trial in found["trials"]}
    lengths = [trial["values"]["user_features.1.length"] for trial in found["trials"]]
    assert rates == {1e-9, 0.2} and lengths[0] == 4 and set(lengths) == {4, 2}  # both were tried, the present one first
    best = tt.load_config(run_dir / "tune" / "best.json")
    assert best.train.table_optimizer.initial_lr == 0.2
    learned = [
        trial["value"] for trial in found["trials"] if trial["values"]["train.table_optimizer.initial_lr"] == 0.2
    ]
    others = [trial["value"] for trial in found["trials"] if trial["values"]["train.table_optimizer.initial_lr"] < 0.1]
    assert max(learned) > max(others) + 0.1
    for trial in found["trials"]:
        directory = run_dir / "tune" / "trials" / f"{trial['number']:05d}"
        figures = artifacts.read_json(RunPaths(directory).train, "run directory")
        validated = {str(each["epoch"]): each["val_recall@5"] for each in figures["history"]}
        assert trial["curve"] == pytest.approx(validated, abs=1e-6) and trial["value"] == max(trial["curve"].values())
        assert not RunPaths(directory).checkpoints.exists() and not RunPaths(directory).logs.exists()
        own = trial["values"]["user_features.1.length"] == 4
        assert (RunPaths(directory).prepared.resolve() == RunPaths(run_dir).prepared.resolve()) == own
    assert len([*(run_dir / "tune" / "prepared").iterdir()]) == 1
    check_pruning(run_dir / "tune" / "trials" / "00000")
    check_refusals(command, capsys)


def check_pruning(run_dir: Path) -> None:
    """A training that is ended early leaves no weights."""

    def end(epoch: int, value: float) -> None:
        raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        run_trial.train_trial(configuration.load_run(run_dir), run_dir, end)
    assert not RunPaths(run_dir).checkpoints.exists()


def check_refusals(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for flags, message in (
        (["--jobs=500"], "--jobs: invalid value 500 (expected 1 to"),
        (["--space=loss.heat=LogUniform(0.1, 1.0)"], "tune.space: loss.heat=0.1: unknown field of Sampled"),
        (["--space=model.dropout=Choice((0.0, 0.5))"], "holds a search of another configuration (tune.space was"),
    ):
        assert main([*command, *flags]) == 2
        assert message in capsys.readouterr().err
