"""The table of docs/benchmarks.md is rewritten from recorded runs: made-up figures, from the record to the page."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end import quality_record
from tests.end_to_end.quality_record import record_run

DOCS = Path(__file__).resolve().parents[1] / "docs"
_SPEC = importlib.util.spec_from_file_location("quality_table", DOCS / "quality_table.py")
quality_table = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(quality_table)

PAGE = f"""# Figures

{quality_table.BEGIN}
| configuration | protocol | old columns |
| --- | --- | --- |
| `quickstart`, by hand | per user | .4 |
| `gowalla`, `--final` | per user | .1 |
{quality_table.END}

| `gowalla` | another table |
"""


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run directory with models of 2,500,012 numbers, the final one of 1,500,000."""
    for place, shapes in (("run", [(12,), (25_000, 100)]), ("run/final", [(15_000, 100)])):
        checkpoint = tmp_path / place / "checkpoints" / "3-0"
        checkpoint.mkdir(parents=True)
        np.savez(checkpoint / "weights.npz", **{f"w{len(shape)}": np.zeros(shape, np.float32) for shape in shapes})
    return tmp_path / "run"


def measured(*pairs: float) -> dict[str, float]:
    return dict(zip(("recall@10", "ndcg@10", "recall@20", "ndcg@20"), pairs, strict=True))


def test_figures_go_from_the_run_to_the_page(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, page = tmp_path / "quality.jsonl", tmp_path / "page.md"
    page.write_text(PAGE)
    report = {"metrics": measured(0.25, 0.125, 0.5, 0.1), "baselines": {"popularity": measured(0.1, 0.05, 1.0, 0.0)}}
    record_run("gowalla", finished, report, 59.6, final=True)  # nothing is recorded without the file's name
    quality_table.main(figures, page)
    assert page.read_text() == PAGE and "no figures" in capsys.readouterr().out
    monkeypatch.setenv(quality_record.FIGURES, str(figures))
    monkeypatch.setattr(quality_record.os, "getloadavg", lambda: (9.0, 9.0, 1.6))
    monkeypatch.setattr(quality_record.os, "sched_getaffinity", lambda pid: {0, 3})
    record_run("gowalla", finished, {**report, "metrics": measured(0, 0, 0, 0)}, 1, final=False)
    record_run("gowalla", finished, report, 59.6, final=True)  # the last one counts
    record_run("movielens_1m", finished, report, 3725, final=False)
    date = json.loads(figures.read_text().splitlines()[0])["date"]
    quality_table.main(figures, page)
    lines = page.read_text().splitlines()
    assert lines[2:] == [
        quality_table.BEGIN,
        "| configuration | protocol | recall (popularity) | ndcg (popularity) | parameters | time of `run` | date |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| `quickstart`, by hand | per user | .4 |",
        "| `gowalla`, `--final` | per user, LightGCN's split, training and validation part excluded | "
        f"@20 .5000 (1.0000) | @20 .1000 (.0000) | 1.50 million | 1 min 0 s | {date}, 2 cores, load 2 |",
        "| `movielens_1m` | last rating of each user, seen excluded | @10 .2500 (.1000), @20 .5000 (1.0000) | "
        f"@10 .1250 (.0500), @20 .1000 (.0000) | 2.50 million | 62 min 5 s | {date}, 2 cores, load 2 |",
        quality_table.END,
        "",
        "| `gowalla` | another table |",
    ]
    quality_table.main(figures, page)
    assert page.read_text().splitlines() == lines  # again: the same


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no table between the lines"):
        quality_table.rewrite_table("# Figures\n", [])


def test_the_page_has_a_row_for_every_configuration_that_is_measured() -> None:
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    table = text.partition(quality_table.BEGIN)[2].partition(quality_table.END)[0]
    for name in quality_record.PROTOCOLS:
        assert f"| `{name}`" in table
    rows = [line for line in table.splitlines() if line]
    assert {line.count(" | ") for line in rows} == {len(quality_table.HEADER) - 1}
