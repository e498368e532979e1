"""The README's five steps and its Python, exactly as printed, on a log with the columns that they show."""

import json
import re
import shlex
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from tests.end_to_end.conftest import command

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
STEPS, PYTHON = (README.split(f"\n## {title}\n")[1].split("\n## ")[0] for title in ("From your own log", "From Python"))


def test_a_stranger_gets_recommendations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("synth", "--output=data/shop", "--events=24000", "--users=500", "--items=200").status == 0
    (config,) = (textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", STEPS, re.DOTALL))
    (python,) = re.findall(r"```python\n(.*?)```", PYTHON, re.DOTALL)
    Path("configs").mkdir()
    Path("configs/shop.py").write_text(config, encoding="utf-8")
    lines = re.findall(r"^ *(twotower .*)$", STEPS, re.MULTILINE) + re.findall(r"`(twotower run .*?)`", STEPS)
    run, recommend, similar, verify = (
        shlex.split(next(line for line in lines if line.split()[1] == name))[1:]
        for name in ("run", "recommend", "similar", "verify")
    )
    done = command(*run, "--set=train.epochs=1")
    assert done.status == 0, done.err
    answer = json.loads(command(*recommend).out)
    assert answer["user"] == {"user_id": "u1", "country": "PL", "history": ["i7", "i3"]}
    assert len(set(answer["item_ids"])) == 10
    similar = [word.replace("--item=i7", f"--item={answer['item_ids'][0]}") for word in similar]
    assert json.loads(command(*similar).out)["item"] == answer["item_ids"][0]
    assert command(*verify).status == 0
    names = {"users": pd.DataFrame({"user_id": ["u1", "u2"], "country": ["PL", None]})}
    exec(python.replace("train.epochs=3", "train.epochs=1"), names)  # the names that it binds are in `names` afterwards
    stages = [getattr(names["result"], stage) for stage in ("prepare", "train", "evaluate", "export")]
    assert all(stage.skipped for stage in stages)  # the run of the command line is up to date
    frame = names["recommender"].recommend_frame(names["users"], k=10)
    assert (
        frame["item_id"][:3].tolist()
        == names["recommender"].recommend([{"user_id": "u1", "country": "PL"}], 3)[0]["item_ids"]
    )
