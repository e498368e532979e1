"""Writes and reads weights as `.npz` files in parts, so that no table is in memory twice."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from twotower_tf.errors import ArtifactError, DataError
from twotower_tf.model.row_shards import Rows, RowShards, join_parts, read_rows, write_rows

# Numbers read or written at once, 4 MB: of larger parts from servers, what was freed is hard to use again.
_AT_ONCE = 1 << 20


def names(variables: Iterable[tf.Variable]) -> dict[str, Rows]:
    """Variables by their names in a file, shards of a table as one."""
    return {each.name.partition(":")[0]: each for each in join_parts(variables)}


def numbered(variables: Iterable[Rows]) -> dict[str, Rows]:
    """Variables by their place; Keras's own names of optimizer state and metrics are neither lasting nor unique."""
    return {f"{number:03d}": each for number, each in enumerate(variables)}


def write(path: Path, variables: Mapping[str, Rows]) -> None:
    """Writes variables as NumPy's `.npz`, uncompressed; bfloat16 as the uint16 of the same bits.

    Raises:
        DataError: where a number is not finite: such a model is never kept.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, variable in variables.items():
            shape = tuple(variable.shape.as_list())
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                descr = np.lib.format.dtype_to_descr(_stored(variable))
                header = {"descr": descr, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for start, stop in _parts(shape):
                    part = np.asarray(read_rows(variable, start, stop) if shape else variable)
                    if not np.isfinite(np.sum(part, dtype=np.float64)):  # a non-finite number makes the sum non-finite
                        raise DataError(
                            f"training: {variable.name.partition(':')[0]} holds numbers that are not finite, and is "
                            "not kept; lower train.initial_lr or train.table_optimizer.initial_lr, or add "
                            "train.warmup_steps"
                        )
                    file.write(part.tobytes())


def read(path: Path, variables: Mapping[str, Rows]) -> None:
    """Reads what `write` wrote.

    Raises:
        ArtifactError: where the file is missing or damaged, or lacks a variable or has it of another shape or type.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = set(archive.namelist())
            for name, variable in variables.items():
                if f"{name}.npy" not in found:
                    raise ArtifactError(f"{path}: missing variable {name}; the file is of another model or optimizer")
                with archive.open(f"{name}.npy") as file:
                    _read_one(file, f"{path}: {name}", variable)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; train again") from None
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ArtifactError(f"{path}: damaged: {error}; train again") from None


def _read_one(file: Any, where: str, variable: Rows) -> None:
    shape = tuple(variable.shape.as_list())
    np.lib.format.read_magic(file)
    stored, _, dtype = np.lib.format.read_array_header_1_0(file)
    if (stored, dtype) != (shape, _stored(variable)):
        raise ArtifactError(
            f"{where}: invalid {dtype} array of shape {list(stored)} (expected {_stored(variable)} of shape "
            f"{list(shape)}); the file is of another model or optimizer"
        )
    for start, stop in _parts(shape):
        wanted = (stop - start, *shape[1:]) if shape else ()
        count = int(np.prod(wanted, dtype=np.int64))
        part = np.frombuffer(file.read(count * dtype.itemsize), dtype).reshape(wanted)
        _put(variable, start, stop, tf.bitcast(tf.constant(part), tf.bfloat16) if _halved(variable) else part)


def assign(variable: Rows, value: np.ndarray) -> None:
    """Gives a variable a value of its shape, in parts: a table assigned as a whole is in memory three times more."""
    shape = tuple(variable.shape.as_list())
    for start, stop in _parts(shape):
        _put(variable, start, stop, value[start:stop] if shape else value)


def _put(variable: Rows, start: int, stop: int, part: np.ndarray | tf.Tensor) -> None:
    if isinstance(variable, RowShards) or (variable.shape.rank and (start, stop) != (0, variable.shape[0])):
        write_rows(variable, start, part)
    else:
        variable.assign(part)


def _halved(variable: Rows) -> bool:
    return bool(variable.dtype == tf.bfloat16)


def _stored(variable: Rows) -> np.dtype[Any]:
    return np.dtype(np.uint16 if _halved(variable) else variable.dtype.as_numpy_dtype)


def _parts(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Yields the first row and the end of each part."""
    if not shape:
        return [(0, 1)]
    rows = max(1, _AT_ONCE // max(1, int(np.prod(shape[1:], dtype=np.int64))))
    return [(start, min(shape[0], start + rows)) for start in range(0, shape[0], rows)]
