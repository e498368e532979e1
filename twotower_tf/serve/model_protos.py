"""Protocol buffers about a model, as TensorFlow Serving answers with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import get_model_status_pb2

from twotower_tf.serve.model_manager import VersionStatus
from twotower_tf.serve.service_errors import ServiceError, invalid


def write_status(statuses: Sequence[VersionStatus]) -> Any:
    """Writes the states of versions as a `GetModelStatusResponse`."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for each in statuses:
        added = response.model_version_status.add(
            version=each.version, state=get_model_status_pb2.ModelVersionStatus.State.Value(each.state)
        )
        added.status.error_code = error_codes_pb2.Code.Value(each.error_code)
        added.status.error_message = each.error
    return response


def refuse_examples(signatures: Mapping[str, Any], name: str) -> ServiceError:
    """Returns the error of a Classify or Regress request: no signature of a user tower has such outputs."""
    if name not in signatures:
        return invalid(f"No signature was found with the name: {name}")
    return invalid(f'Signature "{name}" neither classifies nor regresses; use Predict')
