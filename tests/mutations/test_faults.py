"""Each deliberate fault of `faults.py`, in a copy of the tree, is noticed by the tests that it names."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("twotower_tf", "tests", "configs", "setup.cfg", "pyproject.toml")
MINUTES = 10  # for the tests of one fault


def sources(root):
    return {path: path.read_text(encoding="utf-8") for path in sorted((root / "twotower_tf").rglob("*.py"))}


def place_of(fault, texts):
    """The file with the fault's text."""
    found = [path for path, text in texts.items() for _ in range(text.count(fault.old))]
    assert len(found) == 1, f"{fault.name!r}: its text stands {len(found)} times in the package; change faults.py"
    return found[0]


def files_of(fault, root):
    found = {name: sorted((root / "tests").rglob(name)) for name in fault.tests}
    for name, paths in found.items():
        assert len(paths) == 1, f"{fault.name!r}: {len(paths)} test files are named {name}; change faults.py"
    return [str(paths[0]) for paths in found.values()]


def test_every_fault_can_be_made():
    texts = sources(ROOT)
    for fault in FAULTS:
        assert fault.old != fault.new and place_of(fault, texts) and files_of(fault, ROOT)
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def notices(fault, root):
    """Whether the fault's tests fail in the copy; the fault is taken back."""
    texts = sources(root)
    path = place_of(fault, texts)
    path.write_text(texts[path].replace(fault.old, fault.new), encoding="utf-8")
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files_of(fault, root)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60 * MINUTES,
        )
    finally:
        path.write_text(texts[path], encoding="utf-8")
    # 1 is a test that failed; anything else says that the tests did not run, or that a module cannot be imported.
    assert ran.returncode in (0, 1), f"{fault.name!r}: pytest ended with {ran.returncode}:\n{ran.stdout[-2000:]}"
    return ran.returncode == 1


@pytest.mark.quality
def test_every_fault_is_noticed(tmp_path):
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    missed = []
    for fault in FAULTS:
        noticed = notices(fault, tmp_path)
        print("noticed" if noticed else "MISSED ", fault.name, flush=True)
        missed += [] if noticed else [fault.name]
    print(f"faults noticed: {len(FAULTS) - len(missed)} of {len(FAULTS)}")
    assert not missed
