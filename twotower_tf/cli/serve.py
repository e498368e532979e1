"""Serves the versions of an export directory over REST and gRPC: `:predict` as TensorFlow Serving, and `:recommend`.

New versions are loaded, warmed and checked before they answer; a broken one is skipped and the old one stays:
    twotower serve --export_dir=export/quickstart
    curl localhost:8501/v1/models/quickstart:recommend -d '{"instances": [{"user_id": "u1"}], "k": 10}'
The environment variable TWOTOWER_SERVE_TOKEN sets a bearer token that requests must have.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from absl.flags import FlagValues

from twotower_tf.cli import options
from twotower_tf.errors import ConfigError
from twotower_tf.retrieval.limits import MAX_K

if TYPE_CHECKING:
    from twotower_tf.serve.service_options import ServiceOptions

REQUIRED = ("export_dir",)
_LARGEST_PORT = 65535


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.export_dir(values)
    flags.DEFINE_string(
        "model_name", "", "name of the model in requests (default: last part of --export_dir)", flag_values=values
    )
    flags.DEFINE_string("host", "127.0.0.1", "address to listen on; 0.0.0.0 for all", flag_values=values)
    _integer(values, "rest_port", 8501, "port of REST; 0: off", 0, _LARGEST_PORT)
    _integer(values, "grpc_port", 8500, "port of gRPC; 0: off", 0, _LARGEST_PORT)
    flags.DEFINE_multi_integer(
        "version", [], "version to serve (default: the newest); may be repeated", flag_values=values
    )
    _integer(values, "num_versions", 1, "number of the newest versions that are served", 1)
    flags.DEFINE_multi_string("label", [], "label of a version, LABEL=VERSION; may be repeated", flag_values=values)
    _number(values, "poll_seconds", 1.0, "seconds between two looks for new versions", 0.01)
    flags.DEFINE_string(
        "blocklist",
        None,
        "file of item ids, one per line, that are never returned (default: blocklist.txt in the export directory)",
        flag_values=values,
    )
    _integer(values, "max_k", MAX_K, "largest k of a request", 1)
    _integer(values, "max_instances", 1024, "largest number of users in a request", 1)
    _integer(values, "max_batch", 128, "users that are computed together", 1)
    _integer(values, "max_queue", 1000, "requests that wait for a worker; more are refused with 429", 1)
    _integer(values, "workers", 0, "threads that compute; 0: one less than there are CPUs", 0)
    _number(values, "timeout_seconds", 30.0, "seconds that a request without a deadline of its own may take", 0.001)
    _integer(values, "max_request_bytes", 16 << 20, "largest body of a request", 1)
    _number(values, "grace_seconds", 30.0, "seconds that open requests have after SIGTERM", 0.0)
    flags.DEFINE_string("tls_cert", "", "PEM file of the certificate chain, for TLS", flag_values=values)
    flags.DEFINE_string("tls_key", "", "PEM file of the private key, for TLS", flag_values=values)
    flags.DEFINE_string(
        "user_tower", "", "HOST:PORT of a TensorFlow Serving (gRPC) that computes the vectors", flag_values=values
    )
    flags.DEFINE_string("user_tower_model", "", "name of the model there (default: --model_name)", flag_values=values)
    flags.DEFINE_bool("page", True, "serve a page for people at /", flag_values=values)
    flags.DEFINE_string(
        "write_files",
        "",
        "directory, next to the export directory, to write settings of TensorFlow Serving and docker-compose to; "
        "nothing is served then",
        flag_values=values,
    )
    flags.DEFINE_bool("access_log", True, "write a line of JSON per request to standard output", flag_values=values)


def run(values: FlagValues) -> None:
    """Serves until the process gets SIGTERM or SIGINT; or writes the files that servers need."""
    chosen = read_options(values)
    chosen.check()
    if values.write_files:
        from twotower_tf.serve import deployment_files

        for path in deployment_files.write_files(Path(values.write_files), chosen.model_name):
            print(path)
        return
    logging.getLogger("absl").setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        from twotower_tf.serve import run_service
    except ImportError as error:
        raise ConfigError(f"serve: needs the package {error.name}; pip install 'twotower-tf[serve]'") from None

    run_service.run(chosen)


def read_options(values: FlagValues) -> ServiceOptions:
    """Returns the options that the flags give.

    Raises:
        ConfigError: for a label that is not LABEL=VERSION.
    """
    from twotower_tf.serve.service_options import TOKEN_VARIABLE, ServiceOptions

    labels = {}
    for text in values.label:
        label, _, version = text.rpartition("=")
        if not label or not version.isdecimal():
            raise ConfigError(f"--label: invalid value {text!r} (expected LABEL=VERSION, e.g. stable=42)")
        labels[label] = int(version)
    export_dir = Path(values.export_dir)
    same = (
        "host rest_port grpc_port poll_seconds blocklist max_k max_instances max_batch max_queue workers "
        "timeout_seconds max_request_bytes grace_seconds tls_cert tls_key user_tower user_tower_model page access_log"
    )
    return ServiceOptions(
        export_dir=export_dir,
        model_name=values.model_name or export_dir.resolve().name,
        versions=tuple(values.version),
        # The user tower's server and this one load a new version at different moments.
        num_versions=max(values.num_versions, 2 if values.user_tower else 1),
        labels=labels,
        token=os.environ.get(TOKEN_VARIABLE, ""),
        **{name: getattr(values, name) for name in same.split()},
    )


def _integer(values: FlagValues, name: str, default: int, help: str, lowest: int, highest: int | None = None) -> None:
    flags.DEFINE_integer(name, default, help, lower_bound=lowest, upper_bound=highest, flag_values=values)


def _number(values: FlagValues, name: str, default: float, help: str, lowest: float) -> None:
    flags.DEFINE_float(name, default, help, lower_bound=lowest, flag_values=values)
