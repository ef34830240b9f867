"""How long a scrape of everything takes under a load of pictures: what was found goes into docs/scrapes.json where
ONECARD_WRITE_FAULTS is set.

`python -m pytest -m long tests/prometheus/test_scrape.py`, on a machine that does nothing else: its cores are shared by the
load, the engine and both scrapes.
"""

import json
import os
import platform
import time
from pathlib import Path

import pytest

from benchmarks.metrics_cost import scrapes
from tests.conftest import Server
from tests.exporting import Card, exporting
from tests.faults.table import writing
from tests.prometheus.load import load

RESULT = Path(__file__).parents[2] / "docs" / "scrapes.json"


@pytest.mark.long
def test_both_are_scraped_while_pictures_are_asked_about(server: Server, tmp_path: Path) -> None:
    card = Card(tmp_path)
    with exporting(server.state_dir, server.port, **card.environment) as exporter:
        urls = {"server": f"{server.url}/metrics", "exporter": f"http://127.0.0.1:{exporter.port}/metrics"}
        with load(server) as wrong:
            time.sleep(10)  # every kind of request has been answered, so that every series is there
            found = {name: scrapes(url) for name, url in urls.items()}
    assert not wrong, wrong[:3]
    others = os.getloadavg()[0]
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m pytest -m long tests/prometheus/test_scrape.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, of which {others:.1f} were asked for meanwhile",
        "load": "two clients that ask about pictures one after another, streamed and not",
        "scrapes": found,
    }
    assert all(each["kb"] > 0 for each in found.values())
    if writing():
        RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
