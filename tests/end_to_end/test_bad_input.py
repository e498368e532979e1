"""Every bad input is one line and status 2, and leaves nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import command

CONFIG = """
from twotower_tf.config import *

def get_config():
    return ExperimentConfig(
        name="tiny",
        data=DataConfig(root={root!r}, items="items.csv", label="click", item_name="title"),
        item_features=(Hash("item_id", buckets=50), Hash("category", buckets=10)),
        user_features=(Hash("user_id", buckets=50), Numeric("age"), History(of="item_id", length=5)),
        model=ModelConfig(embedding_dim=4, vector_dim=4, item_hidden=(), user_hidden=()),
        train=TrainConfig(batch_size=16, epochs=2, monitor="recall@10"),
        evaluation=EvaluationConfig(ks=(10,)),
    )
"""


def events(count: int = 400) -> list[str]:
    """Users of even number click items of even number, the others odd ones; no pair comes twice."""
    lines = ["user_id,item_id,timestamp,click,age"]
    for place in range(count):
        item, user = divmod(place * 397 % 960, 24)
        lines.append(f"u{user},i{item},{1_700_000_000 + place},{int(user % 2 == item % 2)},{20 + user}")
    return lines


def items() -> list[str]:
    return ["item_id,category,title", *(f"i{item},c{item % 2},Item {item}" for item in range(40))]


def make_data(directory: Path) -> Path:
    """Writes a good log, a good item table and their configuration."""
    directory.mkdir()
    write(directory / "events.csv", events())
    write(directory / "items.csv", items())
    (directory / "tiny.py").write_text(CONFIG.format(root=str(directory)))
    return directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A directory with data, run and export of one finished run, and a copy of it."""
    root, kept = tmp_path_factory.mktemp("finished"), tmp_path_factory.mktemp("kept") / "root"
    done = run(make_data(root / "data"))
    assert done.status == 0, done.err
    shutil.copytree(root, kept)
    return root, kept


@pytest.fixture
def finished(finished_once: tuple[Path, Path]) -> Path:
    """`data` after a finished run; every test finds it as the run left it."""
    root, kept = finished_once
    shutil.rmtree(root)
    shutil.copytree(kept, root)
    return root / "data"


def write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(data: Path, *more: str) -> Any:
    root = data.parent
    return command("run", f"--config={data}/tiny.py", f"--run_dir={root}/run", f"--export_dir={root}/export", *more)


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


