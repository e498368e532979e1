"""Reports installed and tested versions, CPU, memory, disk and optional programs of this machine.

Exit status 2 if a required package is missing or has an untested version.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from twotower_tf import __version__, interpreter, resources
from twotower_tf.cli.command import Flags
from twotower_tf.errors import ConfigError

PYTHONS = ((3, 10), (3, 13))
# Version prefixes tested together: TensorFlow, Keras and ScaNN share a C++ ABI or private interfaces.
TESTED = {
    "tensorflow": "2.20.",
    "tf-keras": "2.20.",
    "tensorboard": "2.20.",
    "tensorflow-serving-api": "2.20.",
    "scann": "1.4.2",
}
REQUIRED_PACKAGES = (
    "absl-py", "duckdb", "jinja2", "matplotlib", "numpy", "pandas", "protobuf", "pyarrow", "pydantic", "tqdm",
)  # fmt: skip
EXTRAS = {"grpcio": "serve", "optuna": "tune", "prometheus-client": "serve", "pyspark": "spark"}
CPU_FLAGS = {
    "x86_64": ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"),
    "aarch64": ("asimd", "asimdhp", "sve", "bf16", "i8mm"),
}
PROGRAMS = {"java": "Spark", "redis-server": "a local Redis to publish to", "docker": "export/serving"}


def define(flags: Flags) -> None:
    """Defines no flags."""


def run(flags: Flags) -> None:
    """Prints the report.

    Raises:
        ConfigError: listing every missing or unsuitable requirement.
    """
    problems = _check_python() + _check_packages()
    _print_machine()
    if not problems:
        problems = _check_scann_loads()
    if problems:
        raise ConfigError("; ".join(problems))
    print("all requirements are met")


def _check_python() -> list[str]:
    print(f"twotower_tf {__version__}, Python {platform.python_version()}, {platform.platform()}")
    low, high = PYTHONS
    if low <= sys.version_info[:2] <= high:
        return []
    return [f"Python: unsupported version {platform.python_version()} (expected 3.10 to 3.13)"]


def _check_packages() -> list[str]:
    problems = []
    print("\npackages")
    for name, tested in [*TESTED.items(), *((name, "") for name in REQUIRED_PACKAGES)]:
        version = _version(name)
        if version is None and name == "scann" and sys.platform != "linux":
            print(f"  {name:<24}not installed; exact search is used")
        elif version is None:
            problems.append(f"{name} is missing")
            print(f"  {name:<24}missing")
        elif not version.startswith(tested):
            problems.append(f"{name}: unsupported version {version} (expected {tested}*)")
            print(f"  {name:<24}{version}  unsupported (expected {tested}*)")
        else:
            print(f"  {name:<24}{version}")
    for name, extra in EXTRAS.items():
        print(f"  {name:<24}{_version(name) or f'not installed; pip install twotower-tf[{extra}]'}")
    return problems


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _print_machine() -> None:
    print("\nmachine")
    machine = platform.machine()
    flags = _words("/proc/cpuinfo", "flags", "Features")
    known = [f"{flag} {'yes' if flag in flags else 'no'}" for flag in CPU_FLAGS.get(machine, ())]
    print(f"  {machine}, {resources.count_cpus()} cores; {', '.join(known) or 'CPU flags unknown'}")
    disk = shutil.disk_usage(Path.cwd())
    for name, total, free in (
        ("memory", resources.total_memory(), resources.available_memory()),
        ("disk of the working directory", disk.total, disk.free),
    ):
        print(f"  {name} {resources.format_bytes(total)}, {resources.format_bytes(free)} free")
    for program, purpose in PROGRAMS.items():
        print(f"  {program}: {shutil.which(program) or f'not installed (needed for {purpose})'}")


def _words(path: str, *keys: str) -> set[str]:
    """Returns the words of the first `key : words` line with one of the keys."""
    for line in Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []:
        key, _, words = line.partition(":")
        if key.strip() in keys:
            return set(words.split())
    return set()


def _check_scann_loads() -> list[str]:
    """Imports ScaNN in a subprocess: an incompatible TensorFlow crashes the process instead of raising."""
    if _version("scann") is None:
        return []
    done = _import_in_a_process("scann")
    if done.returncode == 0:
        print("\nScaNN loads with this TensorFlow")
        return []
    reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return [f"ScaNN does not load with this TensorFlow: {reason}"]


def _import_in_a_process(name: str) -> subprocess.CompletedProcess[str]:
    command, environment = interpreter.build_command(f"import {name}"), interpreter.build_environment({})
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
