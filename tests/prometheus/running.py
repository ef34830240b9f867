"""A running Prometheus with the configuration of `deploy/`, its targets and its pace changed for a test."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.ending import TIED
from serving.machine.port import free_port
from tests.prometheus.binaries import NotToBeHadError, binary

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
MACHINE = "onecard"
# Long enough for any start on two cores; nothing asserts a time.
PATIENCE_S = 60


def tool(name: str) -> Path:
    """The binary; skips the test where there is none and none can be fetched."""
    try:
        return binary(name)
    except NotToBeHadError as error:
        pytest.skip(str(error))


class Prometheus:
    """Asks a running one."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        reply = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30, trust_env=False)
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]

    def query(self, expression: str) -> list[float]:
        """The values that the expression has now."""
        data = self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [float(data["result"][1])]
        return [float(series["value"][1]) for series in data["result"]]

    def firing(self) -> dict[str, dict[str, Any]]:
        """Name → alert, of those that fire."""
        alerts = self.get("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == "firing"}

    def until(self, expression: str) -> list[float]:
        """The first values of the expression."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if values := self.query(expression):
                return values
            time.sleep(0.5)
        pytest.fail(f"no data: {expression}")

    def until_firing(self, alert: str) -> dict[str, Any]:
        """The alert, once it fires."""
        deadline = time.monotonic() + 3 * PATIENCE_S
        while time.monotonic() < deadline:
            if alert in (firing := self.firing()):
                return firing[alert]
            time.sleep(0.5)
        pytest.fail(f"{alert} does not fire; {sorted(self.firing())} do")


@contextmanager
def running(folder: Path, targets: dict[str, int], *, quick: dict[str, str] | None = None) -> Iterator[Prometheus]:
    """Prometheus scraping `targets` (job → port) every second, with the rules of `deploy/`.

    `quick` are replacements in the rules, such as a shorter window; patterns as re.sub takes them.
    """
    program = tool("prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["static_configs"][0]["targets"] = [f"127.0.0.1:{targets[job['job_name']]}"]
    (folder / "rules").mkdir(parents=True)
    for file in (DEPLOY / "prometheus" / "rules").glob("*.yml"):
        text = file.read_text()
        for pattern, replacement in (quick or {}).items():
            text = re.sub(pattern, replacement, text)
        (folder / "rules" / file.name).write_text(text)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *TIED,
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.enable-lifecycle",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        prometheus = Prometheus(port)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and not _ready(prometheus.url):
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            time.sleep(0.1)
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def expressions() -> dict[str, str]:
    """Every PromQL expression of `deploy/`: dashboards, recording rules, and the queries of the dashboards' variables.

    Names say where each stands. Grafana's variables are put in as Grafana would.
    """

    found: dict[str, str] = {}
    for file in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                found[f"{file.stem}: {panel['title']} ({target['refId']})"] = target["expr"]
    for file in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                found[f"{file.stem}: {rule.get('record') or rule['alert']}"] = rule["expr"]
    return {
        where: expression.replace("$machine", MACHINE).replace("$__rate_interval", "30s")
        for where, expression in found.items()
    }
