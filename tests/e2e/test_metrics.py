"""`/metrics`, request ids and the request log of a real server, as Prometheus and an operator meet them."""

import json
import re
import subprocess
import time
from typing import Any

from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import catalog
from tests.conftest import Server
from tests.prometheus.running import tool

CHAT = "/v1/chat/completions"


def scrape(server: Server) -> dict[str, float]:
    """Sample → value, as `onecard_answers_total{finish="stop"}`."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(server.get("/metrics").text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def test_ours_stand_beside_vllms_and_all_of_them_are_in_the_catalog(server: Server) -> None:
    families = {family.name: family for family in text_string_to_metric_families(server.get("/metrics").text)}
    kinds = {metric.name.removesuffix("_total"): metric.kind for metric in catalog.ALL}
    ours = {name: family for name, family in families.items() if name.startswith("onecard_")}
    assert {metric.name.removesuffix("_total") for metric in catalog.RECORDED} <= set(ours)
    for name, family in ours.items():
        if not name.endswith("_created"):  # the client library tells when each counter began
            assert kinds[name] == family.type
    assert "vllm:num_requests_running" in families


def test_promtool_finds_no_fault_with_ours(server: Server) -> None:
    """With vLLM's it does: their names have a colon, which Prometheus keeps for recording rules."""
    lines = [line for line in server.get("/metrics").text.splitlines(keepends=True) if " onecard_" in f" {line}"]
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input="".join(lines), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_an_answer_is_counted_once_with_its_tokens(server: Server, client: OpenAI) -> None:
    before = scrape(server)
    messages: Any = [{"role": "user", "content": "hi"}]
    reply = client.chat.completions.create(
        model="demo", messages=messages, max_tokens=3, extra_body={"ignore_eos": True}
    )
    after = scrape(server)

    def grown(sample: str) -> float:
        return after[sample] - before.get(sample, 0)

    assert reply.usage is not None
    assert grown(f'onecard_requests_total{{key="none",outcome="answered",reason="none",route="{CHAT}"}}') == 1
    assert grown(f'onecard_request_seconds_count{{route="{CHAT}"}}') == 1
    assert grown('onecard_tokens_total{key="none",kind="answer"}') == reply.usage.completion_tokens == 3
    assert grown('onecard_tokens_total{key="none",kind="prompt"}') == reply.usage.prompt_tokens
    assert grown('onecard_answers_total{finish="length"}') == 1
    assert after["onecard_requests_in_flight"] == 0


def test_the_tokens_of_a_stream_are_counted_without_its_usage(server: Server, client: OpenAI) -> None:
    before = scrape(server)
    messages: Any = [{"role": "user", "content": "hi"}]
    stream = client.chat.completions.create(
        model="demo", messages=messages, max_tokens=3, stream=True, extra_body={"ignore_eos": True}
    )
    assert all(chunk.usage is None for chunk in stream)
    sample = 'onecard_tokens_total{key="none",kind="answer"}'
    while (after := scrape(server))["onecard_requests_in_flight"]:
        time.sleep(0.05)  # it is recorded when the answer is out
    assert after[sample] - before.get(sample, 0) == 3
    assert after["onecard_answer_tokens_per_second_count"] > before.get("onecard_answer_tokens_per_second_count", 0)


def test_plan_and_state_are_told(server: Server) -> None:
    seen, plan = scrape(server), server.get("/onecard/status").json()["plan"]
    assert seen['onecard_state{state="ready"}'] == 1
    predicted = [value for sample, value in seen.items() if sample.startswith("onecard_memory_predicted_bytes")]
    assert sum(predicted) == plan["memory_mib"]["total"] * 2**20


def test_a_requests_id_is_found_in_answer_and_log(server: Server, client: OpenAI) -> None:
    secret = "the colour of my front door"
    messages: Any = [{"role": "user", "content": secret}]
    raw = client.chat.completions.with_raw_response.create(
        model="demo", messages=messages, max_tokens=2, extra_headers={"X-Request-Id": "e2e-test.1"}
    )
    assert raw.headers["x-request-id"] == "e2e-test.1"
    assert "e2e-test.1" in json.loads(raw.text)["id"]
    log = server.state_dir / str(server.port) / "server.log"
    while not (lines := [line for line in log.read_text().splitlines() if "e2e-test.1" in line and CHAT in line]):
        time.sleep(0.05)  # it is written when the answer is out
    assert re.search(r"200 in \d", lines[0])
    assert secret not in log.read_text()
    made = server.get("/v1/models").headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", made)
    assert made != server.get("/v1/models").headers["x-request-id"]
