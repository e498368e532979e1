"""The REST service's OpenAPI description: bodies, parameters and responses."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_K = {"type": "integer", "minimum": 1, "description": "number of items"}
_FILTER = {"type": "string", "description": "SQL expression over the catalogue's columns"}
_NAMES = {"type": "boolean", "description": "adds the items' names"}
_ROWS = {"type": "array", "minItems": 1, "items": {"type": "object"}}
_BODIES: dict[str, dict[str, Any]] = {
    "predict": {
        "type": "object",
        "properties": {"signature_name": _TEXT, "instances": {"type": "array", "minItems": 1}, "inputs": {}},
    },
    "recommend": {
        "type": "object",
        "required": ["instances"],
        "properties": {
            "instances": {**_ROWS, "description": "feature values of each user"},
            "k": _K,
            "exclude": {"type": "array", "items": {"type": "array", "items": _TEXT}},
            "filter": _FILTER,
            "names": _NAMES,
        },
    },
    "similar": {
        "type": "object",
        "required": ["item"],
        "properties": {"item": _TEXT, "k": _K, "filter": _FILTER, "names": _NAMES},
    },
    "classify": {"type": "object", "properties": {"signature_name": _TEXT, "examples": _ROWS}},
    "regress": {"type": "object", "properties": {"signature_name": _TEXT, "examples": _ROWS}},
}
_MEANINGS = {
    400: "The request is invalid",
    401: "The bearer token is missing or invalid",
    404: "The model or the version is not available",
    413: "The body is too large",
    429: "Too many requests wait",
    500: "Internal error",
    503: "Not ready",
    504: "The deadline has passed",
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning, "content": {"application/json": {"schema": _ERROR}}}
    for status, meaning in _MEANINGS.items()
}


def body(method: str) -> dict[str, Any]:
    """Returns the description of a method's body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _BODIES[method]}}}}


def parameters(place: str) -> list[dict[str, Any]]:
    """Returns the description of the parameters in a path."""
    kinds = {"model": _TEXT, "version": {"type": "integer", "minimum": 1}, "label": _TEXT}
    return [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in kinds.items()
        if name == "model" or f"{{{name}}}" in place
    ]
