"""Schemas of `manifest.json` and `index.json`: every key that a reader relies on, with its type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from twotower_tf.config.index_kinds import check_index_kind, is_exact
from twotower_tf.errors import ArtifactError, ConfigError

Count = Annotated[int, Field(ge=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _check_kind(kind: str) -> str:
    try:
        return check_index_kind(kind)
    except ConfigError as error:
        raise ValueError(str(error)) from None


Kind = Annotated[str, pydantic.AfterValidator(_check_kind)]


class _Canary(TypedDict):
    user: dict[str, Any]
    item_ids: list[str]
    scores: list[Finite]


class _Index(TypedDict):
    kind: Kind
    parameters: dict[str, Any]
    recall: dict[str, Any]


class _Weight(TypedDict):
    shape: list[int]
    bytes: int


class _Weights(TypedDict):
    user: dict[str, _Weight]
    item: dict[str, _Weight]


class _Texts(TypedDict):
    user: str
    item: str


class _Lists(TypedDict):
    user: list[str]
    item: list[str]


class _Origin(TypedDict):
    kind: str


class _Evaluation(TypedDict, total=False):
    metrics: dict[str, Finite]
    warnings: list[dict[str, str]]


class _Recall(TypedDict):
    """Of an approximate index."""

    k: Count
    queries: Annotated[int, Field(ge=0)]
    target: Finite
    measured: Finite


class _Time(TypedDict):
    form: str
    first: int | None
    last: int | None


class Manifest(TypedDict):
    """`manifest.json`; more keys than these are allowed."""

    version: Annotated[int, Field(ge=1, lt=2**63)]
    created: str
    origin: _Origin
    name: str
    config_fingerprint: str
    items: Count
    vector_dim: Count
    vectors_fingerprint: str
    weights_fingerprint: _Texts
    tables: _Weights
    signatures: _Lists
    similarity: Literal["cosine"]
    index: _Index
    evaluation: _Evaluation | None
    libraries: dict[str, str]
    canaries: list[_Canary]
    canary_k: Count
    formats: list[str]
    files: dict[str, Digest]
    # Bundles that were exported before these existed lack them.
    time: NotRequired[_Time | None]
    text_forms: NotRequired[dict[str, str]]
    click_probability: NotRequired[dict[Literal["cosine_scale", "weight", "bias"], Finite] | None]
    item_text_forms: NotRequired[dict[str, str]]


class IndexDocument(TypedDict):
    """`index.json`; more keys than these are allowed."""

    kind: Kind
    size: Count
    dim: Count
    fingerprint: str
    parameters: dict[str, Any]
    recall: dict[str, Any]
    files: dict[str, Digest]


_MANIFEST = pydantic.TypeAdapter(Manifest)
_INDEX = pydantic.TypeAdapter(IndexDocument)
_RECALL = pydantic.TypeAdapter(_Recall)


def check_manifest(path: Path, document: dict[str, Any]) -> None:
    """Checks the keys and types of a manifest.

    Raises:
        ArtifactError: naming the first key that is missing or of another type.
    """
    _check(_MANIFEST, path, document)
    _check_recall(path, document["index"])
    for canary in document["canaries"]:
        if len(canary["item_ids"]) != len(canary["scores"]):
            counts = f"{len(canary['item_ids'])} items and {len(canary['scores'])} scores"
            raise ArtifactError(f"{path}: damaged: a canary has {counts}; export again")


def check_index(path: Path, document: dict[str, Any]) -> None:
    """Checks the keys and types of an index's description.

    Raises:
        ArtifactError: as `check_manifest` says.
    """
    _check(_INDEX, path, document)
    _check_recall(path, document)


def _check_recall(path: Path, index: dict[str, Any]) -> None:
    if not is_exact(index["kind"]):
        _check(_RECALL, path, index["recall"])


def _check(adapter: pydantic.TypeAdapter[Any], path: Path, document: dict[str, Any]) -> None:
    try:
        adapter.validate_python(document, strict=True)
    except (pydantic.ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise ArtifactError(f"{path}: damaged: nested too deeply; export again or restore it") from None
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{path}: damaged: {place!r}: {first['msg'][0].lower()}{first['msg'][1:]}; export again or restore it"
        ) from None
