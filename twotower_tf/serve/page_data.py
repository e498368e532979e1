"""What the page at `/` shows, and its file."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources
from typing import Any

from twotower_tf.serve.served_version import ServedVersion

_MOST_EXAMPLES = 20  # users to pick from
_PAGE = "page.html"


@functools.cache
def read_page() -> str:
    """Returns the page's HTML."""
    return resources.files(__package__).joinpath(_PAGE).read_text(encoding="utf-8")


@functools.cache
def headers() -> dict[str, str]:
    """Returns the page's headers: a browser runs its one script and loads nothing from elsewhere."""
    script = read_page().split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return {
        "Content-Security-Policy": f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def describe(served: ServedVersion, model_name: str) -> dict[str, Any]:
    """Describes a version: its features, its recall, and users to pick from (the canaries of the bundle)."""
    manifest = served.bundle.manifest
    evaluation = manifest["evaluation"] or {}
    return {
        "model_name": model_name,
        "version": str(served.version),
        "created": manifest["created"],
        "items": manifest["items"],
        "index": {"kind": manifest["index"]["kind"], "recall": manifest["index"]["recall"]},
        "metrics": evaluation.get("metrics", {}),
        "max_k": served.retriever.max_k,
        "features": [
            {"name": each.name, "kind": each.kind, "list": each.kind in ("texts", "times")} for each in served.inputs
        ],
        "examples": [canary["user"] for canary in manifest["canaries"][:_MOST_EXAMPLES]],
    }
