"""Configuration, rules and alerts, judged by promtool; and that none of them is without its test or its runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from serving.metrics.recorder import Recorder
from tests.prometheus.running import DEPLOY, tool

HERE = Path(__file__).parent
RULES = DEPLOY / "prometheus" / "rules"
RUNBOOKS = DEPLOY.parent / "docs" / "runbooks"


def rules(file: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((RULES / file).read_text())["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}


def promtool(*arguments: str | Path, stdin: bytes = b"") -> str:
    """What it prints. Fails with that when it finds fault."""
    done = subprocess.run([tool("promtool"), *arguments], input=stdin, capture_output=True, cwd=HERE, check=False)
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output
    return output


def test_the_configuration_is_valid() -> None:
    assert "SUCCESS" in promtool("check", "config", "--lint=all", DEPLOY / "prometheus" / "prometheus.yml")


def test_rules_are_valid_and_none_is_there_twice() -> None:
    assert "duplicate" not in promtool("check", "rules", "--lint=all", *sorted(RULES.glob("*.yml")))


def test_alerts_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


def test_our_metrics_follow_prometheus_conventions() -> None:
    registry = CollectorRegistry()
    recorder = Recorder(registry)
    recorder.record_request("/ask", "none", "answered", "none", 1.0)
    recorder.record_image_refused("too_large")
    assert promtool("check", "metrics", stdin=generate_latest(registry)) == ""


def test_every_alert_is_tested_firing_and_silent() -> None:
    tests = yaml.safe_load((HERE / "alerts.test.yml").read_text())["tests"]
    cases = [(case["alertname"], bool(case.get("exp_alerts"))) for test in tests for case in test["alert_rule_test"]]
    assert {name for name, fires in cases if fires} == set(ALERTS)
    assert {name for name, fires in cases if not fires} == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert re.fullmatch(r"\d+m", alert["for"])
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert "{{ $labels.machine }}" in alert["annotations"]["summary"]
    runbook = DEPLOY.parent / alert["annotations"]["runbook_url"]
    assert name in runbook.read_text(encoding="utf-8")


def test_every_runbook_is_an_alerts() -> None:
    named = {Path(alert["annotations"]["runbook_url"]).name for alert in ALERTS.values()}
    assert named == {file.name for file in RUNBOOKS.glob("*.md")} - {"README.md"}
