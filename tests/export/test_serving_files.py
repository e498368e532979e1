"""The files for TensorFlow Serving, read by its own protocol buffers."""

import re
from pathlib import Path

import pytest
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
    assert re.findall(r"- (\S+):/models:ro", text) == ["../", "../"]
    for name in re.findall(r"- \./(\S+?):", text):
        assert (SERVING / name).is_file(), name
    for name in re.findall(r"/models/(serving/\S+)", text):
        assert (ROOT / name).is_file(), name
    flags = re.findall(r"- (--\S+)", text)
    assert flags and all("=" in flag for flag in flags)  # the server does not read `--flag value`


def test_compose_opens_its_ports_to_this_machine_only():
    text = re.sub(r"#.*", "", (SERVING / "docker-compose.yml").read_text())
    ports = re.findall(r'- "([\d.:\[\]]+)"', text)
    served = ["8500:8500", "8501:8501", "8600:8500", "8601:8501", "9090:9090"]
    assert ports == [f"127.0.0.1:{pair}" for pair in served]
    assert "network_mode" not in text


def test_the_files_are_those_that_the_command_writes(tmp_path, capsys):
    from twotower_tf.cli.main import main

    flags = ["--export_dir=export/quickstart", f"--write_files={tmp_path}"]
    assert main(["serve", *flags]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert sorted(Path(line).name for line in capsys.readouterr().out.splitlines()) == names
    assert names == sorted(path.name for path in SERVING.iterdir())
    for name in names:
        assert (tmp_path / name).read_text() == (SERVING / name).read_text(), f"write export/serving/{name} again"
    assert main(["serve", *flags, "--model_name=shop"]) == 0
    parsed = text_format.Parse((tmp_path / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    assert parsed.model_config_list.config[0].base_path == "/models/shop"
    assert "quickstart" not in "".join(path.read_text() for path in tmp_path.iterdir())
    capsys.readouterr()
    assert main(["serve", *flags, '--model_name=a"b']) == 2
    assert capsys.readouterr().err.startswith("twotower serve: --model_name: invalid value 'a\"b' (expected letters")


def test_the_flags_of_the_retrieval_service_exist():
    """docker-compose's are parsed by the command, and the ports inside are its defaults."""
    from twotower_tf.cli import command, serve

    text = (SERVING / "docker-compose.yml").read_text()
    flags = re.findall(r"^ +- (--\S+)", text.split("  retrieval:")[1].split("  prometheus:")[0], re.MULTILINE)
    options = serve.read_options(command.parse("serve", serve, flags))
    assert (options.model_name, options.rest_port, options.grpc_port) == ("quickstart", 8501, 8500)
    assert options.user_tower == "tensorflow-serving:8500" and options.num_versions == 2


def test_yaml_files_are_yaml():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((SERVING / "docker-compose.yml").read_text())["services"]
    assert set(services) == {"tensorflow-serving", "retrieval", "prometheus"}
    jobs = yaml.safe_load((SERVING / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"][0].split(":")[0] for job in jobs}
    assert set(targets) == set(targets.values()) == {"tensorflow-serving", "retrieval"}
    assert f'path: "{jobs[0]["metrics_path"]}"' in (SERVING / "monitoring.config").read_text()


def test_git_ignores_bundles_and_keeps_the_rest():
    lines = (ROOT / ".gitignore").read_text().splitlines()
    assert lines[1:] == ["*", "!.gitignore", "!README.md", "!serving/", "!serving/**", "!training/", "!training/**"]
