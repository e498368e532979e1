"""The files for TensorFlow Serving, read by its own protocol buffers."""

import re
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

ROOT = Path(__file__).resolve().parents[2] / "export"
SERVING = ROOT / "serving"


def test_models_config():
    parsed = text_format.Parse((SERVING / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    (model,) = parsed.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("quickstart", "/models/quickstart", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1


def test_monitoring_config():
    text = re.sub(r"\s+", " ", re.sub(r"#.*", "", (SERVING / "monitoring.config").read_text())).strip()
    assert text == 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }'


def test_batching_config():
    """The server wants growing sizes, the last of them max_batch_size; its padding of lists corrupts them."""
    text = re.sub(r"#.*", "", (SERVING / "batching.config").read_text())
    allowed = [int(size) for size in re.findall(r"allowed_batch_sizes: (\d+)", text)]
    assert allowed == sorted(set(allowed))
    assert f"max_batch_size {{ value: {allowed[-1]} }}" in text
    assert "pad_variable_length_inputs" not in text


def test_compose_mounts_relatively_and_its_files_are_there():
    text = (SERVING / "docker-compose.yml").read_text()
    assert re.findall(r"- (\S+):/models:ro", text) == ["../"]
    for name in re.findall(r"/models/(serving/\S+)", text):
        assert (ROOT / name).is_file(), name
    flags = re.findall(r"- (--\S+)", text)
    assert flags and all("=" in flag for flag in flags)  # the server does not read `--flag value`


def test_compose_opens_its_ports_to_this_machine_only():
    text = re.sub(r"#.*", "", (SERVING / "docker-compose.yml").read_text())
    ports = re.findall(r'- "([\d.:\[\]]+)"', text.split("ports:")[1].split("volumes:")[0])
    assert ports == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert "network_mode" not in text


def test_git_ignores_bundles_and_keeps_the_rest():
    lines = (ROOT / ".gitignore").read_text().splitlines()
    assert lines[1:] == ["*", "!.gitignore", "!README.md", "!serving/", "!serving/**"]
