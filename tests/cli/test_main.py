"""What a person meets first: help, typing errors, exit statuses, and no waiting for TensorFlow."""

import errno
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from absl import flags

from twotower_tf import __version__, artifacts, sql
from twotower_tf.cli import main as main_module
from twotower_tf.cli.main import COMMANDS, main
from twotower_tf.errors import DataError
from twotower_tf.tables.readers import scans

ROOT = Path(__file__).resolve().parents[2]

BAD_USAGE = {
    "": "twotower: missing command; twotower --help lists the commands",
    "trian": "twotower: unknown command 'trian'; did you mean 'train'?",
    "--hlep": "twotower: unknown flag '--hlep'; did you mean '--help'?",
    "train --rundir=x": "twotower train: unknown flag '--rundir'; did you mean '--run_dir'?",
    "train --run_dir x --resum": "twotower train: unknown flag '--resum'; did you mean '--resume'?",
    "train": "twotower train: --run_dir is required: run directory: configuration, prepared data, checkpoints, metrics",
    "train --run_dir=": (
        "twotower train: --run_dir is required: run directory: configuration, prepared data, checkpoints, metrics"
    ),
    "train --run_dir=x --resume=maybe": "twotower train: --resume=maybe: invalid value (expected true or false)",
    "train --run_dir": "twotower train: --run_dir: missing value; write --run_dir=VALUE",
    "train --run_dir=x epochs=3": "twotower train: unexpected argument 'epochs=3'; flags are written --name=value",
    "synth --output=x --events=many": "twotower synth: --events=many: invalid value (expected an integer)",
    "synth --output=x --events=0": "twotower synth: --events=0: invalid value (expected a positive integer)",
    "serve --export_dir=x --poll_seconds=often": (
        "twotower serve: --poll_seconds=often: invalid value (expected a number)"
    ),
    "synth --output=x --format=orc": "twotower synth: --format=orc: invalid value (expected one of: csv, parquet)",
    "evaluate --run_dir=x --split=train": (
        "twotower evaluate: --split=train: invalid value (expected one of: valid, test)"
    ),
    "dataset --output=x": "twotower dataset: NAME is required: twotower dataset NAME ...",
    "dataset a b --output=x": "twotower dataset: unexpected argument 'b'; flags are written --name=value",
    "verify --undefok=a --a=b": (
        "twotower verify: unknown flag '--undefok'; known: --bundle_dir, --export_dir, --version"
    ),
    "verify": "twotower verify: --export_dir or --bundle_dir is required, not both: what to verify",
    "verify --export_dir=a --bundle_dir=b": (
        "twotower verify: --export_dir or --bundle_dir is required, not both: what to verify"
    ),
    "verify --bundle_dir=b --version=3": (
        "twotower verify: --version: invalid with --bundle_dir (it is one version already); leave it out"
    ),
    "recommend --export_dir=x": "twotower recommend: --user is required: a user as a JSON object",
    "recommend --export_dir=x --user=u1": "twotower recommend: --user: not JSON (Expecting value: line 1 column 1 "
    """(char 0)): u1; write e.g. --user='{"user_id": "u1"}'""",
    "recommend --export_dir=x --user=[1]": "twotower recommend: --user: invalid value [1] (expected a JSON object of "
    """feature values); write e.g. --user='{"user_id": "u1"}'""",
    "prepare --config=none.py --run_dir=x": "twotower prepare: --config: no such file: none.py",
}


@pytest.mark.parametrize("line", BAD_USAGE)
def test_bad_usage_is_one_line_and_status_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == BAD_USAGE[line] + "\n"


def test_nothing_is_written_by_a_wrong_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in BAD_USAGE:
        main(line.split())
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: twotower {name}")
    assert max(map(len, out.splitlines())) <= 120


def test_help_shows_required_flags_defaults_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "--help"])
    out = capsys.readouterr().out
    assert out.startswith("usage: twotower evaluate --run_dir=... [flags]\n")
    assert "  --split\n      <valid|test>: held-out split to evaluate (default: test)\n" in out
    assert "checkpoints, metrics (required)" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"twotower_tf {__version__}\n"


