"""A new version every few seconds under load: no failed request, no mixed answer, and memory back to its level.

`TWOTOWER_SOAK_SECONDS` sets how long; two minutes by default.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import urllib3

from tests.serve.running import ROW, free_port, publish, unpack

SECONDS = float(os.environ.get("TWOTOWER_SOAK_SECONDS", "120"))
BETWEEN = 5.0
GROWTH = 150 << 20  # bytes after the first swaps; a leaked version of real size is far more

pytestmark = pytest.mark.quality


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class Load:
    """Threads that send requests and keep what was wrong."""

    def __init__(self, port: int, expected: dict[int, list[str]]) -> None:
        self.url = f"http://127.0.0.1:{port}/v1/models/exact:recommend"
        self.expected, self.stop = expected, threading.Event()
        self.wrong: list[str] = []
        self.answers, self.versions = 0, set()
        self.threads = [threading.Thread(target=self.send) for _ in range(3)]

    def send(self) -> None:
        http = urllib3.PoolManager(retries=False, timeout=30)
        body = json.dumps({"instances": [ROW], "k": 20}).encode()
        while not self.stop.is_set():
            try:
                answer = http.request("POST", self.url, body=body)
                document = json.loads(answer.data)
                version = document["model_version"]
                self.versions.add(version)
                if document["predictions"][0]["item_ids"] != self.expected[version % 2]:
                    self.wrong.append(f"version {version} with the items of another")
            except Exception as error:
                self.wrong.append(repr(error))
            self.answers += 1
            time.sleep(0.02)


def test_a_new_version_every_few_seconds(tmp_path):
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.export import refresh_bundle
    from twotower_tf.retrieval.recommender import Recommender

    root = unpack("exact", tmp_path)
    # Odd versions have all items, even ones lack those that were best: an answer shows whose index it is from.
    best = Recommender(root).recommend(ROW, 20)["item_ids"]
    shutil.copytree(root, tmp_path / "sources")
    (tmp_path / "gone.txt").write_text("\n".join(best[::2]))
    refresh_bundle.refresh(tmp_path / "sources", None, delete=tmp_path / "gone.txt", version=8)
    fewer = Recommender(Bundle.open(tmp_path / "sources", 8)).recommend(ROW, 20)["item_ids"]
    shutil.copytree(tmp_path / "sources" / "8", root / "8")
    port = free_port()
    command = [sys.executable, "-m", "twotower_tf", "serve", f"--export_dir={root}", f"--rest_port={port}"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [*command, "--grpc_port=0", "--poll_seconds=0.2", "--noaccess_log"], stdout=log, stderr=log
        )
    load = Load(port, {1: best, 0: fewer})
    try:
        http = urllib3.PoolManager(retries=urllib3.Retry(300, backoff_factor=0.5, backoff_max=0.5, status=0))
        while http.request("GET", f"http://127.0.0.1:{port}/readyz").status != 200:
            time.sleep(0.2)
        for thread in load.threads:
            thread.start()
        end, version, levels = time.monotonic() + SECONDS, 8, []
        while time.monotonic() < end:
            time.sleep(BETWEEN)
            levels.append(resident(process.pid))
            version += 1
            publish(root, version, 8 - version % 2)
        time.sleep(BETWEEN)
    finally:
        load.stop.set()
        for thread in load.threads:
            if thread.ident:
                thread.join(60)
        process.terminate()
        status = process.wait(60)
    assert status == 0, (tmp_path / "log").read_text()[-2000:]
    print(
        json.dumps({"answers": load.answers, "versions": len(load.versions), "resident_mb": [x >> 20 for x in levels]})
    )
    assert load.wrong == []
    assert load.answers > SECONDS and len(load.versions) >= min(3, SECONDS // BETWEEN)
    settled = levels[min(3, len(levels) - 1)]
    assert levels[-1] - settled < GROWTH
