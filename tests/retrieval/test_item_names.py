"""Items by name: which one is meant, and what is said where that is not clear."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from twotower_tf.errors import DataError
from twotower_tf.retrieval.item_names import ItemNames

NAMES = {"a": "Heat", "b": "HEAT", "c": "Alien", "d": "Aliens", "e": "Twin", "f": "Twin", "g": None, "h": "ÉTÉ"}


@pytest.fixture
def names():
    table = pa.table({"item_id": list(NAMES), "item_name": pa.array(NAMES.values(), pa.string())})
    bundle = SimpleNamespace(columns=table.select, manifest={"items": len(NAMES)}, path="export/3")
    return ItemNames(bundle)


def test_names_of_rows(names):
    assert names.of_rows(np.array([2, 6, 0], np.int32)) == ["Alien", "", "Heat"]
    assert names.of_rows(np.empty(0, np.int32)) == []


def test_names_of_ids(names):
    assert names.of_ids(["c", "g", "a"]) == ["Alien", "", "Heat"]
    assert names.of_ids([]) == []


@pytest.mark.parametrize(("name", "row"), [("Heat", 0), ("HEAT", 1), ("alien", 2), ("Aliens", 3), ("été", 7)])
def test_an_item_by_its_name(names, name, row):
    assert names.find_row(name) == row


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Twin", "item 'Twin': 2 items have this name: e ('Twin'), f ('Twin'); give the id"),
        ("heat", "item 'heat': 2 items have this name: a ('Heat'), b ('HEAT'); give the id"),
        (
            "lien",
            "item 'lien': not the id or the name of one of the 8 items of export/3; names with it: c ('Alien'), "
            "d ('Aliens')",
        ),
        ("Ran", "item 'Ran': not the id or the name of one of the 8 items of export/3"),
    ],
)
def test_a_name_that_is_not_clear(names, name, message):
    with pytest.raises(DataError) as raised:
        names.find_row(name)
    assert str(raised.value) == message
