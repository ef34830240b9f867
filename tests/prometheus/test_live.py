"""A real Prometheus scrapes a running onecard under a load of image requests: dashboards and rules have data.

The GPU's figures come from an exporter whose NVML is tests/nvml; everything else is what it is.
"""

import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from serving.metrics import catalog
from tests.conftest import Server
from tests.exporting import Card, Exporter, exporting
from tests.prometheus.load import load
from tests.prometheus.running import Prometheus, expressions, running

EXPRESSIONS = expressions()
DASHBOARDS = {name: expression for name, expression in EXPRESSIONS.items() if not name.startswith("alerts:")}


@dataclass
class Watched:
    """A Prometheus, and the exporter that it scrapes beside the server."""

    prometheus: Prometheus
    exporter: Exporter
    card: Card


@pytest.fixture(scope="module")
def watched(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """After half a minute of load, which goes on."""
    folder = tmp_path_factory.mktemp("prometheus")
    card = Card(folder)
    card.tells(nvmlDeviceGetTotalEnergyConsumption="!3")  # the recorded figure stands still; the exporter sums power
    with exporting(server.state_dir, server.port, **card.environment) as exporter:
        targets = {"onecard": server.port, "onecard-exporter": exporter.port}
        with running(folder / "run", targets) as prometheus, load(server) as wrong:
            prometheus.until('onecard_answers_total{finish="length"} > 3')
            prometheus.until('sum(rate(onecard_requests_total{route="/ask",outcome="answered"}[30s])) > 0')
            prometheus.until("machine:onecard_energy_per_answer:joules5m > 0")
            time.sleep(5)
            yield Watched(prometheus, exporter, card)
    assert not wrong, wrong[:3]


@pytest.mark.parametrize("where", DASHBOARDS)
def test_every_expression_has_data(where: str, watched: Watched) -> None:
    expression = DASHBOARDS[where]
    values = watched.prometheus.query(expression)
    assert values, f"{where} has no data: {expression}"
    if all(math.isnan(value) for value in values):
        # Right for a quantile of what has not happened (nobody was refused, say), and for nothing else.
        (histogram,) = set(re.findall(r"(\w+)_bucket", expression))
        assert watched.prometheus.query(f"sum(rate({histogram}_count[30s]))") == [0], f"{where}: {expression}"


def test_what_is_recorded_is_scraped_whole(watched: Watched) -> None:
    """Prometheus itself has taken every sample of both, and dropped none."""
    for job in ("onecard", "onecard-exporter"):
        assert watched.prometheus.query(f'up{{job="{job}"}}') == [1]
    names = set(watched.prometheus.get("label/__name__/values"))
    told = {metric.name for metric in (*catalog.FROM_STATUS, *catalog.OF_HOST, *catalog.OF_GPU)}
    absent = {  # not measured on a CPU and not known of it, one server alone, a card without a fan and without errors
        metric.name
        for metric in (catalog.MEMORY_MEASURED, catalog.PLAN_DECODE, catalog.CARDS, catalog.GPU_FAN, catalog.GPU_XID)
    }
    assert told - absent <= names
    series = {f"{metric.name}_count" if metric.kind == "histogram" else metric.name for metric in catalog.RECORDED}
    assert series - {catalog.IMAGES_REFUSED.name} <= names


def test_rules_are_evaluated_without_errors(watched: Watched) -> None:
    rules = [rule for group in watched.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 30
    assert [rule for rule in rules if rule["health"] != "ok"] == []


def test_nothing_fires_on_a_server_that_is_well(watched: Watched) -> None:
    assert watched.prometheus.firing() == {}
