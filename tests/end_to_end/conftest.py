"""The main job, once: `twotower quickstart` with its own sizes, in a directory that no checkout is near."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from twotower_tf.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command did."""

    status: int
    out: str
    err: str


def command(*arguments: object) -> Done:
    """Runs a command in this process: TensorFlow is imported once for all of them."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return Done(status, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Quickstart:
    """The directories of a finished quickstart, and what it printed."""

    run_dir: Path
    export_dir: Path
    out: str

    @property
    def log(self) -> Path:
        return self.run_dir / "log"


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    """A finished `twotower quickstart`."""
    root = tmp_path_factory.mktemp("quickstart")
    done = command("quickstart", f"--run_dir={root}/run", f"--export_dir={root}/export/ads")
    assert done.status == 0, done.err
    yield Quickstart(root / "run", root / "export" / "ads", done.out)
