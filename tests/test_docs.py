"""The reference pages say what the code says: they are written from it, and nothing in them is empty."""

import importlib.util
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