# --- errors while a command runs ----------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Puts a command in place of `doctor` that fails."""

    def run(values: Any) -> None:
        raise error

    module = SimpleNamespace(define=lambda values: None, run=run, __doc__="fails")
    monkeypatch.setattr(main_module.importlib, "import_module", lambda name: module)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DataError("events.csv:3: label 7 is neither 0 nor 1"), 2, "events.csv:3: label 7 is neither 0 nor 1"),
        (DataError("two\nlines"), 2, "two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "/x/y: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "file system: No space left on device"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    error: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(monkeypatch, error)
    assert main(["doctor"]) == status
    assert capsys.readouterr().err == f"twotower doctor: {message}\n"


@pytest.mark.parametrize("error", [ValueError("odd"), FileNotFoundError(errno.ENOENT, "No such file", "/x")])
def test_a_fault_of_ours_shows_where(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, error)
    assert main(["doctor"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("twotower doctor: internal error; please report it with the traceback above\n")


# --- as a process -------------------------------------------------------------------------------------------------


def process(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments] if code else [sys.executable, "-m", "twotower_tf", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "--rundir=x"], ["nonsense"]])
def test_answers_in_under_half_a_second(arguments: list[str]) -> None:
    def seconds() -> float:
        started = time.perf_counter()
        process(*arguments)
        return time.perf_counter() - started

    assert any(seconds() < 0.5 for _ in range(5))  # one of five: other programs may be running


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "--rundir=x"], ["prepare"]])
def test_answers_without_heavy_imports(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom twotower_tf.cli.main import main\nmain(sys.argv[1:])\n"
        "heavy = ('tensorflow', 'tf_keras', 'scann', 'pyarrow', 'numpy', 'pandas', 'duckdb', 'pydantic')\n"
        "print('loaded:', [name for name in heavy if name in sys.modules])"
    )
    assert process(*arguments, code=code).stdout.splitlines()[-1] == "loaded: []"


def test_a_missing_bundle_is_reported_without_tensorflow() -> None:
    code = (
        "import sys\nfrom twotower_tf.cli.main import main\nstatus = main(sys.argv[1:])\n"
        "print(status, 'tensorflow' in sys.modules)"
    )
    done = process("verify", "--export_dir=no/such/export", code=code)
    assert done.stdout == "2 False\n" and done.stderr.startswith("twotower verify: no/such/export")


def test_python_m_is_the_same_program() -> None:
    done = process("trian")
    assert (done.returncode, done.stderr) == (2, "twotower: unknown command 'trian'; did you mean 'train'?\n")


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    line = f"{sys.executable} -m twotower_tf synth --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr == "" and done.returncode in (0, 141)


@pytest.mark.parametrize(("given", "level"), [("3", logging.ERROR), ("0", logging.NOTSET)])
def test_tensorflow_is_quiet_unless_the_user_wants_it(given: str, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(define=lambda values: None, run=lambda values: None)
    monkeypatch.setattr(main_module.importlib, "import_module", lambda name: module)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", given)
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.NOTSET)
    try:
        assert main(["doctor"]) == 0
        assert logger.level == level
    finally:
        logger.setLevel(before)


# --- what the machine refuses -------------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def running(monkeypatch: pytest.MonkeyPatch, run: Callable[[Any], object]) -> None:
    """Puts a command in place of `synth` that does something else."""

    def define(values: Any) -> None:
        flags.DEFINE_string("output", "", "where it writes", flag_values=values)

    module = SimpleNamespace(define=define, run=run, __doc__="runs")
    monkeypatch.setitem(sys.modules, "twotower_tf.cli.synth", module)


def arrow(place: Path) -> None:
    with artifacts.atomic_file(place / "a.parquet") as path:
        pq.write_table(pa.table({"a": np.random.default_rng(0).random(100_000)}), path)


def numpy(place: Path) -> None:
    with artifacts.atomic_directory(place / "a.parquet") as directory, (directory / "a.npy").open("wb") as file:
        np.save(file, np.zeros(100_000))


def python(place: Path) -> None:
    artifacts.write_text(place / "a.parquet", "x" * 1_000_000)


