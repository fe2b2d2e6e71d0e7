"""What is deployed, and what its pages say: linted, and compared with the code."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from service.api.jobs import STATUS
from service.commands import cli
from service.settings import Settings
from tts.profile import read_profiles

ROOT = File(__file__).parents[2]
DEPLOY = ROOT / "service" / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SERVICE = (ROOT / "docs" / "service.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(COMPOSE)
    return found


@pytest.fixture(scope="module")
def ours(compose: dict[str, Any]) -> dict[str, Any]:
    return {name: compose["services"][name] for name in ("api", "worker")}


def lint_compose(file: File) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def lint_dockerfile(text: str) -> subprocess.CompletedProcess[str]:
    hadolint = File(sysconfig.get_path("scripts")) / "hadolint"
    return subprocess.run([hadolint, "--no-color", "-"], input=text, capture_output=True, text=True, timeout=60)


def test_the_compose_file_is_one_by_the_official_schema() -> None:
    told = lint_compose(COMPOSE)
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_compose_schema_finds_a_misspelled_field(tmp_path: File) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE.read_text().replace("stop_grace_period", "stop_grace_time"))
    told = lint_compose(broken)
    assert told.returncode != 0
    assert "stop_grace_time" in told.stdout


def test_the_dockerfile_passes_hadolint() -> None:
    told = lint_dockerfile(DOCKERFILE)
    assert told.returncode == 0, told.stdout


def test_hadolint_finds_a_base_that_is_not_pinned() -> None:
    assert "DL3007" in lint_dockerfile(DOCKERFILE.replace("FROM python:${PYTHON}\n", "FROM python:latest\n")).stdout


def test_every_variable_of_ours_in_the_compose_file_is_a_setting(ours: dict[str, Any]) -> None:
    known = {f"TTS_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"TTS_[A-Z_]+", COMPOSE.read_text())) <= known
    for service in ours.values():
        assert set(service["environment"]) <= known


def test_settings_of_the_compose_file_are_valid(ours: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ours["worker"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.auth == "keys"
    assert settings.redis_url == "redis://valkey:6379/0"


def parses(words: list[str]) -> bool:
    """Whether this is a command of ours, with arguments that it takes."""
    command: click.Command = cli
    context = click.Context(cli, info_name="tts")
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name}"
        command = found
    command.make_context(command.name, words)
    return True


def test_every_command_of_ours_is_a_command(ours: dict[str, Any]) -> None:
    standard = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.M)
    for words in (*(service["command"] for service in ours.values()), *map(YAML(typ="safe").load, standard)):
        assert words[0] == "tts"
        assert parses(words[1:])


def seconds(period: str) -> int:
    number, unit = int(period[:-1]), period[-1]
    return number * {"s": 1, "m": 60, "h": 3600}[unit]


def test_a_worker_is_given_longer_to_stop_than_it_drains(ours: dict[str, Any]) -> None:
    drain = int(ours["worker"]["environment"]["TTS_DRAIN_SECONDS"])
    assert seconds(ours["worker"]["stop_grace_period"]) >= drain + 10


def test_workers_can_be_scaled(ours: dict[str, Any]) -> None:
    assert ours["worker"]["deploy"]["replicas"] > 1
    assert "container_name" not in ours["worker"]


def test_only_the_api_is_published_and_by_default_to_this_machine_alone(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert published == {
        "api": ["${API_ADDRESS:-127.0.0.1}:8000:8000"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    assert not any("network_mode" in service for service in compose["services"].values())


def test_whatever_dies_is_started_again(compose: dict[str, Any]) -> None:
    assert {service["restart"] for service in compose["services"].values()} == {"unless-stopped"}


def test_the_store_syncs_every_write_and_evicts_nothing(compose: dict[str, Any]) -> None:
    program, *words = compose["services"]["valkey"]["command"]
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert program == "valkey-server"
    assert (options["--appendonly"], options["--appendfsync"]) == ("yes", "always")
    assert options["--maxmemory-policy"] == "noeviction"
    assert compose["services"]["valkey"]["volumes"] == ["valkey:/data"]


def flags(words: list[str]) -> dict[str, str]:
    """Flags of a command and their values; '' where there is none."""
    after = [*words[1:], "--"]
    return {word: "" if following.startswith("--") else following
            for word, following in zip(words, after, strict=True) if word.startswith("--")}  # fmt: skip


def test_sglang_is_started_as_the_deployment_page_says(compose: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    told = shlex.split(re.findall(r"^\$ (SGLANG_\S+ python -m sglang.launch_server (?:.*\\\n)*.*)$", page, re.M)[0])
    server = compose["services"]["sglang"]
    assert flags(server["command"]) == {**flags(told), "--host": "0.0.0.0"}
    assert [f"{name}={value}" for name, value in server["environment"].items()] == told[:1]
    version = re.findall(r"Written for SGLang ([0-9.]+[0-9])", page)[0]
    assert server["image"] == f"lmsysorg/sglang:v{version}"


def test_the_profiles_beside_the_compose_file_name_its_servers(compose: dict[str, Any], ours: dict[str, Any]) -> None:
    profiles = read_profiles(COMPOSE.parent / compose["configs"]["models"]["file"])
    assert ours["worker"]["environment"]["TTS_DEFAULT_MODEL"] in profiles
    server = flags(compose["services"]["sglang"]["command"])
    assert {profile.backend for profile in profiles.values()} == {f"sglang:http://sglang:{server['--port']}"}
    workdir = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.M)[-1]
    assert [mount["target"] for mount in ours["worker"]["configs"]] == [f"{workdir}/tts.toml"]


def test_the_image_is_tagged_with_the_version(ours: dict[str, Any]) -> None:
    assert {service["image"] for service in ours.values()} == {f"{PROJECT['name']}:{PROJECT['version']}"}


def test_nothing_secret_is_in_the_files() -> None:
    words = COMPOSE.read_text() + DOCKERFILE + (DEPLOY / "tts.toml").read_text()
    words += "".join(
        file.read_text() for file in [*DEPLOY.glob("prometheus/*"), *DEPLOY.glob("grafana/provisioning/*/*")]
    )
    # What the environment gives, the name of a secret, an example that draws one.
    given = r"\$\{\w+:-\}|-\}|$|\"\$\(openssl rand "
    assert not re.search(rf"(?im)(password|secret|token|api_key|requirepass)\s*[:=](?! *({given}))|://[^/\s]*@", words)


def test_the_image_runs_as_nobody_in_particular_and_passes_signals_on() -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.M)[-1] == "10001:10001"
    assert 'ENTRYPOINT ["tini", "--"]' in DOCKERFILE
    assert "/healthz" in DOCKERFILE.partition("HEALTHCHECK")[2]


def test_the_image_is_made_of_what_the_builder_is_given() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    given = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {source for line in re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.M) for source in line.split()}
    assert lines[0] == "*"
    assert copied == given
    assert all((ROOT / each).exists() for each in given)
    extras = set(re.findall(r"'\.\[(.*)\]'", DOCKERFILE)[0].split(","))
    assert {"service", "sglang", "litellm"} <= extras <= set(PROJECT["optional-dependencies"])


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table after a heading."""
    rows = re.findall(r"(?:^\|.*\n)+", page.partition(heading)[2], re.M)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def spelled(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) or default is None else str(default)


