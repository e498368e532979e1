"""Serves single users at rising rates: latency of `:recommend`, and the highest rate next to a handler without batches.

The catalogue has a million items of 64 dimensions (`--items`), behind a ScaNN index; client and server share the cores.
The peer is a FastAPI handler that calls the same SavedModel and the same index for one user at a time, as `def` and as
`async def`; of each figure the better one counts. All run in the same setting one after the other, driven by the same
client at a constant rate of arrivals (open loop). The highest
sustained rate is the last of rising rates at which every request was answered and the 99th percentile stayed under
`--limit_ms`.

    python benchmarks/serve.py [--items=1000000] [--seconds=10] [--export_dir=DIR] [--only_latency]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import tempfile
import time
from pathlib import Path

import numpy as np
from comparison import print_comparison

DIM, K, USERS = 64, 10, 5_000
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def make_bundle(root: Path, items: int) -> Path:
    """Trains for an epoch, and exports with a catalogue of that size: the setting of `benchmarks/refresh.py`."""
    import refresh

    config, run_dir = refresh.trained(root, items, DIM)
    refresh.export(config, run_dir, root / "export")
    return root / "export"


def serve_peer(export_dir: Path, port: int, threads: bool = True) -> None:
    """Answers one user at a time: no queue, no batches; in Starlette's threads, or on the event loop."""
    import uvicorn
    from fastapi import Body, FastAPI

    from twotower_tf.retrieval.recommender import Recommender

    recommender = Recommender(export_dir)
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    def recommend(body: dict = Body()) -> dict:  # noqa: B008
        found = recommender.recommend(body["instances"], body["k"])
        return {"predictions": [{"item_ids": each["item_ids"], "scores": each["scores"]} for each in found]}

    async def recommend_on_the_loop(body: dict = Body()) -> dict:  # noqa: B008
        return recommend(body)

    app.post("/v1/models/quickstart:recommend")(recommend if threads else recommend_on_the_loop)
    uvicorn.run(app, port=port, log_level="error", access_log=False)


def serve_peer_on_the_loop(export_dir: Path, port: int) -> None:
    """The same as an `async def` handler."""
    serve_peer(export_dir, port, threads=False)


def serve_service(export_dir: Path, port: int) -> None:
    """The service with its defaults, without the access log, as the peer."""
    from twotower_tf.serve.run_service import run
    from twotower_tf.serve.service_options import ServiceOptions

    run(ServiceOptions(export_dir, "quickstart", rest_port=port, grpc_port=0, access_log=False))


async def send(port: int, body: bytes, pool: list, timeout: float) -> bool:
    """Sends a request on a kept connection, and returns whether it was answered with 200."""
    reader, writer = pool.pop() if pool else await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST /v1/models/quickstart:recommend HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), timeout)
        size = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await asyncio.wait_for(reader.readexactly(size), timeout)
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
        writer.close()
        return False
    pool.append((reader, writer))
    return b" 200 " in answer[:20]


async def drive(port: int, rate: float, seconds: float) -> tuple[list[float], int]:
    """Sends at a constant rate, whatever the answers do; returns milliseconds from the due moment, and failures."""
    pool: list = []
    begin = time.perf_counter() + 0.1
    latencies: list[float] = []
    failures = 0

    async def one(number: int) -> None:
        nonlocal failures
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        user = {
            "user_id": f"u{number % USERS:06d}", "country": "US", "device_type": "phone", "interests": ["music"],
            "age": 30, "timestamp": 1_750_000_000, "history": ["i00003", "i00042"],
        }  # fmt: skip
        good = await send(port, json.dumps({"instances": [user], "k": K}).encode(), pool, 5.0)
        failures += not good
        latencies.append(1000 * (time.perf_counter() - due))

    await asyncio.gather(*(one(number) for number in range(int(rate * seconds))))
    for _, writer in pool:
        writer.close()
    return latencies, failures


