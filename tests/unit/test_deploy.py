"""What is deployed, judged by the tools of those who run it: systemd, hadolint, Compose's and Kubernetes' schemas."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving.guard.origin import Origin
from serving.machine.port import free_port

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())


def tool(name: str) -> str:
    """The program, from this environment or the machine; skips where there is none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here")
    return found


def run(*command: str | Path) -> str:
    """What it prints; fails with that when it finds fault."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with a program in onecard's place that is there."""
    for unit in UNITS:
        text = unit.read_text().replace("/opt/onecard/bin/onecard", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    return [tmp_path / unit.name for unit in UNITS]


def test_systemd_finds_no_fault_with_the_units(units: list[Path]) -> None:
    assert run(tool("systemd-analyze"), "verify", "--man=no", *units) == ""


def test_the_service_is_shut_in(units: list[Path]) -> None:
    """systemd's own score: 0 is shut in whole, 10 not at all; a plain service has 9.6."""
    service = next(unit for unit in units if unit.name == "onecard.service")
    told = run(tool("systemd-analyze"), "security", "--offline=true", "--no-pager", service)
    score = re.search(r"exposure level for onecard.service: ([\d.]+)", told)
    assert score is not None, told
    assert float(score[1]) < 2.5


def test_refusals_in_words_are_not_started_again() -> None:
    from serving import errors

    service = (DEPLOY / "systemd" / "onecard.service").read_text()
    found = re.search(r"RestartPreventExitStatus=(.*)", service)
    assert found is not None
    listed = {int(code) for code in found[1].split()}
    kinds = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)}
    assert listed < kinds
    # A crash, a full disk and a port that another still holds may be over by the next start.
    assert not listed & {
        1,
        errors.GaveUpError.exit_code,
        errors.DiskFullError.exit_code,
        errors.PortInUseError.exit_code,
    }


