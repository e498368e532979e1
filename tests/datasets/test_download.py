"""Downloads of published data sets, from a web server on this machine."""

import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.publisher_files import ML_1M, rows
from twotower_tf.datasets import convert_dataset
from twotower_tf.datasets.download import Archive
from twotower_tf.datasets.publications import PUBLICATIONS, Publication
from twotower_tf.errors import DataError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine that serves `tmp_path/www`."""
    (tmp_path / "www").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "www"))

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def zipped(content: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in content.items():
            archive.writestr(f"ml-1m/{name}", text.encode("latin-1"))
    return packed.getvalue()


def publish_at(monkeypatch: pytest.MonkeyPatch, url: str, md5: str) -> None:
    converter = PUBLICATIONS["movielens-1m"].converter
    monkeypatch.setitem(PUBLICATIONS, "movielens-1m", Publication(converter, Archive(url, md5)))


def test_download_from_the_publisher(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped(ML_1M)
    (tmp_path / "www/ml-1m.zip").write_bytes(content)
    publish_at(monkeypatch, f"{server}/ml-1m.zip", hashlib.md5(content).hexdigest())
    reports: list[tuple[str, int, int]] = []
    result = convert_dataset("movielens-1m", tmp_path / "out", progress=lambda *args: reports.append(args))
    assert result["events"] == 1 and rows(tmp_path / "out")[0]["movie_id"] == "1"
    assert ("download", len(content), len(content)) in reports
    # Nothing of the download is left; the archive given by hand is the same.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "www"]
    assert convert_dataset("movielens-1m", tmp_path / "again", source=tmp_path / "www/ml-1m.zip")["events"] == 1


def test_a_download_with_another_hash_is_refused(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "www/ml-1m.zip").write_bytes(b"an error page")
    publish_at(monkeypatch, f"{server}/ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906")
    with pytest.raises(DataError) as caught:
        convert_dataset("movielens-1m", tmp_path / "out")
    assert str(caught.value) == (
        f"{server}/ml-1m.zip: invalid md5 {hashlib.md5(b'an error page').hexdigest()} (expected "
        "c4d9eecfca2ab87c1945afe126590906); the download is damaged or changed: try again, or fetch it by hand and "
        "pass --source=FILE"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["www"]


def test_a_failed_download_says_what_to_do(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_at(monkeypatch, f"{server}/gone.zip", "0" * 32)
    with pytest.raises(DataError, match=r"gone.zip: the server answers 404 File not found; fetch it by hand and pass"):
        convert_dataset("movielens-1m", tmp_path / "out")
    publish_at(monkeypatch, "http://127.0.0.1:1/ml-1m.zip", "0" * 32)
    with pytest.raises(DataError, match=r"ml-1m.zip: cannot be fetched: .*refused; fetch it by hand and pass --source"):
        convert_dataset("movielens-1m", tmp_path / "out")


def test_a_damaged_archive_given_by_hand(tmp_path: Path) -> None:
    (tmp_path / "ml-1m.zip").write_bytes(b"PK, but no zip")
    with pytest.raises(DataError, match="ml-1m.zip: not a valid zip file: File is not a zip file"):
        convert_dataset("movielens-1m", tmp_path / "out", source=tmp_path / "ml-1m.zip")


def test_a_zip_writes_nothing_outside_its_directory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        for name, text in ML_1M.items():
            archive.writestr(f"ml-1m/{name}", text.encode("latin-1"))
        archive.writestr("../../escaped.txt", "outside")
    convert_dataset("movielens-1m", tmp_path / "out", source=tmp_path / "ml-1m.zip")
    assert not list(tmp_path.parent.glob("**/escaped.txt"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("avazu", "avazu: no public download; log in to Kaggle and fetch train.gz of the competition"),
        ("gowalla", "gowalla: no public download; fetch train.txt and test.txt of Data/gowalla"),
        ("lightgcn", "lightgcn: no public download; it is any folder with train.txt and test.txt"),
        ("movielens-1m-m1", "movielens-1m-m1: no public download; fetch train.txt, test.txt and valid.txt of"),
    ],
)
def test_data_without_a_download_says_where_it_is(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        convert_dataset(name, tmp_path / "out")
    assert str(caught.value).startswith(hint) and str(caught.value).endswith("and pass --source=DIRECTORY")


def test_the_publishers_own_addresses_and_hashes() -> None:
    assert PUBLICATIONS["movielens-100k"].archive == Archive(
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip", "0e33842e24a9c977be4e0107933c0723"
    )
    assert PUBLICATIONS["movielens-1m"].archive == Archive(
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"
    )