def wait_until_ready(port: int) -> None:
    """Waits for the server's first version."""
    import urllib3

    http = urllib3.PoolManager(retries=False)
    for _ in range(1200):
        try:
            if http.request("GET", f"http://127.0.0.1:{port}/readyz", timeout=5).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(0.5)
    raise SystemExit("the server did not start")


def measure(target, export_dir: Path, seconds: float, limit: float, rates: bool = True) -> dict[str, float]:
    """Starts a server, measures it at 100 requests a second and, with `rates`, at rising rates."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=target, args=(export_dir, port))
    process.start()
    try:
        wait_until_ready(port)
        asyncio.run(drive(port, 50, 2))  # what is loaded with the first requests
        latencies, failures = asyncio.run(drive(port, 100, seconds))
        found = {
            "median_ms": float(np.median(latencies)), "p99_ms": float(np.percentile(latencies, 99)),
            "failures": failures, "highest_rate": 0.0,
        }  # fmt: skip
        if rates:
            found["highest_rate"] = find_highest_rate(port, seconds, limit)
        found["cpu_ms"] = 1000 * cpu_of_one(process.pid, port, seconds)
        return found
    finally:
        process.terminate()
        process.join(30)
        process.kill()


def sustains(port: int, rate: float, seconds: float, limit: float) -> bool:
    """Returns whether a rate is sustained; a miss may be other work on the machine, so there is a second try."""
    for _ in range(2):
        latencies, failures = asyncio.run(drive(port, rate, seconds))
        if not failures and np.percentile(latencies, 99) <= limit:
            return True
    return False


def find_highest_rate(port: int, seconds: float, limit: float) -> float:
    """Raises the rate by quarters until it is not sustained, then halves the gap twice."""
    low, high = 0.0, 100.0
    while sustains(port, high, seconds, limit):
        low, high = high, 1.25 * high
    for _ in range(2):
        middle = (low + high) / 2
        low, high = (middle, high) if sustains(port, middle, seconds, limit) else (low, middle)
    return low


def cpu_of_one(pid: int, port: int, seconds: float) -> float:
    """Returns the server's processor seconds per request at 100 requests a second."""

    def used() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = used()
    latencies, _ = asyncio.run(drive(port, 100, seconds))
    return (used() - before) / len(latencies)


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("--items", type=int, default=1_000_000)
    flags.add_argument("--seconds", type=float, default=10.0)
    flags.add_argument("--limit_ms", type=float, default=100.0)
    flags.add_argument("--export_dir", type=Path, default=None)
    flags.add_argument("--only_latency", action="store_true", help="the service at 100 requests a second, nothing else")
    options = flags.parse_args()
    with tempfile.TemporaryDirectory() as place:
        export_dir = options.export_dir or make_bundle(Path(place), options.items)
        service = measure(serve_service, export_dir, options.seconds, options.limit_ms, not options.only_latency)
        if options.only_latency:
            print(json.dumps({**service, "load": os.getloadavg()[0]}))
            return
        peers = [measure(each, export_dir, options.seconds, options.limit_ms)
                 for each in (serve_peer, serve_peer_on_the_loop)]  # fmt: skip
    peer = {name: (max if name == "highest_rate" else min)(each[name] for each in peers) for name in peers[0]}
    setting = {
        "items": options.items, "dimensions": DIM, "k": K, "seconds": options.seconds, "p99_limit_ms": options.limit_ms,
        "load": os.getloadavg()[0], "cores": os.cpu_count(),
        "peer": "FastAPI handler without batches, better of def and async def",
        "failures": [service["failures"], *(each["failures"] for each in peers)],
    }  # fmt: skip
    for name, unit in (
        ("median_ms", "ms at 100/s"),
        ("p99_ms", "ms at 100/s"),
        ("cpu_ms", "ms of the server per request"),
        ("highest_rate", "requests/s"),
    ):
        ratio = None if peer[name] else 0.0
        print_comparison(f"serve_{name}", service[name], peer[name], unit, setting, ratio=ratio)


if __name__ == "__main__":
    main()