Spoil = Callable[[Path], Any]
CASES: dict[str, tuple[Spoil, list[str], str]] = {
    "a missing file": (
        lambda data: (data / "events.csv").unlink(),
        [],
        "twotower run: data.events: no such file: {data}/events.csv",
    ),
    "a missing column of an id": (
        lambda data: replaced(data / "events.csv", "user_id,item_id", "usr_id,item_id"),
        [],
        "'user_id'",
    ),
    "a missing column of a feature": (
        lambda data: replaced(data / "items.csv", "category", "categry"),
        [],
        "'category'",
    ),
    "an unknown field in the configuration": (
        lambda data: replaced(data / "tiny.py", "item_name=", "itm_name="),
        [],
        "twotower run: {data}/tiny.py: DataConfig: unknown field of DataConfig 'itm_name'; did you mean 'item_name'?",
    ),
    "a wrong type in --set": (
        lambda data: None,
        ["--set=train.epochs=three"],
        "twotower run: --set train.epochs=three: train.epochs: invalid value 'three' (expected a whole number)",
    ),
    "an empty table": (
        lambda data: write(data / "events.csv", events(0)),
        [],
        "events.csv",
    ),
    "an empty file": (
        lambda data: (data / "events.csv").write_text(""),
        [],
        "events.csv",
    ),
    "labels that are not 0 or 1": (
        lambda data: write(data / "events.csv", [events()[0], *(f"u1,i{n % 12},{n + 10**9},7,20" for n in range(99))]),
        [],
        "label",
    ),
    "no positive at all": (
        lambda data: write(data / "events.csv", [line.replace(",1,", ",0,") for line in events()]),
        [],
        "positive",
    ),
    "a run directory of another version": (
        lambda data: (
            command("prepare", f"--config={data}/tiny.py", f"--run_dir={data.parent}/run"),
            replaced(data.parent / "run" / "config.json", '"schema_version": 2', '"schema_version": 99'),
        ),
        [],
        "twotower run: {run}/config.json: invalid schema_version 99 (expected 2, which this version of "
        "twotower_tf reads); write it again with this version",
    ),
    "a directory that is not a run directory": (
        lambda data: ((data.parent / "run").mkdir(), (data.parent / "run" / "photo.jpg").write_text("x")),
        [],
        "twotower run: --run_dir: invalid directory '{run}' (it is not empty and not a twotower run directory); "
        "choose a new or empty one",
    ),
    "an invalid memory limit": (
        lambda data: None,
        ["--memory_limit=lots"],
        "twotower run: --memory_limit: invalid size 'lots' (expected e.g. 4GB or 500MB)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_is_told_in_one_line(case: str, data: Path) -> None:
    spoil, more, message = CASES[case]
    spoil(data)
    root = data.parent
    before = {path for path in root.rglob("*")}
    done = run(data, *more)
    last = done.err.splitlines()[-1]
    assert done.status == 2, done.err
    assert "Traceback" not in done.err and last.startswith("twotower run: ")
    assert message.format(data=data, run=root / "run") in last
    written = {str(path.relative_to(root)) for path in set(root.rglob("*")) - before}
    assert written <= {"run", "run/config.json", "run/stages.json"}, written


def test_an_export_directory_with_another_file(data: Path) -> None:
    (data.parent / "export").mkdir()
    (data.parent / "export" / "thesis.tex").write_text("precious")
    done = run(data)
    assert done.status == 2
    assert done.err == (
        f"twotower run: {data.parent}/export: invalid export directory (expected only bundle versions, got "
        "'thesis.tex'); choose a new or empty directory\n"
    )
    assert not (data.parent / "run").exists()
    assert [path.name for path in (data.parent / "export").iterdir()] == ["thesis.tex"]
    done = command("recommend", f"--export_dir={data.parent}/export", "--user={}")
    assert done.status == 2
    assert done.err == (
        f"twotower recommend: {data.parent}/export: invalid export directory (expected at least one bundle version); "
        f"run `twotower export --export_dir={data.parent}/export`\n"
    )


def test_a_malformed_row_is_set_aside_and_the_rest_is_used(data: Path) -> None:
    lines = events()
    lines[50] = "u1,i1"  # the 51st line of the file
    lines[60] = lines[60].rsplit(",", 2)[0] + ",2,20"
    write(data / "events.csv", lines)
    done = command("prepare", f"--config={data}/tiny.py", f"--run_dir={data.parent}/run")
    assert done.status == 0, done.err
    manifest = json.loads((data.parent / "run" / "prepared" / "manifest.json").read_text())
    assert (manifest["rows"]["read"], manifest["rows"]["used"], manifest["rows"]["quarantined"]) == (400, 398, 2)
    quarantine = (data.parent / "run" / "prepared" / "quarantine.jsonl").read_text().splitlines()
    assert [(row["file"], row["line"]) for row in map(json.loads, quarantine)] == [
        ("events.csv", 51),
        ("events.csv", 61),
    ]
    assert "2 quarantined (prepared/quarantine.jsonl)" in done.out


def test_a_version_that_exists_is_refused_before_anything_is_done(finished: Path) -> None:
    (version,) = (finished.parent / "export").glob("[0-9]*")
    done = run(finished, f"--version={version.name}")
    assert done.status == 2
    assert done.err == f"twotower run: {version}: exists already and is never overwritten; choose another\n"


@pytest.mark.quality
def test_a_log_with_nothing_held_out_is_exported_without_figures(data: Path) -> None:
    nothing_held_out = "--set=data.split=TimeSplit(valid_fraction=0.0, test_fraction=0.0)"
    done = run(data, nothing_held_out)
    assert done.status == 2
    assert done.err.endswith(
        "twotower run: train.monitor: invalid value 'recall@10' for a validation split without an unseen positive; "
        "enlarge the validation split in data.split, or keep the last epoch with "
        "--set train.monitor=\n"
    )
    done = run(data, nothing_held_out, "--set=train.monitor=", "--overwrite")
    assert done.status == 0, done.err
    assert "evaluate: skipped; neither the test nor the valid split has positives" in done.out
    assert len(list((data.parent / "export").glob("[0-9]*"))) == 1


# --- picking up -----------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_was(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from twotower_tf.evaluate import validation

    original, seen = validation.make_validator, []

    def validator(*arguments: Any) -> Any:
        validate = original(*arguments)

        def interrupted(model: Any) -> Any:
            seen.append(len(seen))
            if len(seen) == 3:
                raise KeyboardInterrupt
            return validate(model)

        return interrupted

    monkeypatch.setattr(validation, "make_validator", validator)
    done = run(data, "--set=train.epochs=4")
    assert (done.status, done.err.splitlines()[-1]) == (130, "twotower run: interrupted")
    done = run(data, "--set=train.epochs=4")
    assert done.status == 0, done.err
    assert "prepare: up to date" in done.out
    assert len(seen) == 3 + 2  # epochs 1 and 2 were kept; 3 and 4 were trained by the second run
    report = json.loads((data.parent / "run" / "train.json").read_text())
    assert [entry["epoch"] for entry in report["history"]] == [1, 2, 3, 4]


def test_a_finished_run_is_only_redone_where_something_changed(finished: Path) -> None:
    redone = {
        (): set(),
        ("--set=index.k=5",): {"export"},
        ("--set=index.k=5", "--set=evaluation.ks=(10, 20)"): {"evaluate", "export"},
    }
    for more, stages in redone.items():
        done = run(finished, *more)
        assert done.status == 0, done.err
        skipped = {stage for stage in ("prepare", "train", "evaluate", "export") if f"{stage}: up to date" in done.out}
        assert skipped == {"prepare", "train", "evaluate", "export"} - stages, more
    assert len(list((finished.parent / "export").glob("[0-9]*"))) == 3


def test_a_changed_input_file_is_noticed(finished: Path) -> None:
    write(finished / "events.csv", events(440))
    done = run(finished)
    assert done.status == 0 and "up to date" not in done.out
    assert json.loads((finished.parent / "run" / "prepared" / "manifest.json").read_text())["rows"]["read"] == 440


def test_another_model_is_not_trained_over_a_finished_one(finished: Path) -> None:
    run_dir = finished.parent / "run"
    before = (run_dir / "train.json").read_bytes()
    done = run(finished, "--set=model.vector_dim=8")
    assert done.status == 2
    assert done.err == (
        f"twotower run: {run_dir} holds a model trained with another configuration "
        "(model.vector_dim was 4, now 8); choose another --run_dir, or --overwrite to replace it\n"
    )
    assert (run_dir / "train.json").read_bytes() == before
    assert command("train", f"--run_dir={run_dir}", "--set=model.vector_dim=8", "--overwrite").status == 0
    assert json.loads((run_dir / "config.json").read_text())["model"]["vector_dim"] == 8


@pytest.mark.quality
def test_the_stages_one_by_one_are_the_same_as_run(finished: Path) -> None:
    root = finished.parent
    where = f"--run_dir={root}/steps"
    assert command("prepare", f"--config={finished}/tiny.py", where).status == 0
    assert command("train", where).status == 0
    assert command("evaluate", where).status == 0
    done = command("export", where, f"--export_dir={root}/other", "--version=7")
    assert (done.status, done.out.splitlines()[-1]) == (0, f"{root}/other/7")
    one, other = (json.loads((root / name / "metrics.json").read_text()) for name in ("run", "steps"))
    assert one["metrics"] == pytest.approx(other["metrics"])
    assert command("train", where).status == 0  # figures of the model before are not those of this one
    assert not (root / "steps" / "metrics.json").exists() and not (root / "steps" / "report.html").exists()
    assert command("train", where, "--set=data.label=").err == (
        f'twotower train: {root}/steps was prepared with another configuration (data.label was "click", now ""); '
        "run twotower prepare with this one first\n"
    )
