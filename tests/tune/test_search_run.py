"""A search finds a planted optimum, ends hopeless trials early, survives deaths, and goes on where it was killed."""

import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tune import objectives
from tests.tune.objectives import Inline
from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import (
    Choice,
    CosineLogitBCE,
    DataConfig,
    ExperimentConfig,
    Hash,
    LogUniform,
    ModelConfig,
    TrainConfig,
    TuneConfig,
)
from twotower_tf.errors import ConfigError, DataError
from twotower_tf.tune.field_values import with_search
from twotower_tf.tune.search_run import Search

pytest.importorskip("optuna", reason="needs the package optuna (extra tune)")
ROOT = Path(__file__).resolve().parents[2]

SPACE = {"train.initial_lr": LogUniform(1e-5, 1.0), "model.residual": Choice((False, True))}


def experiment(trials=12, pruner="none", **tune):
    config = ExperimentConfig(
        name="hill",
        data=DataConfig(),
        item_features=(Hash("item_id", 100),),
        user_features=(Hash("user_id", 100),),
        model=ModelConfig(embedding_dim=16, item_hidden=(64,), user_hidden=(128, 64)),
        loss=CosineLogitBCE(),
        train=TrainConfig(epochs=objectives.EPOCHS),
        tune=TuneConfig(trials=trials, space=SPACE, pruner=pruner),
    )
    return with_search(dataclasses.replace(config, **tune), None, {})


def open_search(run_dir, config, **options):
    run_dir.mkdir(exist_ok=True)
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))

    def prepare(other, directory):
        raise AssertionError("these spaces need no other preparation")

    return Search(config, run_dir, prepare, **options)


def test_the_planted_optimum_is_found(tmp_path):
    search = open_search(tmp_path / "run", experiment(trials=25, pruner="median"))
    lines = []
    search.run(1, objectives.climb, Inline, log=lines.append)
    result = search.write_results()
    assert (
        0.5 < result.values["train.initial_lr"] / objectives.BEST_LR < 2.0 and result.values["model.residual"] is True
    )
    heights = {trial["number"]: objectives.height(replay(trial)) for trial in result.trials}
    assert result.value == pytest.approx(max(heights.values()), abs=1e-6) and len(heights) == 25
    # The present configuration comes first; bad trials end early, at the median of the others' curves.
    assert result.trials[0]["values"] == {"train.initial_lr": 1e-3, "model.residual": False}
    pruned = [trial for trial in result.trials if trial["state"] == "pruned"]
    assert len(pruned) >= 3 and all(trial["number"] >= 5 for trial in pruned)
    assert all(len(trial["curve"]) < objectives.EPOCHS for trial in pruned)
    assert all(heights[trial["number"]] < result.value for trial in pruned)
    for trial in pruned:
        finished = [each for each in result.trials[: trial["number"]] if each["state"] == "finished"]
        others = [each["curve"][max(trial["curve"])] for each in finished]
        assert trial["value"] == max(trial["curve"].values()) < statistics.median(others)
    assert len(lines) == 25 and f"best so far {result.value:.4f}" in lines[-1]


def replay(trial):
    return configuration.override(experiment(), [f"{name}={value}" for name, value in trial["values"].items()])


def test_results_are_a_page_and_a_configuration(tmp_path):
    search = open_search(tmp_path / "run", experiment(trials=6))
    search.run(1, objectives.climb, Inline)
    result = search.write_results()
    best = configuration.load(result.config)
    assert best.train.initial_lr == result.values["train.initial_lr"]
    assert best == dataclasses.replace(replay(result.trials[0]), train=best.train, model=best.model, tune=best.tune)
    page = result.report.read_text()
    assert not re.search(r"(src|href)=.?https?:", page) and page.count("<svg") == 3
    rows = re.findall(r"<tr[^>]*><td>(\d+)</td>\s*<td>(\w+)</td><td>([\d.–−-]+)</td>", page)
    assert {int(number): float(value) for number, _, value in rows} == {
        trial["number"]: round(trial["value"], 4) for trial in result.trials
    }
    document = json.loads((search.directory / "tune.json").read_text())
    assert document["best"] == int(rows[0][0]) and document["monitor"] == "recall@20"


