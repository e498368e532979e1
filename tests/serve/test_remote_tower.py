"""`--user_tower`: vectors from another server, whose version picks the index."""

import shutil
import threading
import time

from tests.serve.running import ROW, publish, running, unpack

PATH = "/v1/models/tiny:recommend"
BODY = {"instances": [ROW], "k": 3}


def test_the_towers_version_picks_the_index(tmp_path):
    """The tower's server is this package's own: it speaks TensorFlow Serving's Predict."""
    root = unpack("exact", tmp_path)
    behind = tmp_path / "behind"
    shutil.copytree(root, behind)
    with running(root, rest_port=0, model_name="tower") as tower:
        options = {"user_tower": tower.grpc, "user_tower_model": "tower", "num_versions": 2}
        with running(behind, grpc_port=0, timeout_seconds=10.0, **options) as service:
            _, expected = service.post(PATH, BODY)
            assert expected["model_version"] == 7
            publish(root, 8)
            while tower.service.manager.versions != [8]:
                time.sleep(0.02)
            # The tower answers as 8 before this service has it: the request waits for the index of 8.
            threading.Timer(0.5, lambda: publish(behind, 8)).start()
            status, answer = service.post(PATH, BODY)
            assert (status, answer["model_version"]) == (200, 8)
            assert answer["predictions"] == expected["predictions"]
            assert service.service.manager.versions == [7, 8]
            status, answer = service.post("/v1/models/tiny:predict", {"instances": [ROW]})
            assert status == 400 and "served by the user tower's server" in answer["error"]
