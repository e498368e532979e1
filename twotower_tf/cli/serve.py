"""Serves the versions of an export directory over REST and gRPC: `:predict` as TensorFlow Serving, and `:recommend`.

New versions are loaded, warmed and checked before they answer; a broken one is skipped and the old one stays:
    twotower serve --export_dir=export/quickstart
    curl localhost:8501/v1/models/quickstart:recommend -d '{"instances": [{"history": ["i00003"]}]}'
The environment variable TWOTOWER_SERVE_TOKEN sets a bearer token that requests must have.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags
from twotower_tf.errors import ConfigError
from twotower_tf.retrieval.limits import MAX_K

if TYPE_CHECKING:
    from twotower_tf.serve.service_options import ServiceOptions

REQUIRED = ("export_dir",)
_LARGEST_PORT = 65535


def define(flags: Flags) -> None:
    options.add_export_dir(flags)
    flags.string("model_name", "", "name of the model in requests (default: last part of --export_dir)")
    flags.string("host", "127.0.0.1", "address to listen on; 0.0.0.0 for all")
    flags.integer("rest_port", 8501, "port of REST; 0: off", lower_bound=0, upper_bound=_LARGEST_PORT)
    flags.integer("grpc_port", 8500, "port of gRPC; 0: off", lower_bound=0, upper_bound=_LARGEST_PORT)
    flags.multi_integer("version", [], "version to serve (default: the newest); may be repeated")
    flags.integer("num_versions", 1, "number of the newest versions that are served", lower_bound=1)
    flags.multi_string("label", [], "label of a version, LABEL=VERSION; may be repeated")
    flags.float("poll_seconds", 1.0, "seconds between two looks for new versions", lower_bound=0.01)
    options.add_blocklist(flags)
    flags.integer("max_k", MAX_K, "largest k of a request", lower_bound=1)
    flags.integer("max_instances", 1024, "largest number of users in a request", lower_bound=1)
    flags.integer("max_batch", 128, "users that are computed together", lower_bound=1)
    flags.integer("max_queue", 1000, "requests that wait for a worker; more are refused with 429", lower_bound=1)
    flags.integer("workers", 0, "threads that compute; 0: one less than there are CPUs", lower_bound=0)
    flags.float(
        "timeout_seconds", 30.0, "seconds that a request without a deadline of its own may take", lower_bound=0.001
    )
    flags.integer("max_request_bytes", 16 << 20, "largest body of a request", lower_bound=1)
    flags.float("grace_seconds", 30.0, "seconds that open requests have after SIGTERM", lower_bound=0.0)
    flags.string("tls_cert", "", "PEM file of the certificate chain, for TLS")
    flags.string("tls_key", "", "PEM file of the private key, for TLS")
    flags.string("user_tower", "", "HOST:PORT of a TensorFlow Serving (gRPC) that computes the vectors")
    flags.string("user_tower_model", "", "name of the model there (default: --model_name)")
    flags.string("user_tower_ca", "", "PEM file of the certificates to trust there, for TLS")
    flags.bool("page", True, "serve a page for people at /")
    flags.bool("access_log", True, "write a line of JSON per request to standard output")
    flags.string(
        "write_files",
        "",
        "directory, next to the export directory, to write settings of TensorFlow Serving and of docker compose to; "
        "nothing is served then",
    )


def run(flags: Flags) -> None:
    """Serves until the process gets SIGTERM or SIGINT; or writes the files that servers need."""
    chosen = read_options(flags)
    chosen.check()
    if flags.write_files:
        from twotower_tf.serve import deployment_files

        for path in deployment_files.write_files(Path(flags.write_files), chosen.model_name):
            print(path)
        return
    for library in ("absl", "uvicorn"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        from twotower_tf.serve import run_service
    except ImportError as error:
        raise ConfigError(f"serve: needs the package {error.name}; pip install 'twotower-tf[serve]'") from None

    run_service.run(chosen)


def read_options(flags: Flags) -> ServiceOptions:
    """Returns the options that the flags give.

    Raises:
        ConfigError: for a label that is not LABEL=VERSION.
    """
    from twotower_tf.serve.service_options import TOKEN_VARIABLE, ServiceOptions

    labels = {}
    for text in flags.label:
        label, _, version = text.rpartition("=")
        if not label or not version.isdecimal():
            raise ConfigError(f"--label: invalid value {text!r} (expected LABEL=VERSION, e.g. stable=42)")
        labels[label] = int(version)
    export_dir = Path(flags.export_dir)
    same = (
        "host rest_port grpc_port poll_seconds blocklist max_k max_instances max_batch max_queue workers "
        "timeout_seconds max_request_bytes grace_seconds tls_cert tls_key user_tower user_tower_model "
        "user_tower_ca page access_log"
    )
    return ServiceOptions(
        export_dir=export_dir,
        model_name=flags.model_name or export_dir.resolve().name,
        versions=tuple(flags.version),
        # The user tower's server and this one load a new version at different moments.
        num_versions=max(flags.num_versions, 2 if flags.user_tower else 1),
        labels=labels,
        token=os.environ.get(TOKEN_VARIABLE, ""),
        **{name: getattr(flags, name) for name in same.split()},
    )
