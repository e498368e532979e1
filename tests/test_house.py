"""The house stays in order: one version, honest constraints, every command documented, nothing unfinished."""

import configparser
import dataclasses
import importlib
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from twotower_tf import __version__
from twotower_tf import config as configuration
from twotower_tf.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def tracked(*suffixes: str) -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: no list of files")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / line for line in done.stdout.splitlines()]
    return [path for path in paths if path.is_file() and path.suffix in suffixes]


def test_the_version_stands_in_one_place() -> None:
    assert setup()["metadata"]["version"] == "attr: twotower_tf.__version__"
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_are_exact_versions_and_name_no_machine() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text and "--" not in text.replace("---", "") and " @ " not in text
    for requirement in constraints():
        assert [part.operator for part in requirement.specifier] == ["=="], requirement


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_constraints_satisfy_every_range_on_every_python(python: str, machine: str) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
    }
    pinned: dict[str, str] = {}
    for requirement in constraints():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in pinned, f"{requirement.name} is pinned twice on Python {python}"
            pinned[requirement.name] = next(iter(requirement.specifier)).version
    options = setup()["options"]["install_requires"]
    extras = setup()["options.extras_require"].values()
    ranges = [Requirement(line) for block in (options, *extras) for line in block.splitlines() if line.strip()]
    assert len(ranges) > 20
    for wanted in ranges:
        if wanted.marker is None or wanted.marker.evaluate(environment):
            assert wanted.specifier.contains(pinned[wanted.name]), wanted


LOCKS = {
    "dev": ("serve", "redis", "tune", "dev"),
    "spark": ("spark",),
}  # requirements/NAME.txt: the extras that it installs


def locked(name: str) -> dict[Requirement, list[str]]:
    """The requirements of a file in requirements/, each with its checksums."""
    found: dict[Requirement, list[str]] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        text = line.removesuffix("\\").strip()
        if text.startswith("--hash="):
            next(reversed(found.values())).append(text.removeprefix("--hash="))
        else:
            found[Requirement(text)] = []
    return found


@pytest.mark.parametrize("name", [*LOCKS, "pip"])
def test_what_make_installs_has_checksums_and_names_no_machine(name: str) -> None:
    assert "://" not in (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    versions = {(requirement.name, str(requirement.specifier)) for requirement in constraints()}
    for requirement, hashes in locked(name).items():
        assert [part.operator for part in requirement.specifier] == ["=="], requirement
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes), requirement
        assert name == "pip" or (requirement.name, str(requirement.specifier)) in versions, requirement


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("name", LOCKS)
def test_what_make_installs_is_all_that_is_needed(name: str, python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
    there = {each.name for each in locked(name) if each.marker is None or each.marker.evaluate(environment)}
    extras = [setup()["options.extras_require"][extra] for extra in LOCKS[name]]
    lines = [line for block in (setup()["options"]["install_requires"], *extras) for line in block.splitlines()]
    wanted = {Requirement(line).name for line in lines if line.strip() and not line.strip().startswith("#")}
    assert len(wanted) > 15 and wanted <= there


def test_every_command_has_a_module_with_help() -> None:
    for name in COMMANDS:
        module = importlib.import_module(f"twotower_tf.cli.{name}")
        assert module.__doc__ and callable(module.define) and callable(module.run)


def test_the_docs_name_every_command_and_no_other() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^## `(\w+)`$", page, re.MULTILINE) == list(COMMANDS)


def test_the_readme_is_short_and_leads_to_every_guide() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 200
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= set(re.findall(r"\]\(([\w./]+)", readme))


def test_the_shipped_configurations_are_reached_through_the_package() -> None:
    link = ROOT / "twotower_tf" / "configs"
    assert link.resolve() == (ROOT / "configs").resolve()


def test_nothing_is_left_unfinished() -> None:
    pattern = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked(".py", ".md", ".cfg", ".toml")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


DIALECT = {  # words that a reader of the field has to translate, and what to write instead
    r"\btold\b|\btells?\b": "log, report, format, state",
    r"\bcame\b": "got",
    r"(?<!there )\b(?:is|are|was) no (?!longer\b)[a-z]+\b": "is not a ..., invalid ..., means no ...",
    r'\bof ours\b|(?<!")\bours\b': "this package's, twotower's",
    r"\banew\b": "again",
    r"\bbeside\b": "next to, compared with, in addition to",
    r"\b(?:crew|judge[ds]?|unneeded|buried|stillborn|succession)\b": "worker pool, validate, ...",
    r"\b(?:whoever|Whoever)\b|\bnobody's\b": "plain word order",
}


def test_texts_are_in_the_terms_of_the_field() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word[0]!r}; write e.g. {instead}"
        for path in tracked(".py", ".md", ".jinja", ".yml")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for pattern, instead in DIALECT.items()
        if (word := re.search(pattern, line))
    ]
    assert found == []


def test_no_tracked_file_is_large() -> None:
    paths = tracked(".py", ".md", ".txt", ".npz", ".tsv", ".parquet", ".bin", ".csv", "")
    assert [path for path in paths if path.stat().st_size > 1_000_000] == []


def test_the_docs_describe_every_configuration_class_and_field() -> None:
    sections = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").split("\n### `")
    described = {
        section.split("`")[0]: set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) for section in sections
    }
    for name, cls in vars(configuration).items():
        if isinstance(cls, type) and dataclasses.is_dataclass(cls):
            fields = {field.name for field in dataclasses.fields(cls)} - {"type"}
            assert described.get(name) == fields, name