def test_an_interrupted_search_goes_on_with_the_trial_that_it_was_in(tmp_path):
    config = experiment(trials=8)
    calls = []

    def interrupted(config, run_dir, report):
        calls.append(run_dir.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return objectives.climb(config, run_dir, report)

    search = open_search(tmp_path / "run", config)
    with pytest.raises(KeyboardInterrupt):
        search.run(1, interrupted, Inline)
    before = search.record.trials()
    assert [trial.outcome.state for trial in before] == ["finished"] * 3 + ["running"]
    again = open_search(tmp_path / "run", config)
    again.run(1, interrupted, Inline)
    after = again.record.trials()
    assert calls == ["00000", "00001", "00002", "00003", "00003", "00004", "00005", "00006", "00007"]
    assert [trial.values for trial in after[:4]] == [trial.values for trial in before]
    assert {trial.outcome.state for trial in after} == {"finished"}
    assert len({trial.values["train.initial_lr"] for trial in after}) == 8  # none is drawn twice
    more = open_search(tmp_path / "run", experiment(trials=9))
    more.run(1, interrupted, Inline)
    assert calls[9:] == ["00008"] and len(more.record.trials()) == 9


def test_a_torn_journal_and_its_lock_are_repaired(tmp_path):
    open_search(tmp_path / "run", experiment(trials=2)).run(1, objectives.climb, Inline)
    journal = RunPaths(tmp_path / "run").tune / "trials.journal"
    with journal.open("a") as file:
        file.write('{"op_code":4,"worker_id":"x')
    journal.with_name("trials.journal.lock").touch()
    search = open_search(tmp_path / "run", experiment(trials=3))
    search.run(1, objectives.climb, Inline)
    assert [trial.outcome.state for trial in search.record.trials()] == ["finished"] * 3


def test_a_trial_that_takes_its_process_with_it_twice_has_failed(tmp_path):
    def interrupted(config, run_dir, report):
        if run_dir.name == "00001":
            raise KeyboardInterrupt
        return objectives.climb(config, run_dir, report)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            open_search(tmp_path / "run", experiment(trials=3)).run(1, interrupted, Inline)
    search = open_search(tmp_path / "run", experiment(trials=3))
    search.run(1, interrupted, Inline)
    outcomes = [trial.outcome for trial in search.record.trials()]
    assert [outcome.state for outcome in outcomes] == ["finished", "failed", "finished"]
    assert outcomes[1].error == "its process was killed 2 times"


def test_failures_are_recorded_and_a_hopeless_search_ends(tmp_path):
    def failing(config, run_dir, report):
        if config.model.residual:
            raise DataError("training: the loss is nan\nat step 3")
        return objectives.climb(config, run_dir, report)

    search = open_search(tmp_path / "some", experiment(trials=10))
    search.run(1, failing, Inline)
    trials = search.record.trials()
    failed = [trial for trial in trials if trial.values["model.residual"]]
    assert 0 < len(failed) < 10 and {trial.outcome.error for trial in failed} == {
        "DataError: training: the loss is nan at step 3"
    }
    assert search.write_results().values["model.residual"] is False

    def hopeless(config, run_dir, report):
        raise DataError("no such column")

    with pytest.raises(DataError, match="all 3 trials failed, the last with: DataError: no such column"):
        open_search(tmp_path / "all", experiment(trials=10)).run(1, hopeless, Inline)


def test_a_search_of_another_space_is_not_continued(tmp_path):
    open_search(tmp_path / "run", experiment(trials=2)).run(1, objectives.climb, Inline)
    other = with_search(experiment(trials=2), None, {"model.dropout": Choice((0.0, 0.5))})
    with pytest.raises(ConfigError, match=r"holds a search of another configuration \(tune.space was"):
        open_search(tmp_path / "run", other)
    slower = experiment(trials=2, train=TrainConfig(epochs=9))
    with pytest.raises(ConfigError, match=r"\(train.epochs was 5, now 9\); choose another --run_dir, or --overwrite"):
        open_search(tmp_path / "run", slower)
    search = open_search(tmp_path / "run", other, overwrite=True)
    assert search.record.trials() == []


def test_processes_run_trials_side_by_side_and_one_that_dies_loses_its_own_trial(tmp_path):
    search = open_search(tmp_path / "run", experiment(trials=5))
    lines = []
    search.run(2, objectives.climb_slowly, log=lines.append)
    outcomes = [trial.outcome for trial in search.record.trials()]
    assert [outcome.state for outcome in outcomes] == ["finished", "failed", "finished", "finished", "finished"]
    assert outcomes[1].error.startswith("the process was killed, as the kernel does when memory runs out")
    pids = {int(path.read_text()) for path in search.directory.glob("trials/*/pid")}
    assert len(pids) == 3 and os.getpid() not in pids  # two at a time, one of which was replaced


def test_a_killed_search_leaves_no_process_and_goes_on(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.tune import objectives, test_search_run as t\n"
        "t.open_search(Path(sys.argv[1]), t.experiment(trials=5)).run(2, objectives.climb_until_killed)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], cwd=ROOT)
    trials = RunPaths(tmp_path / "run").tune / "trials"
    deadline = time.monotonic() + 120
    while not all((trials / name / "pid").exists() for name in ("00002", "00003")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    for pid in {int(path.read_text() or 0) for path in trials.glob("*/pid")}:
        while Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    (trials / "go").touch()
    search = open_search(tmp_path / "run", experiment(trials=5))
    before = search.record.trials()
    assert [trial.outcome.state for trial in before] == ["finished", "finished", "running", "running"]
    search.run(1, objectives.climb_until_killed, Inline)
    after = search.record.trials()
    assert {trial.outcome.state for trial in after} == {"finished"} and len(after) == 5
    assert [trial.values for trial in after[:4]] == [trial.values for trial in before]
