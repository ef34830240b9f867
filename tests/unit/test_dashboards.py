"""The dashboards that are committed: those of the code, whole in Grafana's own types, tidy, and about metrics that exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.__main__ import FOLDER, PAGES, as_json
from serving.metrics import catalog

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "deploy" / "prometheus" / "rules"
register_default_plugins()


def dashboard(name: str) -> dict[str, Any]:
    loaded = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("name", PAGES)
def test_what_is_committed_is_what_the_code_makes(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == as_json(PAGES[name]), (
        "run `python -m deploy.grafana`"
    )


def test_nothing_else_lies_there() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_grafanas_types_hold_all_of_it(name: str) -> None:
    """Read by Grafana's own library and written again it is the same: it has no field that Grafana does not know."""
    read = Dashboard.from_json(dashboard(name))
    assert json.loads(JSONEncoder().encode(read)) == dashboard(name)


@pytest.mark.parametrize("name", PAGES)
def test_panels_stand_side_by_side_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard(name)["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard(name)["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", PAGES)
def test_every_panel_explains_itself(name: str) -> None:
    for panel in panels(name):
        if panel["type"] != "text":
            assert panel["title"]
            assert len(panel["description"]) > 10
            assert panel["targets"]


def _metrics_in(expression: str) -> set[str]:
    """The metrics that a PromQL expression names: words that are no function, no keyword and no label."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|on|le|without)\s*\([^)]*\)', " ", expression)
    return set(re.findall(r"\b(?:onecard_\w+|vllm:\w+|machine\w*:[\w:]+|up|ALERTS)\b", bare))


def _expressions() -> dict[str, str]:
    found = {
        f"{name}: {panel['title']} ({target['refId']})": target["expr"]
        for name in PAGES
        for panel in panels(name)
        for target in panel.get("targets", ())
    }
    for file in RULES.glob("*.yml"):
        for group in yaml.safe_load(file.read_text())["groups"]:
            found |= {f"{file.stem}: {rule.get('record') or rule['alert']}": rule["expr"] for rule in group["rules"]}
    return found


EXPRESSIONS = _expressions()


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_every_metric_of_ours_exists(where: str) -> None:
    ours = {
        name
        for metric in catalog.ALL
        for name in (
            [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")]
            if metric.kind == "histogram"
            else [metric.name]
        )
    }
    recorded = {
        rule["record"]
        for group in yaml.safe_load((RULES / "recording.yml").read_text())["groups"]
        for rule in group["rules"]
    }
    named = {metric for metric in _metrics_in(EXPRESSIONS[where]) if metric.startswith(("onecard_", "machine"))}
    assert named <= ours | recorded


def test_every_metric_of_ours_is_looked_at() -> None:
    """What no dashboard and no alert uses nobody would see; those few are for questions asked by hand."""
    used = " ".join(EXPRESSIONS.values())
    unused = {metric.name for metric in catalog.ALL if metric.name not in used}
    assert unused <= {catalog.BUILD_INFO.name, catalog.IN_FLIGHT.name, catalog.GPU_FAN.name, catalog.STARTED_AT.name}


def test_runbooks_that_dashboards_name_are_there() -> None:
    named = {page for file in FOLDER.iterdir() for page in re.findall(r"docs/runbooks/[\w-]+\.md", file.read_text())}
    assert named
    assert all((ROOT / page).is_file() for page in named)


def test_grafana_finds_what_it_is_provisioned_with() -> None:
    """The data source that the dashboards' variable offers, and the folder that compose.yaml mounts."""
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "onecard.yaml").read_text())["providers"]
    assert (source["type"], provider["type"]) == ("prometheus", "file")
    assert "templating" in dashboard("overview")
