"""onecard on Ray Serve, on this machine's CPU: one endpoint, 1 → 2 → 1 replicas under load, a replica that is killed."""

import base64
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.drawing import blank, circle, encoded
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


@pytest.mark.parametrize("what", ["stand-in", "demo model"])
def test_one_two_one_under_load_and_one_killed(tmp_path: Path, what: str) -> None:
    """The stand-in answers a request of 100 tokens in a second; the demo model says what is in a picture."""
    real = what == "demo model"
    flags = () if real else ("--set", STAND_IN)
    with serving(tmp_path, "--min-replicas", "1", "--max-replicas", "2", *_QUICK, *flags) as running:
        scales_without_a_failure(running, a_question_about_a_picture() if real else asking("hello", 100))
        loses_only_what_the_killed_one_ran(running, a_question_about_a_picture() if real else asking("hello", 300))


def a_question_about_a_picture() -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(encoded(circle(blank(), 320, 240, 120, "red"))).decode()
    body = asking("", 24, temperature=0)
    body["messages"][0]["content"] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    return body


def scales_without_a_failure(running: Running, body: dict[str, Any]) -> None:
    assert len(running.replicas()) == 1
    with Load(running.url, _CLIENTS, body) as much:
        running.wait_until(lambda: len(running.replicas()) == 2, "two replicas")
        running.wait_until(lambda: answering(running) == 2, "both answer")
    with Load(running.url, 1, body) as little:
        running.wait_until(lambda: len(running.replicas()) == 1, "one replica again")
    for load in (much, little):
        assert (load.refused, load.broken, dict(load.wrong)) == ([], [], {})
        assert load.answered


def loses_only_what_the_killed_one_ran(running: Running, body: dict[str, Any]) -> None:
    with Load(running.url, _CLIENTS, body) as load:
        running.wait_until(lambda: answering(running) == 2, "both answer")
        running.wait_until(lambda: load.answered > 12, "both are at work")
        victim = running.replicas()[0]
        victim.kill()
        victim.wait()
        answered = load.answered
        running.wait_until(lambda: answering(running) == 2, "another in its place")
        running.wait_until(lambda: load.answered > answered + 12, "it goes on")
    assert load.broken == []
    assert dict(load.wrong) == {}
    assert len(load.refused) <= _CLIENTS  # no client had more than one running
    for reply in load.refused:
        assert reply.status_code == 503, reply.text
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json()["error"]["code"] in ("replica_lost", "not_ready")
    assert running.is_ready()


def answering(running: Running) -> int:
    """How many servers behind the endpoint tell of themselves, when it is asked again and again."""
    urls = set()
    for _ in range(8):
        reply = httpx.get(f"{running.url}/onecard/status", timeout=60, trust_env=False)
        if reply.status_code == 200:
            urls.add(reply.json()["url"])
    return len(urls)
