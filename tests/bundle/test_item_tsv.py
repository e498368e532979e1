import numpy as np
import pytest

from twotower_tf.bundle import item_tsv
from twotower_tf.errors import ArtifactError
from twotower_tf.index.item_vectors import ItemVectors


def random_floats(count, seed=0):
    """Every exponent, both signs, subnormal numbers and both zeros."""
    bits = np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    bits[:2] = 0, 0x80000000
    values = bits.view(np.float32)
    return values[np.isfinite(values)]


def write(path, ids, vectors, threads=0):
    item_tsv.write_tsv(path, ItemVectors.trusted(np.array(ids, object), vectors), threads)


def significant(text):
    return len(text.lower().split("e")[0].lstrip("-").replace(".", "").strip("0"))


def test_every_float_reads_back_to_the_same_bits(tmp_path):
    values = random_floats(200_000)
    vectors = values[: len(values) // 8 * 8].reshape(-1, 8)
    ids = [f"i{row}" for row in range(len(vectors))]
    write(tmp_path / "t.tsv", ids, vectors)
    read_ids, read = item_tsv.read_tsv(tmp_path / "t.tsv")
    assert list(read_ids) == ids
    np.testing.assert_array_equal(read.view(np.uint32), vectors.view(np.uint32))


def test_text_is_the_shortest_that_reads_back(tmp_path):
    """NumPy's repr is shortest round-trip too, by another algorithm (Dragon4)."""
    values = random_floats(20_000, seed=1)
    write(tmp_path / "t.tsv", [f"i{row}" for row in range(len(values))], values.reshape(-1, 1))
    for line, value in zip((tmp_path / "t.tsv").read_text().splitlines(), values, strict=True):
        text = line.split("\t")[1]
        assert significant(text) == significant(np.format_float_scientific(value, unique=True, trim="-")), line


def test_layout_of_a_line(tmp_path):
    vectors = np.array([[0.5, -0.25, 1.0], [0.1, 1 / 3, 1e-10]], np.float32)
    write(tmp_path / "t.tsv", ["a", "π,b"], vectors)
    assert (tmp_path / "t.tsv").read_bytes() == "a\t0.5,-0.25,1\nπ,b\t0.1,0.33333334,1e-10\n".encode()


def test_whole_numbers_have_no_fraction(tmp_path):
    vectors = np.array([[0, -0.0, 1, -1], [10, 2**24, 3e9, 0.5], [0.25, 100.5, 1e20, 7]], np.float32)
    write(tmp_path / "t.tsv", ["a", "b", "c"], vectors)
    assert (tmp_path / "t.tsv").read_text() == ("a\t0,-0,1,-1\nb\t10,16777216,3000000000,0.5\nc\t0.25,100.5,1e+20,7\n")


def test_ids_may_hold_commas(tmp_path):
    ids, vectors = ["a,b,c", "d", ",", "]", "[1,2],"], np.arange(10, dtype=np.float32).reshape(5, 2) / 7
    write(tmp_path / "t.tsv", ids, vectors)
    read_ids, read = item_tsv.read_tsv(tmp_path / "t.tsv")
    assert read_ids.tolist() == ids
    np.testing.assert_array_equal(read, vectors)


def test_blocks_are_read_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(item_tsv, "_BYTES_PER_READ", 100)
    vectors = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    write(tmp_path / "t.tsv", [f"item {row}" for row in range(50)], vectors)
    blocks = list(item_tsv.read_blocks(tmp_path / "t.tsv", threads=2))
    assert len(blocks) > 10 and all(len(ids) == len(rows) for ids, rows in blocks)
    assert [text for ids, _ in blocks for text in ids.to_pylist()] == [f"item {row}" for row in range(50)]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in blocks]), vectors)


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr(item_tsv, "_VALUES_PER_BLOCK", 12)
    monkeypatch.setattr(item_tsv, "_BYTES_PER_READ", 37)
    vectors = np.random.default_rng(0).normal(size=(101, 4)).astype(np.float32)
    ids = np.array([f"item {row} ü" for row in range(101)], object)
    write(tmp_path / "t.tsv", ids, vectors, threads=3)
    read_ids, read = item_tsv.read_tsv(tmp_path / "t.tsv")
    np.testing.assert_array_equal(read_ids, ids)
    np.testing.assert_array_equal(read, vectors)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\t1,2\nb 1,2\n", "damaged: line 2: invalid line .expected one tab between item id and vector"),
        (b"a\t1,2\nb\t1\t2\n", "damaged: line 2: invalid line .expected one tab"),
        (b"a\t1,2\n\t1,2\n", "damaged: line 2: the item id is empty"),
        (b"a\t1,2\nb\t1,2\nc\t1\n", "damaged: line 3: invalid vector .expected 2 numbers"),
        (b"a\t1,2\nb\t1,2,3\nc\t1\n", "damaged: line 2: invalid vector .expected 2 numbers"),
        (b"a\t1,2\nb\t1\nc\t1,2,3\n", "damaged: line 2: invalid vector .expected 2 numbers"),
        (b"a\t1,2\nb,c\t1\n", "damaged: line 2: invalid vector .expected 2 numbers"),
        (b"a,b\t1,2\nc\t1\n", "damaged: line 2: invalid vector .expected 2 numbers"),
        (b"a\t1,2\nb\t1,x\n", "damaged: line 2: one of the values is not a number"),
        (b"a\t1,2\nb\t1,\n", "damaged: line 2: one of the values is not a number"),
        (b"a\t1,2\nb\t1,\xff\n", "damaged: line 2: one of the values is not a number"),
        (b"a\t1,2\nb\t1,nan\n", "damaged: line 2: one of the values is not finite"),
        (b"a\t1,2\n\xff\t1,2\n", "damaged: line 2: the item id is not UTF-8"),
        (b"a\t1,2\nb\t1,2", "damaged: the last line has no line end; the file is cut short"),
        (b"", "holds no item"),
    ],
)
@pytest.mark.parametrize("bytes_per_read", [6, 1 << 24])
def test_damage_is_named_by_line(tmp_path, monkeypatch, content, message, bytes_per_read):
    monkeypatch.setattr(item_tsv, "_BYTES_PER_READ", bytes_per_read)
    path = tmp_path / "t.tsv"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as raised:
        item_tsv.read_tsv(path)
    assert str(raised.value).startswith(str(path))


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="t.tsv: cannot be read: No such file or directory"):
        item_tsv.read_tsv(tmp_path / "t.tsv")