def test_the_page_lists_every_setting_with_its_default() -> None:
    told = [(row[0], row[1]) for row in table(OPERATIONS, "\n## Settings\n")]
    known = Settings.model_fields.items()
    assert told == [(f"`TTS_{name.upper()}`", f"`{spelled(field.default)}`") for name, field in known]


def codes() -> dict[str, set[int]]:
    """The codes of all problems that the API answers with, and their statuses."""
    found = {code: {status} for code, status in STATUS.items()}
    for file in (ROOT / "service" / "api").glob("*.py"):
        text = file.read_text()
        for status, code in re.findall(r'Fault\(\s*(\d{3}), "(\w+)"', text):
            found.setdefault(code, set()).add(int(status))
    return found


def test_the_page_lists_every_code_of_an_error() -> None:
    rows = table(SERVICE, "\n## Errors\n")
    told = {
        code: set(map(int, re.findall(r"\d{3}", row[1]))) for row in rows for code in re.findall(r"`(\w+)`", row[0])
    }
    for code, statuses in codes().items():
        assert statuses <= told[code], code
    limits = {code for code, statuses in told.items() if statuses == {429}}
    assert {re.findall(r"\w+", row[0])[0] for row in table(OPERATIONS, "\n## Keys and limits\n")} == limits


def examples(page: str) -> list[str]:
    """The commands of a page, each perhaps of several lines."""
    blocks = re.findall(r"^```console\n(.*?)^```", page, re.M | re.S)
    return [part.rstrip() for block in blocks for part in re.split(r"^\$ ", block, flags=re.M)[1:]]


@pytest.mark.parametrize("command", [each for each in examples(OPERATIONS) if each.startswith("tts ")])
def test_commands_of_the_page_are_commands(command: str) -> None:
    assert parses(shlex.split(command, comments=True)[1:])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("up")
    command = [sys.executable, "-m", "service", "up", "--port", str(port), "--dir", str(folder)]
    with (folder / "log").open("w") as log:
        up = subprocess.Popen([*command, "--backend", "fake:tests.handlers:quick"], cwd=ROOT, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/readyz")
        yield f"127.0.0.1:{port}"
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(30)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait()


def _wait(url: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                assert reply.status == 200
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the service did not get ready")


def test_the_examples_of_the_service_page_work_as_written(served: str, tmp_path: File) -> None:
    lines = [re.sub(r"\bcurl ", "curl --fail-with-body --max-time 30 ", each) for each in examples(SERVICE)]
    script = "\n".join(["set -euo pipefail", *lines]).replace("localhost:8000", served)
    told = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr
    assert told.stdout.count('"answer":"12"') >= 4
    assert "event: result" in told.stdout
    assert (tmp_path / "job.jsonl").read_text().startswith('{"type":"header"')
