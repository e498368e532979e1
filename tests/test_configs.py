"""Every shipped configuration loads, survives a JSON round trip, and opens with the command that runs it."""

import ast
from pathlib import Path

import pytest

from twotower_tf import config as configuration
from twotower_tf.config import Hash

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = (
    *("quickstart", "movielens_100k", "movielens_kept", "movielens_1m", "movielens_1m_m1"),
    *("gowalla", "avazu", "lists_in_order"),
)
FILES = sorted((ROOT / "configs").glob("*.py"))


def test_these_are_shipped() -> None:
    assert {path.stem for path in FILES} >= set(SHIPPED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_loads_and_round_trips(path: Path) -> None:
    config = configuration.load(path)
    assert config.name == path.stem
    assert configuration.from_json(configuration.to_json(config), "here") == config
    assert configuration.fingerprint(config) == configuration.fingerprint(configuration.load(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_opens_with_its_command(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None
    command = f"twotower run --config=configs/{path.name} --run_dir=runs/{path.stem} --export_dir=export/{path.stem}"
    assert command in docstring.splitlines()


def test_avazu_has_the_eleven_columns_of_the_textbook() -> None:
    config = configuration.load(ROOT / "configs" / "avazu.py")
    buckets = {
        feature.column: feature.buckets
        for feature in (*config.item_features, *config.user_features)
        if isinstance(feature, Hash)
    }
    assert buckets == {
        "C14": 10_000,
        "site_id": 10_000,
        "site_domain": 10_000,
        "site_category": 10_000,
        "app_id": 10_000,
        "app_domain": 10_000,
        "app_category": 1_000,
        "device_id": 1_000,
        "device_ip": 10_000,
        "device_type": 10,
        "device_conn_type": 10,
    }
    assert config.model.embedding_dim == 16
