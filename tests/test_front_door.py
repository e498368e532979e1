"""`import twotower_tf as tt`: what it offers, what it imports, and a log from events to answers through it."""

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import twotower_tf as tt
from twotower_tf import progress_bar

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("tensorflow", "tf_keras", "scann", "pandas")


def run_fresh(code: str) -> str:
    """What a new Python process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import twotower_tf as tt",
        "import twotower_tf as tt; dir(tt)",
        "import twotower_tf as tt; tt.Hash('item_id', buckets=9); tt.InBatchSoftmax(); tt.ExperimentConfig",
        "import twotower_tf as tt; tt.load_config('configs/quickstart.py')",
        "import twotower_tf as tt; tt.Pipeline('configs/quickstart.py', 'nowhere', 'nowhere'); tt.Bundle.open",
        "from twotower_tf import Bundle, ExperimentConfig, Pipeline",
    ],
)
def test_the_front_door_imports_no_tensorflow(code: str) -> None:
    assert run_fresh(f"import sys; {code}; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, twotower_tf; print(sorted(name for name in sys.modules if name.startswith('twotower_tf.')))"
    assert run_fresh(code) == "[]"


@pytest.mark.tensorflow
@pytest.mark.parametrize(("given", "level"), [({}, "3"), ({"TF_CPP_MIN_LOG_LEVEL": "2"}, "2")])
def test_tensorflow_is_quiet_in_python_too(given: dict[str, str], level: str) -> None:
    code = "import os, twotower_tf, tensorflow; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")} | given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.stdout == f"{level}\n"
    assert given or done.stderr == ""


def test_importing_a_module_imports_no_configuration() -> None:
    """`from package import module` looks for an attribute first."""
    code = "import sys; from twotower_tf import errors, locks; print('pydantic' in sys.modules)"
    assert run_fresh(code) == "False"


def test_every_configuration_class_is_offered() -> None:
    from twotower_tf import config

    classes = {name for name, cls in vars(config).items() if isinstance(cls, type) and dataclasses.is_dataclass(cls)}
    assert len(classes) > 35
    assert classes <= set(tt.__all__) and classes <= set(dir(tt))
    assert all(getattr(tt, name) is getattr(config, name) for name in classes)


def test_all_names_can_be_imported() -> None:
    assert {"Pipeline", "Bundle", "Recommender", "load_config", "DataError", "PrepareResult"} <= set(tt.__all__)
    assert len(tt.__all__) == len(set(tt.__all__))
    assert all(getattr(tt, name) is not None for name in tt.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'twotower_tf' has no attribute 'Recommend'"):
        tt.Recommend  # noqa: B018


def write_log(root: Path) -> tt.ExperimentConfig:
    """Two tastes, ten items each: 40 users, each with eight clicks on items of their taste, one a minute."""
    rng = np.random.default_rng(5)
    rows = [(f"u{user}", f"i{10 * (user % 2) + item}") for user in range(40) for item in rng.permutation(10)[:8]]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    frame["timestamp"] = 1_700_000_000 + 60 * rng.permutation(len(frame))
    root.mkdir()
    frame.sort_values("timestamp").to_csv(root / "events.csv", index=False)
    return tt.ExperimentConfig(
        name="tiny",
        data=tt.DataConfig(root=str(root)),
        item_features=(tt.Hash("item_id", buckets=10_000),),
        user_features=(tt.Hash("user_id", buckets=10_000),),
        model=tt.ModelConfig(embedding_dim=4, vector_dim=4, item_hidden=(), user_hidden=()),
        sampling=tt.SamplingConfig(negatives=(tt.InBatch(),)),
        loss=tt.InBatchSoftmax(),
        train=tt.TrainConfig(batch_size=64, epochs=2, monitor=""),
        index=tt.IndexConfig(k=5),
    )


@dataclasses.dataclass
class Ran:
    """A pipeline that has run once, from within an asyncio loop."""

    pipeline: tt.Pipeline
    first: tt.RunResult
    log: list[str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = tmp_path_factory.mktemp("front_door")
    config = write_log(root / "log")
    log: list[str] = []
    pipeline = tt.Pipeline(config, root / "run", root / "export", log=log.append)

    async def in_a_notebook() -> tt.RunResult:
        return pipeline.run()

    return Ran(pipeline, asyncio.run(in_a_notebook()), log)


def modified(root: Path) -> dict[str, int]:
    """Time of change of every file but the lock."""
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


needs_tensorflow = pytest.mark.tensorflow


@needs_tensorflow
def test_a_log_becomes_a_bundle(ran: Ran) -> None:
    prepared, trained, evaluated, exported = (
        ran.first.prepare,
        ran.first.train,
        ran.first.evaluate,
        ran.first.export,
    )
    assert (prepared.rows_read, prepared.rows_used, prepared.rows_quarantined) == (320, 320, 0)
    assert (prepared.items, prepared.users, prepared.positives) == (20, 40, {"train": 256, "valid": 32, "test": 32})
    assert trained.epochs == 2 and trained.figures == json.loads((ran.pipeline.run_dir / "train.json").read_text())
    assert evaluated is not None and evaluated.split == "test"
    document = json.loads(evaluated.path.read_text())
    assert evaluated.metrics == document["metrics"]
    assert set(evaluated.baselines) == {"popularity", "recent_popularity", "item_knn", "random"}
    report = evaluated.report.read_text()
    assert report.startswith("<!DOCTYPE html>")
    assert "The exported index (exact) searches exactly." in " ".join(report.split())  # that of the bundle
    assert exported.path == ran.pipeline.export_dir / str(exported.version) and exported.open().checked
    assert not any(result.skipped for result in (prepared, trained, evaluated, exported))


@needs_tensorflow
def test_a_second_run_does_nothing(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    before = modified(ran.pipeline.run_dir / "prepared") | modified(ran.pipeline.export_dir)
    seen = len(ran.log)
    second = ran.pipeline.run()
    assert modified(ran.pipeline.run_dir / "prepared") | modified(ran.pipeline.export_dir) == before
    results = (second.prepare, second.train, second.evaluate, second.export)
    assert all(result.skipped for result in results)
    assert second.export.path == ran.first.export.path and second.evaluate.metrics == ran.first.evaluate.metrics
    assert ran.log[seen:] == [
        "prepare: up to date",
        "train: up to date",
        "evaluate: up to date",
        f"export: up to date, {ran.first.export.path}",
    ]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@needs_tensorflow
def test_stages_continue_from_the_run_directory(ran: Ran) -> None:
    again = tt.Pipeline.open(ran.pipeline.run_dir, ran.pipeline.export_dir, log=ran.log.append)
    assert again.config == ran.pipeline.config
    assert again.train().skipped and again.evaluate("test").skipped


@pytest.mark.quality
@needs_tensorflow
def test_a_forced_export_publishes_another_version(ran: Ran, tmp_path: Path) -> None:
    pipeline = tt.Pipeline(ran.pipeline.config, ran.pipeline.run_dir, tmp_path / "export", log=ran.log.append)
    first, second = pipeline.export(), pipeline.export(force=True)
    assert not first.skipped and not second.skipped and second.version > first.version
    assert pipeline.export() == tt.ExportResult(second.path, second.version, skipped=True)
    assert pipeline.export(formats=["tsv"]).skipped  # that file is always written
    assert not pipeline.export(formats=["npy"]).skipped


@needs_tensorflow
def test_a_model_of_another_configuration_is_kept(ran: Ran) -> None:
    model = tt.ModelConfig(embedding_dim=16, vector_dim=8, item_hidden=(8,), user_hidden=(8,))
    other = dataclasses.replace(ran.pipeline.config, model=model)
    pipeline = tt.Pipeline(other, ran.pipeline.run_dir, ran.pipeline.export_dir, overwrite=True)
    checkpoints = modified(ran.pipeline.run_dir / "checkpoints")
    for stage in (pipeline.evaluate, pipeline.export):
        with pytest.raises(tt.ConfigError, match=r"model\.embedding_dim was 4, now 16, and 3 more"):
            stage()
    assert modified(ran.pipeline.run_dir / "checkpoints") == checkpoints


@needs_tensorflow
def test_a_recommender_takes_a_path_or_a_bundle(ran: Ran) -> None:
    users = [{"user_id": "u0"}, {"user_id": "u1"}]
    by_path = tt.Recommender(ran.pipeline.export_dir)
    assert by_path.bundle.version == ran.first.export.version
    answers = by_path.recommend(users, k=5)
    assert answers == tt.Recommender(tt.Bundle.open(ran.pipeline.export_dir)).recommend(users, k=5)
    vectors = pq.read_table(ran.first.export.path / "items.parquet")["item_id"].to_pylist()
    lines = (ran.first.export.path / "item_embeddings.tsv").read_text().splitlines()
    matrix = np.array([line.split("\t")[1].split(",") for line in lines], np.float64)
    scores = by_path.vectors(users).astype(np.float64) @ matrix.T
    for answer, row in zip(answers, scores, strict=True):
        assert answer["item_ids"] == [vectors[column] for column in np.argsort(-row)[:5]]
    frame = by_path.recommend_frame(pd.DataFrame(users), k=5)
    assert frame["item_id"].tolist() == [item for answer in answers for item in answer["item_ids"]]


@needs_tensorflow
def test_a_recommender_answers_in_a_running_loop(ran: Ran) -> None:
    async def ask() -> list[str]:
        return tt.Recommender(str(ran.pipeline.export_dir)).recommend([{"user_id": "u0"}], k=3)[0]["item_ids"]

    assert (
        asyncio.run(ask()) == tt.Recommender(ran.pipeline.export_dir).recommend([{"user_id": "u0"}], 3)[0]["item_ids"]
    )


def test_without_an_export_directory_nothing_runs(tmp_path: Path) -> None:
    pipeline = tt.Pipeline(write_log(tmp_path / "log"), tmp_path / "run")
    for stage in (pipeline.run, pipeline.export):
        with pytest.raises(tt.ConfigError) as caught:
            stage()
        assert str(caught.value) == "export_dir: invalid value None (expected a directory); give it to Pipeline"
    assert not (tmp_path / "run").exists()


def test_a_second_pipeline_may_not_work_in_the_directory(tmp_path: Path) -> None:
    config = write_log(tmp_path / "log")
    first, second = tt.Pipeline(config, tmp_path / "run"), tt.Pipeline(config, tmp_path / "run")
    with first.working(create=True), first.working():  # a block within a block is the same holder
        with pytest.raises(tt.ArtifactError, match="in use by process"):
            second.prepare()
    assert not (tmp_path / "run" / "prepared").exists()


def test_stages_before_preparation_are_refused(tmp_path: Path) -> None:
    pipeline = tt.Pipeline(write_log(tmp_path / "log"), tmp_path / "run", tmp_path / "export")
    for stage in (pipeline.train, pipeline.evaluate, pipeline.export):
        with pytest.raises(tt.ArtifactError, match="run"):
            stage()
    assert not (tmp_path / "run").exists()


def test_bars_are_shown_in_a_notebook_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar.shown_in_notebook() as show:
        assert show is None
    ipython = types.SimpleNamespace(get_ipython=lambda: object(), version_info=(9, 0, 0))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    with progress_bar.shown_in_notebook() as show:
        show("train", 5, 10)
    captured = capsys.readouterr()
    assert "train:  50%" in captured.out + captured.err
