"""The reference pages say what the code says: they are written from it, and nothing in them is empty."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
_SPEC = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
generate = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(generate)


@pytest.mark.parametrize("name", sorted(generate.PAGES))
def test_the_page_is_up_to_date(name):
    assert (DOCS / name).read_text(encoding="utf-8") == generate.PAGES[name](), "run `make docs`"


def test_a_field_is_written_with_type_default_and_description():
    page = generate.PAGES["configuration.md"]()
    assert "| `valid_days` | int | `1` | number of validation days, after the training days. |" in page


@pytest.mark.parametrize("name", sorted(generate.PAGES))
def test_no_row_is_empty(name):
    rows = [line for line in generate.PAGES[name]().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_file_of_both_roots_is_listed(export_dir):
    """The listing is compared with a bundle as it was published."""
    page = generate.files_page()
    for path in ("RUN_DIR/.lock", "RUN_DIR/prepared/encoded/SPLIT", "EXPORT_DIR/blocklist.txt"):
        assert f"| `{path}` |" in page
    (version,) = (path for path in export_dir.iterdir() if path.name.isdecimal())
    listed = {path.name for path in version.iterdir()} - {"fingerprint.pb", "assets"}  # TensorFlow's own
    assert {name for name in listed if f"| `EXPORT_DIR/VERSION/{name}` |" not in page} == set()


def test_every_link_leads_to_a_page_and_a_heading():
    root = DOCS.parent
    for page in [*DOCS.glob("*.md"), *root.glob("*.md"), root / "export" / "README.md"]:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            linked = (page.parent / file) if file else page
            assert linked.exists(), f"{page.name}: {target}"
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            names = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in names, f"{page.name}: {target}"


def test_every_command_in_the_guides_exists_with_its_flags():
    root = DOCS.parent
    guides = [root / "README.md", root / "export" / "README.md", *sorted(DOCS.glob("*.md"))]
    found = []
    for guide in guides:
        text = guide.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"twotower(?:_tf/__main__\.py)? +([a-z]+ .*?)(?:`|$)", text, re.MULTILINE):
            name, *words = line.split()
            if name in generate.main.COMMANDS:
                known = generate.command.format_help(name, generate.importlib.import_module(f"twotower_tf.cli.{name}"))
                flags = re.findall(r"(?<!\S)(--[a-z]\w*)", " ".join(words))
                assert [flag for flag in flags if f"{flag}\n" not in known] == [], f"{guide.name}: twotower {line}"
                found.append(name)
    assert {"init", "validate", "run", "prepare", "train", "samples", "recommend", "similar", "score"} <= set(found)