def copy_of_duckdb(place: Path) -> None:
    duckdb.sql(f"COPY (SELECT random() FROM range(100000)) TO '{place}/a.parquet'")


def tables_of_duckdb(place: Path) -> None:
    duckdb.connect(place / "a.parquet").execute("CREATE TABLE t AS SELECT random() FROM range(1000000)")


def wrapped(place: Path) -> None:
    """An error of the package's own that was raised while a full disk was handled."""
    try:
        python(place)
    except OSError:
        raise DataError("events.csv: cannot be read") from None


@pytest.mark.parametrize("write", [arrow, numpy, python, copy_of_duckdb, tables_of_duckdb, wrapped])
def test_a_full_disk_is_one_line_with_the_path(
    write: Callable[[Path], None], full: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running(monkeypatch, lambda values: write(full))
    assert main(["synth", f"--output={full}"]) == 2
    assert capsys.readouterr().err == f"twotower synth: {full}/a.parquet: No space left on device\n"


def test_a_full_disk_under_tensorflow_and_in_messages_without_a_path(
    full: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class ResourceExhaustedError(Exception):
        """As TensorFlow raises it."""

    def run(values: Any) -> None:
        raise ResourceExhaustedError(f"{{{{function_node}}}} {full}/ex/v/variables/part-0; No space left on device")

    running(monkeypatch, run)
    assert main(["synth", "--output=x"]) == 2
    assert capsys.readouterr().err == f"twotower synth: {full}/ex/v/variables/part-0: No space left on device\n"
    (full / "fill").write_bytes(bytes(150_000))
    failing_text(monkeypatch, "failed to offload data block of size 160.0 KiB (256.0 KiB/270.0 KiB used).")
    assert main(["synth", f"--output={full}/new/out"]) == 2
    assert capsys.readouterr().err == f"twotower synth: {full}/new/out: No space left on device\n"


def failing_text(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def run(values: Any) -> None:
        raise duckdb.OutOfMemoryException(text)

    running(monkeypatch, run)


def test_too_little_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def group(values: Any) -> None:
        with sql.connect(memory_limit="20MB", temp_directory="", threads=1) as connection:
            try:
                connection.execute("CREATE TABLE t AS SELECT random()::VARCHAR FROM range(10000000)")
            except duckdb.Error as error:
                raise scans.build_read_error([], error) from None

    running(monkeypatch, group)
    assert main(["synth", "--output=x"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("twotower synth: out of memory: could not allocate block of size ")
    assert message.endswith("; free some memory\n") and message.count("\n") == 1
    running(monkeypatch, lambda values: np.empty(1 << 60, np.uint8))
    assert main(["synth", "--output=x"]) == 2
    assert capsys.readouterr().err.startswith("twotower synth: out of memory: Unable to allocate 1.00 EiB")


_SIGNALLED = """
import os, signal, sys, threading, time
from pathlib import Path
from twotower_tf import artifacts, sql
from twotower_tf.cli import main, synth
from twotower_tf.errors import DataError

number, where, directory = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it


def run(values):
    with artifacts.atomic_directory(directory / "out"):
        threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
        if where == "python":
            time.sleep(20)
        try:
            sql.connect(threads=4).execute("SELECT sum(sqrt(range)) FROM range(100000000000)")  # an hour
        except Exception as error:
            if where == "duckdb":
                raise
            raise DataError("events.csv: cannot be read") from error


synth.run = run
sys.exit(main.main(["synth", "--output=x"]))
"""


@pytest.mark.parametrize(
    ("number", "status", "message"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("where", ["python", "duckdb", "a handler"])
def test_signals_end_a_command_cleaned_up(
    number: signal.Signals, status: int, message: str, where: str, tmp_path: Path
) -> None:
    """In a process of its own: the signal may arrive late on a busy machine, and must not reach the test runner."""
    arguments = [sys.executable, "-c", _SIGNALLED, str(int(number)), where, str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == status, done.stderr
    assert done.stderr == f"twotower synth: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_signal_handlers_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    running(monkeypatch, lambda values: None)
    assert main(["synth", "--output=x"]) == 0
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
