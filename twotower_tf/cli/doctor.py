"""Tells what this machine has: versions beside those that were tried, CPU, memory, disk, optional programs.

Exit status 2 where something that twotower needs is missing or does not fit.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from absl.flags import FlagValues

from twotower_tf import __version__, interpreter, resources
from twotower_tf.errors import ConfigError

PYTHONS = ((3, 10), (3, 13))
# What fits together, as the beginning of a version: TensorFlow, Keras and ScaNN share a C++ ABI or private interfaces.
FITTING = {
    "tensorflow": "2.20.",
    "tf-keras": "2.20.",
    "tensorboard": "2.20.",
    "tensorflow-serving-api": "2.20.",
    "scann": "1.4.2",
}
NEEDED = ("absl-py", "duckdb", "jinja2", "matplotlib", "numpy", "pandas", "protobuf", "pyarrow", "pydantic", "tqdm")
EXTRAS = {"grpcio": "serve", "prometheus-client": "serve", "pyspark": "spark"}
CPU_FLAGS = {
    "x86_64": ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"),
    "aarch64": ("asimd", "asimdhp", "sve", "bf16", "i8mm"),
}
PROGRAMS = {"java": "Spark", "redis-server": "trying publish on this machine", "docker": "export/serving"}


def define(values: FlagValues) -> None:
    """The command has no flags."""


def run(values: FlagValues) -> None:
    """Prints what there is, and fails where something needed is not."""
    problems = _python() + _packages()
    _machine()
    if not problems:
        problems = _together()
    if problems:
        raise ConfigError("; ".join(problems))
    print("all that is needed is here")


def _python() -> list[str]:
    print(f"twotower_tf {__version__}, Python {platform.python_version()}, {platform.platform()}")
    low, high = PYTHONS
    if low <= sys.version_info[:2] <= high:
        return []
    return [f"Python {platform.python_version()}: 3.10 to 3.13 is needed"]


def _packages() -> list[str]:
    problems = []
    print("\npackages")
    for name, fitting in [*FITTING.items(), *((name, "") for name in NEEDED)]:
        version = _version(name)
        if version is None and name == "scann" and sys.platform != "linux":
            print(f"  {name:<24}not here; exact search is used")
        elif version is None:
            problems.append(f"{name} is missing")
            print(f"  {name:<24}missing")
        elif not version.startswith(fitting):
            problems.append(f"{name} {version} does not fit: {fitting}* was tried")
            print(f"  {name:<24}{version}  does not fit: {fitting}* was tried")
        else:
            print(f"  {name:<24}{version}")
    for name, extra in EXTRAS.items():
        print(f"  {name:<24}{_version(name) or f'not here; pip install twotower-tf[{extra}]'}")
    return problems


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _machine() -> None:
    print("\nmachine")
    machine = platform.machine()
    flags = _words("/proc/cpuinfo", "flags", "Features")
    known = [f"{flag} {'yes' if flag in flags else 'no'}" for flag in CPU_FLAGS.get(machine, ())]
    print(f"  {machine}, {resources.cpus()} cores; {', '.join(known) or 'CPU flags unknown'}")
    total, free = resources.total_memory() / 1024**3, resources.available_memory() / 1024**3
    print(f"  memory {total:.1f} GiB, {free:.1f} GiB free")
    disk = shutil.disk_usage(Path.cwd())
    print(f"  disk here {disk.total / 1024**3:.1f} GiB, {disk.free / 1024**3:.1f} GiB free")
    for program, purpose in PROGRAMS.items():
        print(f"  {program}: {shutil.which(program) or f'not here (for {purpose})'}")


def _words(path: str, *keys: str) -> set[str]:
    """The words of the first line of a `key : words` file with one of the keys."""
    for line in Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []:
        key, _, words = line.partition(":")
        if key.strip() in keys:
            return set(words.split())
    return set()


def _together() -> list[str]:
    """Loads ScaNN beside TensorFlow, in a process of its own: a wrong pair dies instead of raising."""
    if _version("scann") is None:
        return []
    done = _import_in_a_process("scann")
    if done.returncode == 0:
        print("\nScaNN loads beside TensorFlow")
        return []
    reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return [f"ScaNN does not load beside TensorFlow: {reason}"]


def _import_in_a_process(name: str) -> subprocess.CompletedProcess[str]:
    command, environment = interpreter.command(f"import {name}"), interpreter.environment({})
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
