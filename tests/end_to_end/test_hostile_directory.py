"""Commands that are run in a directory with Python files of the libraries' names: none of these is executed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.score.people import parquet, people
from twotower_tf import interpreter
from twotower_tf.bundle.bundle import list_versions
from twotower_tf.cli.main import main
from twotower_tf.export.export_bundle import export

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "queue", "json", "numpy", "pickle", "tensorflow", "scann", "multiprocessing", "runpy", "ctypes", "pyarrow",
    "concurrent", "signal", "tempfile", "twotower_tf", "sitecustomize",
)  # fmt: skip


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Makes a working directory in which every import leaves a file `executed`."""
    place = tmp_path / "data"
    place.mkdir()
    for name in NAMES:
        (place / f"{name}.py").write_text(
            f"open({str(tmp_path / 'executed')!r}, 'a').write('{name} ')\nraise SystemExit(77)"
        )
    monkeypatch.chdir(place)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), ""]))  # an empty part is the working directory
    monkeypatch.delenv(interpreter.SAFE_PATH, raising=False)
    yield tmp_path
    assert not (tmp_path / "executed").exists(), (tmp_path / "executed").read_text()


def test_the_directory_is_hostile(hostile):
    """To Python as it starts by itself: else the other tests would show nothing."""
    plain = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", "import queue"], env=plain, check=False)
    assert done.returncode == 77 and (hostile / "executed").read_text() == "queue "
    (hostile / "executed").unlink()


@pytest.mark.quality
def test_processes_of_export_refresh_and_rollback(hostile, trained, export_dir, capfd):
    run_dir, config = trained
    export(config, run_dir, hostile / "new", version=1)
    assert list_versions(hostile / "new") == [1]
    shutil.copytree(export_dir, hostile / "tiny")
    assert main(["rollback", f"--export_dir={hostile / 'tiny'}", "--to=7"]) == 2  # the newest already: no process
    lines = (Path(config.data.root) / "items.csv").read_text().splitlines()
    (hostile / "items.csv").write_text("\n".join([lines[0], lines[1].replace("i00000", "brandnew")]) + "\n")
    assert main(["refresh", f"--export_dir={hostile / 'tiny'}", f"--items={hostile / 'items.csv'}"]) == 0
    assert main(["rollback", f"--export_dir={hostile / 'tiny'}", "--to=7"]) == 0
    assert len(list_versions(hostile / "tiny")) == 3


@pytest.mark.quality
def test_workers_of_score(hostile, export_dir):
    parquet(hostile / "users.parquet", people(20))
    arguments = [f"--users={hostile / 'users.parquet'}", f"--output={hostile / 'answers'}", "--k=3", "--workers=1"]
    assert main(["score", f"--export_dir={export_dir}", *arguments]) == 0
    assert (hostile / "answers" / "_summary.json").is_file()


def test_the_process_of_doctor(hostile, capfd):
    pytest.importorskip("scann")
    assert main(["doctor"]) == 0
    assert "ScaNN loads with this TensorFlow" in capfd.readouterr().out


@pytest.mark.parametrize("start", [["-m", "twotower_tf"], [str(ROOT / "twotower_tf" / "__main__.py")]])
def test_the_command_itself_as_a_module_and_as_a_file(hostile, start, monkeypatch):
    """Python imports runpy and the package before anything of the package can help; what comes after is safe."""
    for name in ("runpy", "twotower_tf", "sitecustomize"):
        (hostile / "data" / f"{name}.py").unlink()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = ["versions", "--export_dir=nowhere"]  # imports what is in NAMES but TensorFlow, which takes its time
    done = subprocess.run([sys.executable, *start, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("twotower versions: nowhere: no "), done.stderr


def test_python_3_10_that_knows_no_safe_path(hostile, monkeypatch):
    """The command and multiprocessing's processes, without the variable that Python 3.11 heeds."""
    code = "import queue, json, sys; print(queue.__file__, '' in sys.path)"
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(interpreter.build_command(code), capture_output=True, text=True, env=plain, check=True)
    assert done.stdout.split()[0].startswith(sys.base_prefix) and done.stdout.split()[1] == "False"
    script = hostile / "parent.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "from twotower_tf import interpreter\n"
        "CODE = 'import queue, sys; sys.exit(33 + (not queue.__file__.startswith(sys.base_prefix)))'\n"
        "if __name__ == '__main__':\n"
        "    interpreter._safe = lambda: {}\n"
        "    interpreter.sys = type('', (), {'version_info': (3, 10)})\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    with interpreter.spawn_with({}):\n"
        "        process = context.Process(target=exec, args=(CODE,))\n"
        "        process.start()\n"
        "    process.join()\n"
        "    sys.exit(process.exitcode)\n"
    )
    environment = {**plain, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 33, done.stderr


@pytest.mark.quality
def test_python_workers_of_spark(hostile):
    """Spark starts them with `python -m pyspark.daemon`, in the directory where the command was given."""
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    script = hostile / "session.py"
    script.write_text(
        "from twotower_tf.prepare.spark.spark_session import SparkOptions, start_session\n"
        "context = start_session(SparkOptions(master='local[1]')).sparkContext\n"
        "print(context.parallelize([1], 1).map(lambda one: __import__('queue').__file__).collect()[0])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip().startswith(sys.base_prefix), done.stderr[-2000:]


def test_what_pythonpath_names_is_found(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("print('mine')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(tmp_path), ""]))
    environment = interpreter.build_environment({"A": "b"})
    assert environment["PYTHONPATH"] == str(tmp_path) and environment["A"] == "b"
    monkeypatch.setenv("PYTHONPATH", os.pathsep)
    assert interpreter.build_environment({})["PYTHONPATH"] == ""  # as if it were not set
    command = interpreter.build_command("import mine, twotower_tf; print(sys.argv[1:])", "x", "y")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines() == ["mine", "['x', 'y']"]
