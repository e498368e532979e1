"""Runs the service: loads, listens, and stops after the open requests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import uvicorn

from twotower_tf import resources
from twotower_tf.errors import ConfigError
from twotower_tf.serve.access_log import AccessLog
from twotower_tf.serve.grpc_service import GrpcService
from twotower_tf.serve.model_manager import ModelManager
from twotower_tf.serve.rest_service import build_app
from twotower_tf.serve.retrieval_service import RetrievalService
from twotower_tf.serve.service_metrics import ServiceMetrics
from twotower_tf.serve.service_options import ServiceOptions

_HEALTH_SECONDS = 0.2  # between two updates of the health service
_BACKLOG = 2048
_PER_WAITING, _MORE = 4, 100  # REST connections: for each request that may wait, and in addition
_OTHER_FILES = 1024  # open at the same time as all connections
_KEEP_ALIVE_SECONDS = 75  # longer than clients and proxies keep an idle connection: who closes first resets requests

_log = logging.getLogger(__name__)
Stop = Callable[[], Awaitable[None]]


async def serve(
    options: ServiceOptions, stop: asyncio.Event, started: Callable[[RetrievalService], None] | None = None
) -> None:
    """Serves until `stop` is set; then finishes the open requests.

    Args:
        options: of the service, checked here.
        stop: ends the service.
        started: called when the ports are open and the first look at the export root is done.

    Raises:
        ConfigError: for options that cannot be used, such as a port in use.
    """
    _check(options)
    resources.limit_library_threads()
    metrics = ServiceMetrics()
    manager = ModelManager(options, metrics)
    service = RetrievalService(options, manager, metrics)
    async with contextlib.AsyncExitStack() as opened:
        log = AccessLog() if options.access_log else None
        if log is not None:
            opened.callback(log.close)
        opened.push_async_callback(service.close)
        stops = []
        if options.grpc_port:
            stops.append(await opened.enter_async_context(_grpc(options, service, log)))
        if options.rest_port:
            stops.append(await opened.enter_async_context(_rest(options, service, log)))
        watching = asyncio.create_task(manager.watch(started and functools.partial(started, service)))
        await stop.wait()
        service.stopping = True
        _log.info("stopping: finishing the open requests")
        watching.cancel()
        await asyncio.wait([watching])
        await asyncio.gather(*(each() for each in stops))  # at the same time: they share the seconds that they have


def run(options: ServiceOptions) -> None:
    """Serves until the process gets SIGTERM or SIGINT; a second one ends it at once.

    Raises:
        ConfigError: as `serve` says.
    """
    _check(options)
    _allow_files(_count_connections(options) + _OTHER_FILES)
    # TensorFlow's threads wait for work with the processor on: as many as compute, not one per core.
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(options.count_workers()))

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def end(number: signal.Signals) -> None:
            stop.set()
            loop.remove_signal_handler(number)  # the next one has its usual effect

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end, number)
        await serve(options, stop)

    # Garbage collection stops all threads: for a second, were it to look through the 400,000 objects of the libraries,
    # which stay. It takes a few milliseconds where it looks through versions only.
    gc.collect()
    gc.freeze()
    try:
        asyncio.run(main())
    finally:
        gc.unfreeze()


def _check(options: ServiceOptions) -> None:
    """Checks the options, and that an export may still make its directory: the parent is there.

    Raises:
        ConfigError: naming the flag.
    """
    options.check()
    export_dir = options.export_dir
    if export_dir.exists() and not export_dir.is_dir():
        raise ConfigError(f"--export_dir: invalid value {str(export_dir)!r} (expected a directory)")
    parent = export_dir.absolute().parent
    if not parent.is_dir():
        raise ConfigError(
            f"--export_dir: invalid value {str(export_dir)!r}: {parent} does not exist (expected an export directory, "
            "or where one will be made); check the path"
        )


@contextlib.asynccontextmanager
async def _rest(options: ServiceOptions, service: RetrievalService, log: AccessLog | None) -> AsyncIterator[Stop]:
    """Runs REST; yields what ends it after the open requests."""
    config = uvicorn.Config(
        build_app(service, log),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        ssl_certfile=options.tls_cert or None,
        ssl_keyfile=options.tls_key or None,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        limit_concurrency=_count_connections(options),
        timeout_graceful_shutdown=int(options.grace_seconds),
    )
    server = _Server(config)
    with _listen(options.host, options.rest_port) as listening:
        task = asyncio.create_task(server.serve([listening]))
        _log.info("REST on %s:%d", options.host, options.rest_port)

        async def stop() -> None:
            server.should_exit = True
            await task

        try:
            yield stop
        finally:
            await stop()


def _count_connections(options: ServiceOptions) -> int:
    """Returns how many REST connections may be open; a request on one more is answered with 503."""
    return _PER_WAITING * options.max_queue + _MORE


def _allow_files(count: int) -> None:
    """Raises the process's limit of open files to a number, as far as it may: beyond it no version could be read."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Server(uvicorn.Server):
    """Leaves signals to `run`."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Captures nothing."""
        yield


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--rest_port: {host}:{port} cannot be used: {error}") from None
    # Connections inherit it. Without it an answer's body waits up to 40 ms for the client to acknowledge its headers;
    # asyncio sets it only where a socket states its protocol, which those of `create_server` do not.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


@contextlib.asynccontextmanager
async def _grpc(options: ServiceOptions, service: RetrievalService, log: AccessLog | None) -> AsyncIterator[Stop]:
    """Runs gRPC; yields what ends it after the open requests."""
    server = GrpcService(service, log)
    credentials = None
    if options.tls_cert:
        pair = (Path(options.tls_key).read_bytes(), Path(options.tls_cert).read_bytes())
        credentials = grpc.ssl_server_credentials([pair])
    host = f"[{options.host}]" if ":" in options.host else options.host
    try:
        server.bind(f"{host}:{options.grpc_port}", credentials)
    except RuntimeError:
        raise ConfigError(f"--grpc_port: {host}:{options.grpc_port} cannot be used; choose another port") from None
    await server.start()
    _log.info("gRPC on %s:%d", host, options.grpc_port)
    health = asyncio.create_task(_update_health(server, service))

    async def stop() -> None:
        health.cancel()
        await server.state_health(False)
        await server.stop(options.grace_seconds)

    try:
        yield stop
    finally:
        await stop()


async def _update_health(server: GrpcService, service: RetrievalService) -> None:
    while True:
        await server.state_health(service.ready)
        await asyncio.sleep(_HEALTH_SECONDS)
