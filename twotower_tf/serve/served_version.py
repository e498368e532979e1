"""One version that is served: tower, index and catalogue in one object, so that an answer is never of two versions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.core.framework import types_pb2

from twotower_tf.bundle import answers, saved_model_edits, warmup
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.bundle.loaded_tower import Tower
from twotower_tf.bundle.signature_names import ITEM_IDS, RECOMMEND, SCORES, SERVING_DEFAULT
from twotower_tf.features.inputs import client_inputs, rows_to_arrays
from twotower_tf.features.layout import VECTOR_LAYERS
from twotower_tf.retrieval.item_retriever import ItemRetriever
from twotower_tf.serve import service_errors, signature_tensors
from twotower_tf.serve.service_errors import ServiceError
from twotower_tf.serve.service_options import ServiceOptions
from twotower_tf.serve.signature_tensors import Arrays
from twotower_tf.tables.time_parser import TimeParser

_WARM_K = 10
_log = logging.getLogger(__name__)


class ServedVersion:
    """One loaded version.

    Attributes:
        version: its number.
        bundle: its files.
        retriever: its index and catalogue.
        signatures: `SignatureDef` by name, as the SavedModel has them.
        inputs: of the user tower, for clients' values.
    """

    def __init__(self, bundle: Bundle, retriever: ItemRetriever, tower: Tower | None) -> None:
        """Keeps what was loaded; without a tower, another server computes the vectors."""
        self.version = bundle.version
        self.bundle = bundle
        self.retriever = retriever
        self.inputs = client_inputs(bundle.config, bundle.text_forms("user"))
        self.signatures: dict[str, Any] = dict(
            saved_model_edits.read(bundle.tower("user")).meta_graphs[0].signature_def.items()
        )
        self._state_recommend()
        self._times = TimeParser.of_manifest(bundle.manifest)
        self._tower = tower
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @classmethod
    def load(cls, options: ServiceOptions, version: int) -> ServedVersion:
        """Loads a version with checksums, answers its warm-up requests and checks its canaries.

        Raises:
            ArtifactError, DataError: where anything is missing, damaged, or answers otherwise than at export.
        """
        bundle = Bundle.open(options.export_dir, version)
        retriever = ItemRetriever(bundle, blocklist=options.blocklist, max_k=options.max_k)
        tower = None if options.user_tower else Tower.of_bundle(bundle, "user")
        served = cls(bundle, retriever, tower)
        served._warm_up()
        return served

    @property
    def raw_inputs(self) -> Collection[str]:
        """Names of the user tower's inputs."""
        names: Collection[str] = self.signatures[SERVING_DEFAULT].inputs
        return names

    @property
    def default_k(self) -> int:
        """The number of items that signature `recommend` answers with, where the request does not say."""
        return int(self.signatures[RECOMMEND].outputs[ITEM_IDS].tensor_shape.dim[1].size)

    def _state_recommend(self) -> None:
        """Adds signature `recommend` where the catalogue was too large for the SavedModel: the index answers it."""
        if RECOMMEND in self.signatures:
            return
        stated = self.signatures[RECOMMEND] = type(self.signatures[SERVING_DEFAULT])()
        stated.CopyFrom(self.signatures[SERVING_DEFAULT])
        del stated.outputs[VECTOR_LAYERS["user"]]
        k = self.retriever.check_k(min(self.bundle.config.index.k, self.retriever.max_k))
        for name, dtype in ((ITEM_IDS, types_pb2.DT_STRING), (SCORES, types_pb2.DT_FLOAT)):
            stated.outputs[name].dtype = dtype
            for size in (-1, k):
                stated.outputs[name].tensor_shape.dim.add(size=size)

    @contextlib.contextmanager
    def used(self) -> Iterator[ServedVersion]:
        """Keeps the version loaded during a request; on the event loop."""
        self._users += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def drain(self) -> None:
        """Waits until no request uses the version."""
        await self._idle.wait()

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Turns rows of feature values, in the forms of the log, into the inputs of the user tower.

        Raises:
            DataError: for an unknown feature or a value of the wrong type.
        """
        return rows_to_arrays(self.inputs, rows, self._times, self.bundle.config.data.user_id)

    def compute(self, signature: str, arrays: Arrays) -> Arrays:
        """Computes the outputs of a signature.

        Raises:
            ServiceError: where the graph fails.
        """
        if self._tower is None:
            raise ServiceError("FAILED_PRECONDITION", f'Signature "{signature}" is served by the user tower\'s server.')
        try:
            return self._tower(signature, arrays)
        except Exception as error:
            raise service_errors.from_tensorflow(error) from error

    def compute_batch(self, signature: str, requests: list[Arrays]) -> list[Arrays]:
        """Computes several requests as one batch; see `signature_tensors.compute_joined`."""
        return signature_tensors.compute_joined(lambda arrays: self.compute(signature, arrays), requests)

    def _warm_up(self) -> None:
        """Answers the warm-up requests, so that nobody waits for the first call, and compares the canaries."""
        self.retriever.exclusions([[""]], 1)  # makes the table of ids
        searcher = self.retriever.searcher
        if self._tower is not None:
            for signature, request in warmup.read(self.bundle.path / warmup.WARMUP):
                self._tower(signature, request)
            for line in answers.check_users(self.bundle, searcher, self._tower):
                _log.info("version %d: %s", self.version, line)
        self.retriever.answer(self._sample(), self.retriever.check_k(min(_WARM_K, self.retriever.max_k)), names=True)

    def _sample(self) -> npt.NDArray[np.float32]:
        """Returns a vector to search for."""
        users = self.bundle.sample_users[:1]
        return users if len(users) else self.retriever.searcher.items.vectors[:1]
