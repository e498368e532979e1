"""What `twotower init` proposes is validated and run as it is, to a published bundle."""

import json
from pathlib import Path

from tests.cli.test_init import shop
from tests.end_to_end.conftest import command


def test_the_proposal_runs_as_it_is(tmp_path: Path) -> None:
    shop(tmp_path)
    tables = (f"--events={tmp_path}/log", f"--items={tmp_path}/goods.csv", f"--users={tmp_path}/people.tsv")
    assert command("init", f"--output={tmp_path}/shop.py", *tables).status == 0
    config = f"--config={tmp_path}/shop.py"
    assert command("validate", config).status == 0
    done = command("run", config, f"--run_dir={tmp_path}/run", f"--export_dir={tmp_path}/export")
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "run" / "prepared" / "manifest.json").read_text())["rows"]["used"] == 600
    columns = json.loads((tmp_path / "run" / "prepared" / "columns.json").read_text())
    assert columns["item"]["topics"]["values"]["distinct"] == 4
    # Few positives a user: their history says more than the id.
    assert "memberID" not in columns["user"] and columns["user"]["land"]["values"]["distinct"] == 2
    answer = json.loads(command("recommend", f"--export_dir={tmp_path}/export", '--user={"land": "PL"}', "--k=5").out)
    assert len(set(answer["item_ids"])) == 5
