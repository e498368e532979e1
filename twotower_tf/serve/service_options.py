"""Options of the retrieval service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from twotower_tf import resources
from twotower_tf.errors import ConfigError
from twotower_tf.retrieval.limits import MAX_K

TOKEN_VARIABLE = "TWOTOWER_SERVE_TOKEN"


@dataclass(frozen=True)
class ServiceOptions:
    """What the service serves, where, and within which bounds.

    Attributes:
        export_dir: the export root.
        model_name: name of the model in requests.
        host: address that is listened on.
        rest_port: of REST; 0 for none.
        grpc_port: of gRPC; 0 for none.
        versions: the versions to serve; by default the newest.
        num_versions: how many of the newest versions are served.
        labels: label to version.
        poll_seconds: between two looks at the export root.
        blocklist: file of item ids that nobody gets; by default that of the export root.
        max_k: largest k of a request.
        max_instances: users of one request.
        max_batch: users that are computed together.
        max_queue: requests that wait; more are refused.
        workers: threads that compute; 0 is one less than there are CPUs, at least 1.
        timeout_seconds: of a request that states no deadline of its own.
        max_request_bytes: of a request's body, also after gzip is undone.
        grace_seconds: that requests have to finish in when the service stops.
        token: bearer token that requests must have; "" for none.
        tls_cert: PEM file of the certificate chain; "" for no TLS.
        tls_key: PEM file of the private key.
        user_tower: HOST:PORT of a TensorFlow Serving (gRPC) that computes the vectors; "" computes them here.
        user_tower_model: name of the model there.
        user_tower_ca: PEM file of the certificates to trust there; "" for no TLS.
        page: whether `/` is a page for people.
        access_log: whether every request is a line on standard output.
    """

    export_dir: Path
    model_name: str
    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    versions: tuple[int, ...] = ()
    num_versions: int = 1
    labels: Mapping[str, int] = field(default_factory=dict)
    poll_seconds: float = 1.0
    blocklist: str | None = None
    max_k: int = MAX_K
    max_instances: int = 1024
    max_batch: int = 128
    max_queue: int = 1000
    workers: int = 0
    timeout_seconds: float = 30.0
    max_request_bytes: int = 16 << 20
    grace_seconds: float = 30.0
    token: str = field(default="", repr=False)
    tls_cert: str = ""
    tls_key: str = ""
    user_tower: str = ""
    user_tower_model: str = ""
    user_tower_ca: str = ""
    page: bool = True
    access_log: bool = True

    def count_workers(self) -> int:
        """Returns the number of threads that compute."""
        return self.workers or max(1, resources.count_cpus() - 1)

    def check(self) -> None:
        """Checks what does not depend on the export root.

        Raises:
            ConfigError: naming the flag.
        """
        if not self.model_name or "/" in self.model_name:
            raise ConfigError(f"--model_name: invalid value {self.model_name!r} (expected a name without '/')")
        if not (self.rest_port or self.grpc_port):
            raise ConfigError("--rest_port, --grpc_port: both are 0 (expected a port for at least one of them)")
        if self.rest_port == self.grpc_port:
            raise ConfigError(f"--grpc_port: invalid value {self.grpc_port} (expected another port than --rest_port)")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("--tls_cert, --tls_key: one of them is missing (expected both, or neither)")
        files = {"tls_cert": self.tls_cert, "tls_key": self.tls_key, "user_tower_ca": self.user_tower_ca}
        for name, path in files.items():
            if path and not Path(path).is_file():
                raise ConfigError(f"--{name}: invalid value {path!r} (expected a PEM file)")
        if self.user_tower and not self.user_tower.rpartition(":")[2].isdecimal():
            raise ConfigError(f"--user_tower: invalid value {self.user_tower!r} (expected HOST:PORT)")
        if not self.token.isascii() or any(letter.isspace() for letter in self.token):
            raise ConfigError(f"{TOKEN_VARIABLE}: invalid value (expected ASCII characters without blanks)")