def test_a_service_that_is_stopped_before_it_serves_has_not_failed(tmp_path: Path) -> None:
    """systemd takes an end by SIGTERM itself for a success, and none of the exit codes but 0 and those that are named."""
    service = (DEPLOY / "systemd" / "onecard.service").read_text()
    command = [sys.executable, "-m", "serving", "serve", "--profile", "cpu", "--port", str(free_port())]
    environment = os.environ | {"ONECARD_STATE_DIR": str(tmp_path), "ONECARD_EXPORTER_PORT": "0"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as started:
        while not _catches_sigterm(started.pid):
            assert started.poll() is None
            time.sleep(0.01)
        started.terminate()
        code = started.wait(60)
    assert code in (0, int(re.findall(r"SuccessExitStatus=(\d+)", service)[0]))


def _catches_sigterm(pid: int) -> bool:
    """By the kernel's mask of handlers (proc_pid_status(5))."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_hadolint_finds_no_fault_with_the_dockerfile() -> None:
    assert run(tool("hadolint"), DEPLOY / "Dockerfile") == ""


def test_the_image_holds_what_it_copies_and_nothing_else() -> None:
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
        for word in line.split()[:-1]
    }
    let_in = {line[1:] for line in (DEPLOY.parent / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in
    assert all((DEPLOY.parent / name).exists() for name in copied)


def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_compose_follows_its_schema() -> None:
    assert "ok" in run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_nothing_of_compose_is_open_to_the_network_and_every_image_is_pinned() -> None:
    for name, service in compose()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert re.search(r":(v?\d[\w.-]*|\$\{ONECARD_TARGET:-cuda\})$", service["image"]), name


def test_what_compose_mounts_is_there() -> None:
    for service in compose()["services"].values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose()["volumes"]


def test_compose_makes_keys_that_the_guard_reads(tmp_path: Path) -> None:
    """The script of the service `keys`, run as it stands, but for its folder and its owners."""
    from serving.guard.keys import read_keys

    script = compose()["services"]["keys"]["command"][0]
    script = re.sub(r"\n\s+os\.chown\([^\n]*", "", script.replace('"/keys"', repr(str(tmp_path))))
    run(sys.executable, "-c", script)
    keys = read_keys(tmp_path / "onecard.keys")
    assert set(keys) == {"user", "prometheus", "webui"}
    assert (tmp_path / "prometheus.key").read_bytes() == keys["prometheus"].secret
    assert oct((tmp_path / "webui.key").stat().st_mode)[-3:] == "400"
    (tmp_path / "onecard.keys").chmod(0o600)
    run(sys.executable, "-c", script)
    assert read_keys(tmp_path / "onecard.keys") == keys, "a second start keeps them"


def answered(hosts: str, name: str) -> int:
    """The status of a request with that name in `Host`, where ONECARD_ALLOW_HOST is `hosts`."""
    app = Origin(PlainTextResponse("here"), tuple(hosts.split()), ())
    return TestClient(app, base_url=f"http://{name}:8000").get("/metrics").status_code


def test_compose_lets_its_own_services_in_by_the_name_that_they_ask() -> None:
    """A container is called by its id, not by its service; without this Prometheus and the chat page get 421."""
    services = compose()["services"]
    hosts = services["onecard"]["environment"].get("ONECARD_ALLOW_HOST", "")
    scrapes = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.compose.yml").read_text())["scrape_configs"]
    asked = {target for job in scrapes for config in job["static_configs"] for target in config["targets"]}
    asked.add(urlsplit(services["webui"]["environment"]["OPENAI_API_BASE_URL"]).netloc)
    names = {target.partition(":")[0] for target in asked}
    assert names <= set(services)
    assert {name: answered(hosts, name) for name in names} == dict.fromkeys(names, 200)


def test_kubernetes_lets_in_by_the_names_of_its_service() -> None:
    service = next(each for each in manifests() if each["kind"] == "Service")["metadata"]
    deployment = next(each for each in manifests() if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    hosts = next((each["value"] for each in container["env"] if each["name"] == "ONECARD_ALLOW_HOST"), "")
    short = f"{service['name']}.{service['namespace']}"
    names = (service["name"], short, f"{short}.svc", f"{short}.svc.cluster.local")
    assert {name: answered(hosts, name) for name in names} == dict.fromkeys(names, 200)


def test_the_guide_to_proxies_says_how_their_name_is_let_in() -> None:
    """nginx and Caddy hand on a name that is not the machine's: it is refused (421) until it is allowed."""
    text = (DEPLOY.parent / "docs" / "behind-a-proxy.md").read_text()
    name = re.findall(r"^\s*server_name (\S+);", text, re.MULTILINE)[0]
    assert answered("", name) == 421
    assert f"--allow-host {name}" in text


def test_both_prometheus_configurations_scrape_alike() -> None:
    own, composed = (
        yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
        for name in ("prometheus.yml", "prometheus.compose.yml")
    )
    for job in (*own["scrape_configs"], *composed["scrape_configs"]):
        del job["static_configs"][0]["targets"]
        job.pop("authorization", None)
    assert own == composed


def manifests() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def test_kubernetes_manifests_follow_its_schema() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    ours = [each for each in manifests() if each["kind"] != "PodMonitor"]  # the operator's, not Kubernetes' own
    assert {each["kind"] for each in ours} == {"PersistentVolumeClaim", "Deployment", "Service"}
    for each in ours:
        validate.validate(each, validate.latest_version(), strict=True)


def test_probes_ask_for_our_routes_on_ports_that_are_open() -> None:
    deployment = next(each for each in manifests() if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8000, "exporter": 8001}
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startup": "/ready",
        "readiness": "/ready",
        "liveness": "/health",
    }
    monitor = next(each for each in manifests() if each["kind"] == "PodMonitor")
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} == set(ports)
    assert json.dumps(monitor).count('"targetLabel": "machine"') == 2


def test_shellcheck_finds_no_fault_with_the_install_script() -> None:
    assert run(tool("shellcheck"), DEPLOY / "install.sh") == ""


def test_the_install_script_and_the_unit_mean_the_same_places() -> None:
    script, unit = (DEPLOY / "install.sh").read_text(), (DEPLOY / "systemd" / "onecard.service").read_text()
    for setting in ("ONECARD_STATE_DIR=/var/lib/onecard/state", "HF_HOME=/var/cache/onecard/huggingface"):
        assert f"Environment={setting}" in unit
    assert (
        "readonly PREFIX=/opt/onecard SETTINGS=/etc/onecard STATE=/var/lib/onecard CACHE=/var/cache/onecard" in script
    )
    assert "ExecStart=/opt/onecard/bin/onecard serve" in unit


@pytest.mark.parametrize(("arguments", "says"), [(("--frobnicate",), "no argument"), (("--profile",), "needs a name")])
def test_the_install_script_refuses_what_it_does_not_know(arguments: tuple[str, ...], says: str) -> None:
    done = subprocess.run([DEPLOY / "install.sh", *arguments], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert says in done.stderr
