"""The service's Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ServiceMetrics:
    """Counters, gauges and histograms of one service.

    Attributes:
        load_failures: versions that could not be loaded.
        batch_rows: users of one computation.
    """

    def __init__(self) -> None:
        """Starts from zero."""
        self._registry = CollectorRegistry()
        labels = ("protocol", "method", "code")
        self._requests = Counter("twotower_requests", "Requests answered", labels, registry=self._registry)
        self._seconds = Histogram(
            "twotower_request_seconds", "Seconds per request", labels[:2], buckets=_SECONDS, registry=self._registry
        )
        self._waiting = Gauge("twotower_queue_length", "Requests that wait for a worker", registry=self._registry)
        self._newest = Gauge("twotower_newest_version", "Newest available version", registry=self._registry)
        self._versions = Gauge("twotower_available_versions", "Available versions", registry=self._registry)
        self.load_failures = Counter(
            "twotower_load_failures", "Versions that could not be loaded", registry=self._registry
        )
        self.batch_rows = Histogram(
            "twotower_batch_rows", "Users of one computation", buckets=_ROWS, registry=self._registry
        )

    def count(self, protocol: str, method: str, code: str, seconds: float) -> None:
        """Counts one request."""
        self._requests.labels(protocol, method, code).inc()
        self._seconds.labels(protocol, method).observe(seconds)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Reads the length of the queue whenever the metrics are read."""
        self._waiting.set_function(length)

    def state_versions(self, versions: Sequence[int]) -> None:
        """States the available versions."""
        self._versions.set(len(versions))
        self._newest.set(max(versions, default=0))

    def text(self) -> bytes:
        """Formats all metrics as Prometheus reads them."""
        return generate_latest(self._registry)
