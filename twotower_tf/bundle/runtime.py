"""SavedModels run by TensorFlow's C library alone: as a server runs them, without Keras or TensorFlow's Python.

The library is the one that the tensorflow package brings; loading it takes a tenth of the time of importing that
package. Only the stable C API (tensorflow/c/c_api.h, tf_tensor.h, tf_tstring.h) is used.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.errors import ArtifactError

Array = npt.NDArray[Any]

_TYPES = {1: np.float32, 3: np.int32, 9: np.int64}  # TF_FLOAT, TF_INT32, TF_INT64
_STRING, _STRING_BYTES = 7, 24  # TF_STRING, sizeof(TF_TString)
# ConfigProto {graph_options {rewrite_options {disable_meta_optimizer: true}}}: rewriting a graph that is run once takes
# longer than running it.
_PLAIN = bytes([0x52, 5, 0x52, 3, 0x98, 1, 1])

_pointer, _text, _size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
_FUNCTIONS: dict[str, tuple[Any, Sequence[Any]]] = {
    "TF_NewStatus": (_pointer, ()),
    "TF_DeleteStatus": (None, (_pointer,)),
    "TF_GetCode": (ctypes.c_int, (_pointer,)),
    "TF_Message": (_text, (_pointer,)),
    "TF_NewGraph": (_pointer, ()),
    "TF_NewSessionOptions": (_pointer, ()),
    "TF_SetConfig": (None, (_pointer, _text, _size, _pointer)),
    "TF_DeleteSessionOptions": (None, (_pointer,)),
    "TF_GraphOperationByName": (_pointer, (_pointer, _text)),
    "TF_AllocateTensor": (_pointer, (ctypes.c_int, _pointer, ctypes.c_int, _size)),
    "TF_DeleteTensor": (None, (_pointer,)),
    "TF_TensorType": (ctypes.c_int, (_pointer,)),
    "TF_TensorData": (_pointer, (_pointer,)),
    "TF_NumDims": (ctypes.c_int, (_pointer,)),
    "TF_Dim": (ctypes.c_int64, (_pointer, ctypes.c_int)),
    "TF_StringInit": (None, (_pointer,)),
    "TF_StringCopy": (None, (_pointer, _text, _size)),
    "TF_StringGetDataPointer": (_pointer, (_pointer,)),
    "TF_StringGetSize": (_size, (_pointer,)),
    "TF_StringDealloc": (None, (_pointer,)),
    "TF_LoadSessionFromSavedModel": (
        _pointer,
        (_pointer, _pointer, _text, _pointer, ctypes.c_int, _pointer, _pointer, _pointer),
    ),
    "TF_SessionRun": (
        None,
        (_pointer, _pointer, *(_pointer, _pointer, ctypes.c_int) * 2, _pointer, ctypes.c_int, _pointer, _pointer),
    ),
}


class _Output(ctypes.Structure):
    _fields_ = (("operation", _pointer), ("index", ctypes.c_int))


@functools.cache
def load_library() -> Any:
    """The C library, with the functions' types.

    Raises:
        ArtifactError: where it is not installed.
    """
    found = importlib.util.find_spec("tensorflow")
    files = sorted(Path(str(found.origin)).parent.glob("libtensorflow_cc.*")) if found else []
    if not files:
        raise ArtifactError("the C library of the package tensorflow (libtensorflow_cc) is not installed")
    library = ctypes.CDLL(str(files[0]))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Session:
    """A SavedModel, loaded."""

    def __init__(self, path: Path) -> None:
        """Loads it.

        Raises:
            ArtifactError: with TensorFlow's message.
        """
        self._library, self._path = load_library(), path
        self._status = self._library.TF_NewStatus()
        self._graph = self._library.TF_NewGraph()
        options = self._library.TF_NewSessionOptions()
        self._library.TF_SetConfig(options, _PLAIN, len(_PLAIN), self._status)
        self._check()
        tags = (_text * 1)(b"serve")
        self._session = self._library.TF_LoadSessionFromSavedModel(
            options, None, str(path).encode(), tags, 1, self._graph, None, self._status
        )
        self._library.TF_DeleteSessionOptions(options)
        self._check()

    def _check(self) -> None:
        if self._library.TF_GetCode(self._status):
            message = self._library.TF_Message(self._status).decode(errors="replace").splitlines()[0]
            raise ArtifactError(f"{self._path}: TensorFlow refuses it: {message}")

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """The values of tensors of the graph.

        Args:
            feeds: tensor name (`operation:0`) to value: float32, int32, int64, or object holding bytes.
            fetches: tensor names.

        Raises:
            ArtifactError: for a name that is not in the graph, or with TensorFlow's message.
        """
        library = self._library
        inputs = (_Output * len(feeds))(*map(self._output, feeds))
        outputs = (_Output * len(fetches))(*map(self._output, fetches))
        values = (_pointer * len(feeds))(*(self._tensor(value) for value in feeds.values()))
        results = (_pointer * len(fetches))()
        library.TF_SessionRun(
            self._session, None, inputs, values, len(feeds), outputs, results, len(fetches), None, 0, None, self._status
        )
        self._check()
        arrays = [self._array(result) for result in results]
        for tensor in (*values, *results):
            library.TF_DeleteTensor(tensor)
        return arrays

    def _output(self, name: str) -> _Output:
        operation, _, index = name.partition(":")
        found = self._library.TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            raise ArtifactError(f"{self._path}: its graph has no operation {operation!r}")
        return _Output(found, int(index or 0))

    def _tensor(self, value: Array) -> Any:
        kind = (
            _STRING if value.dtype == object else next(code for code, dtype in _TYPES.items() if dtype == value.dtype)
        )
        length = value.size * _STRING_BYTES if kind == _STRING else value.nbytes
        dims = (ctypes.c_int64 * value.ndim)(*value.shape)
        tensor = self._library.TF_AllocateTensor(kind, dims, value.ndim, length)
        start = self._library.TF_TensorData(tensor)
        if kind != _STRING:
            ctypes.memmove(start, np.ascontiguousarray(value).ctypes.data, length)
            return tensor
        for place, text in enumerate(value.reshape(-1).tolist()):
            self._library.TF_StringInit(start + place * _STRING_BYTES)
            self._library.TF_StringCopy(start + place * _STRING_BYTES, text, len(text))
        return tensor

    def _array(self, tensor: Any) -> Array:
        library = self._library
        shape = tuple(library.TF_Dim(tensor, axis) for axis in range(library.TF_NumDims(tensor)))
        start, count = library.TF_TensorData(tensor), int(np.prod(shape, dtype=np.int64))
        kind = library.TF_TensorType(tensor)
        if kind != _STRING:
            dtype = np.dtype(_TYPES[kind])
            return np.frombuffer(ctypes.string_at(start, count * dtype.itemsize), dtype).reshape(shape)
        texts = np.empty(count, object)
        for place in range(count):
            text = start + place * _STRING_BYTES
            texts[place] = ctypes.string_at(library.TF_StringGetDataPointer(text), library.TF_StringGetSize(text))
        return texts.reshape(shape)
