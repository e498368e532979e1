"""Serves single users at rising rates: latency of `:recommend`, and the highest rate next to a handler without batches.

The catalogue has a million items of 64 dimensions (`--items`), behind a ScaNN index; client and server share the cores.
The peer is a FastAPI handler that calls the same SavedModel and the same index for one user at a time. Both run in the
same setting one after the other, driven by the same client at a constant rate of arrivals (open loop). The highest
sustained rate is the last of rising rates at which every request was answered and the 99th percentile stayed under
`--limit_ms`.

    python benchmarks/serve.py [--items=1000000] [--seconds=10]
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

DIM, K, USERS = 64, 10, 500
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def make_bundle(root: Path, items: int) -> Path:
    """Trains for a moment, and exports with a catalogue of that size."""
    import pyarrow as pa
    import pyarrow.csv

    from twotower_tf import config as tt
    from twotower_tf.datasets.synthetic import write_synthetic_log
    from twotower_tf.pipeline import Pipeline

    write_synthetic_log(root / "data", events=20_000, users=USERS, items=2_000, days=3, seed=1)
    table = pa.csv.read_csv(root / "data" / "items.csv")
    names = [f"x{row:07d}" for row in range(items - table.num_rows)]
    rows = np.random.default_rng(1).integers(0, table.num_rows, len(names))
    more = table.take(pa.array(rows)).set_column(0, "item_id", pa.array(names))
    pa.csv.write_csv(pa.concat_tables([table, more.cast(table.schema)]), root / "data" / "items.csv")
    experiment = tt.ExperimentConfig(
        name="served",
        data=tt.DataConfig(
            root=str(root / "data"), events="events", items="items.csv", users="users.csv", label="click",
            item_name="title",
        ),
        item_features=(tt.Hash("item_id", buckets=200_000), tt.Hash("category", buckets=50), tt.Numeric("price")),
        user_features=(
            tt.Hash("user_id", buckets=5_000), tt.Hash("country", buckets=50), tt.Tags("interests", buckets=50),
            tt.History(of="item_id", length=20),
        ),
        model=tt.ModelConfig(embedding_dim=16, vector_dim=DIM, item_hidden=(64,), user_hidden=(64,)),
        sampling=tt.SamplingConfig(negatives=(tt.InBatch(),)),
        loss=tt.InBatchSoftmax(),
        train=tt.TrainConfig(batch_size=1024, epochs=1, monitor=""),
    )  # fmt: skip
    Pipeline(experiment, root / "run", root / "export" / "served").run()
    return root / "export" / "served"


def serve_peer(export_dir: Path, port: int) -> None:
    """Answers one user at a time: no queue, no batches."""
    import uvicorn
    from fastapi import Body, FastAPI

    from twotower_tf.retrieval.recommender import Recommender

    recommender = Recommender(export_dir)
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v1/models/served:recommend")
    def recommend(body: dict = Body()) -> dict:  # noqa: B008
        found = recommender.recommend(body["instances"], body["k"])
        return {"predictions": [{"item_ids": each["item_ids"], "scores": each["scores"]} for each in found]}

    uvicorn.run(app, port=port, log_level="error", access_log=False)


def serve_service(export_dir: Path, port: int) -> None:
    """The service with its defaults, without the access log, as the peer."""
    from twotower_tf.serve.run_service import run
    from twotower_tf.serve.service_options import ServiceOptions

    run(ServiceOptions(export_dir, "served", rest_port=port, grpc_port=0, access_log=False))


async def send(port: int, body: bytes, pool: list, timeout: float) -> bool:
    """Sends a request on a kept connection, and returns whether it was answered with 200."""
    reader, writer = pool.pop() if pool else await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST /v1/models/served:recommend HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
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
        user = {"user_id": f"u{number % USERS:06d}", "history": ["i00003", "i00042"]}
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


def measure(target, export_dir: Path, seconds: float, limit: float) -> dict[str, float]:
    """Starts a server, measures it at 100 requests a second, and at rising rates."""
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
        rate = 100.0
        while True:
            latencies, failures = asyncio.run(drive(port, rate, seconds))
            if failures or np.percentile(latencies, 99) > limit:
                return found
            found["highest_rate"] = rate
            rate *= 1.25
    finally:
        process.terminate()
        process.join(30)
        process.kill()


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("--items", type=int, default=1_000_000)
    flags.add_argument("--seconds", type=float, default=10.0)
    flags.add_argument("--limit_ms", type=float, default=100.0)
    flags.add_argument("--export_dir", type=Path, default=None)
    options = flags.parse_args()
    with tempfile.TemporaryDirectory() as place:
        export_dir = options.export_dir or make_bundle(Path(place), options.items)
        service = measure(serve_service, export_dir, options.seconds, options.limit_ms)
        peer = measure(serve_peer, export_dir, options.seconds, options.limit_ms)
    setting = {
        "items": options.items, "dimensions": DIM, "k": K, "seconds": options.seconds, "p99_limit_ms": options.limit_ms,
        "cores": os.cpu_count(), "peer": "FastAPI handler without batches",
        "failures": [service["failures"], peer["failures"]],
    }  # fmt: skip
    for name, unit in (("median_ms", "ms at 100/s"), ("p99_ms", "ms at 100/s"), ("highest_rate", "requests/s")):
        ratio = None if peer[name] else 0.0
        print_comparison(f"serve_{name}", service[name], peer[name], unit, setting, ratio=ratio)


if __name__ == "__main__":
    main()
