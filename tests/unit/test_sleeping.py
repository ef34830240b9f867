"""Asleep, awake, and another model in its place: the supervisor over the stand-in, with real connections given from one
process to the next."""

import http.client
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serving.durations import said, seconds
from serving.errors import UsageError
from serving.machine.orders import send_to_sleep, wake_up
from serving.supervisor.swap import next_model
from tests.unit.test_supervisor import LONG_S, Supervised, asking, held_in_its_start, supervised

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the stand-in's supervisor is started with beside its defaults."""

    def put(others: str = "", **guard: float) -> None:
        monkeypatch.setenv("GUARD", json.dumps({"min_stay_s": 0.0} | guard))
        monkeypatch.setenv("OTHERS", others)

    return put


def status(running: Supervised) -> dict[str, Any]:
    answer: dict[str, Any] = running.get("/onecard/status").json()
    return answer


def until_asleep(running: Supervised) -> None:
    ends = time.monotonic() + LONG_S
    while status(running)["state"] != "asleep":
        assert time.monotonic() < ends, running.output.read_text()
        time.sleep(0.05)


def to_sleep(running: Supervised) -> None:
    running.process.send_signal(signal.SIGUSR1)
    until_asleep(running)


def request(model: str = "demo", tokens: int = 1, **more: Any) -> bytes:
    return json.dumps(
        {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "hi"}]} | more
    ).encode()


def ask(running: Supervised, model: str = "demo", **more: Any) -> httpx.Response:
    url = f"http://127.0.0.1:{running.port}{CHAT}"
    return httpx.post(url, content=request(model, **more), headers=JSON, timeout=LONG_S, trust_env=False)


def test_an_idle_server_sleeps_through_probes_and_refusals_and_the_next_request_wakes_it(
    tmp_path: Path, settings: Callable[..., None]
) -> None:
    settings(idle_unload_s=1.5)
    with supervised(tmp_path) as running:
        while not (children := psutil.Process(running.process.pid).children()):
            time.sleep(0.01)
        until_asleep(running)
        assert not any(child.is_running() for child in children)
        assert psutil.Process(running.process.pid).children() == []
        seen = status(running)
        assert (seen["wakes"], seen["queue"]["waiting"]) == (0, 0)
        assert seen["asleep_since"] == pytest.approx(time.time(), abs=LONG_S)
        assert running.get("/health").status_code == 200
        assert (running.get("/ready").status_code, running.get("/ready").json()["state"]) == (503, "asleep")
        assert 'onecard_state{state="asleep"} 1.0' in running.get("/metrics").text
        assert [model["loaded"] for model in running.get("/v1/models").json()["data"]] == [False, False]
        assert running.get("/v1/models/demo").json()["loaded"] is False
        assert ask(running, model="nobody").status_code == 404
        url = f"http://127.0.0.1:{running.port}{CHAT}"
        assert httpx.post(url, content=b"{", headers=JSON, trust_env=False).status_code == 400
        assert httpx.post(url, content=b"x", trust_env=False).status_code == 415
        assert running.get("/nothing").status_code == 404
        assert status(running)["state"] == "asleep"
        answer = ask(running)
        assert (answer.status_code, answer.json()["model"]) == (200, "onecard-demo")
        seen = status(running)
        assert (seen["wakes"], seen["restarts"]) == (1, 0)
        assert seen["wake_s"] > 0
        until_asleep(running)  # idle time is counted anew
        told = running.get("/metrics").text
        assert "onecard_wakes_total 1.0" in told
        assert f"onecard_wake_seconds {seen['wake_s']}" in told


def test_sleep_waits_for_answers_and_connections_outlive_it(tmp_path: Path, settings: Callable[..., None]) -> None:
    settings()
    with supervised(tmp_path) as running:
        running.until(200)
        kept = http.client.HTTPConnection("127.0.0.1", running.port, timeout=LONG_S)
        kept.request("GET", "/v1/models")
        assert kept.getresponse().read()
        own = kept.sock
        with asking(running, tokens=150) as answers:
            running.process.send_signal(signal.SIGUSR1)
        assert answers == [200]
        until_asleep(running)
        # On the same connection, which another process has by now: five megabytes in, a stream out.
        large = request(tokens=5, stream=True, user="x", metadata={"padding": "x" * 5_000_000})
        kept.request("POST", CHAT, large, JSON | {"Expect": "100-continue"})
        assert kept.sock is own
        answer = kept.getresponse()
        assert answer.status == 200
        *pieces, end = (line.removeprefix("data: ") for line in answer.read().decode().splitlines()[0::2])
        assert ([json.loads(piece)["model"] for piece in pieces], end) == (["onecard-demo"] * 5, "[DONE]")
        kept.close()
        # `onecard wake`: without a request.
        to_sleep(running)
        running.process.send_signal(signal.SIGUSR2)
        running.until(200)
        assert status(running)["wakes"] == 2
        # In the midst of it all, the end.
        to_sleep(running)
        running.process.send_signal(signal.SIGTERM)
        assert running.ends() == 0


def test_the_commands_know_what_it_is_at(
    tmp_path: Path, settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its way up it is neither asleep nor ready: what is suspended then would lose what is in the card's memory."""
    settings()
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path))
    with supervised(tmp_path) as running:
        running.until(200)
        to_sleep(running)
        running.process.send_signal(signal.SIGUSR2)
        while status(running)["state"] == "asleep":
            time.sleep(0.01)
        assert send_to_sleep(running.port).startswith("Asleep after ")
        assert status(running)["state"] == "asleep"
        assert wake_up(running.port).startswith("Awake after ")
        held_in_its_start(running).resume()
        assert wake_up(running.port).startswith("Awake after ")


def test_who_waits_for_it_may_leave_and_is_not_held_for_ever(tmp_path: Path, settings: Callable[..., None]) -> None:
    settings(wake_deadline_s=0.3)
    with supervised(tmp_path) as running:
        running.until(200)
        to_sleep(running)
        late = ask(running)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "not_ready")
        assert int(late.headers["retry-after"]) > 0
        running.until(200)  # what it has asked for goes on
        to_sleep(running)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"http://127.0.0.1:{running.port}{CHAT}", content=request(), headers=JSON, timeout=0.1, trust_env=False
            )
        running.until(200)
        assert status(running)["queue"] == {"running": 0, "waiting": 0}


def test_another_model_by_its_name_takes_the_place_and_every_answer_is_its_own(
    tmp_path: Path, settings: Callable[..., None]
) -> None:
    settings("other clay", min_stay_s=0.5)
    with supervised(tmp_path, does="clay") as running:
        running.until(200)
        listed = {model["id"]: model["loaded"] for model in running.get("/v1/models").json()["data"]}
        assert listed == {"onecard-demo": True, "demo": True, "other": False, "clay": False}
        refusal = ask(running, "nobody")
        assert refusal.status_code == 404
        assert "clay, demo, onecard-demo, other" in refusal.json()["error"]["message"]
        wrong: list[Any] = []
        done = threading.Event()

        def client(model: str, named: str) -> None:
            with httpx.Client(timeout=LONG_S, trust_env=False) as http:
                while not done.is_set():
                    try:
                        url = f"http://127.0.0.1:{running.port}{CHAT}"
                        answer = http.post(url, content=request(model, tokens=3), headers=JSON)
                        if answer.status_code != 200 or answer.json()["model"] != named:
                            wrong.append(answer.text)
                    except httpx.HTTPError as error:
                        wrong.append(repr(error))

        threads = [
            threading.Thread(target=client, args=pair) for pair in 2 * [("demo", "onecard-demo"), ("other", "other")]
        ]
        for thread in threads:
            thread.start()
        ends = time.monotonic() + LONG_S
        while status(running)["swaps"] < 3 and time.monotonic() < ends:
            time.sleep(0.1)
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert status(running)["swaps"] >= 3
        assert status(running)["restarts"] == 0
        # One that cannot be loaded is said to be so, and the others can be had as before.
        broken = ask(running, "clay")
        assert broken.status_code == 503
        assert "could not be loaded" in broken.json()["error"]["message"]
        assert "the weights are of clay" in running.output.read_text()
        assert ask(running, "other").json()["model"] == "other"


def test_who_waits_for_memory_that_others_hold_is_told_so(tmp_path: Path, settings: Callable[..., None]) -> None:
    settings(wake_deadline_s=3.0)
    with supervised(tmp_path, does="crowded") as running:
        running.until(200)
        to_sleep(running)
        refused = ask(running)
        assert refused.status_code == 503
        assert "other programs hold the GPU's memory" in refused.json()["error"]["message"]
        while status(running)["queue"]["waiting"]:
            time.sleep(0.05)
        assert status(running)["state"] == "asleep"  # nobody waits for it any more
        while running.get("/ready").status_code != 200:
            running.process.send_signal(signal.SIGUSR2)
            time.sleep(0.2)


# --- the policies by themselves ---


def test_the_longest_waiting_is_next_and_each_model_stays_for_a_while() -> None:
    assert next_model([], "a", None, 60) is None
    assert next_model(["b", "a"], "a", None, 60) == "b"
    assert next_model(["b"], "a", 59.0, 60) is None
    assert next_model(["a", "b", "c"], "a", 60.0, 60) == "b"
    assert next_model(["a"], "a", 100.0, 60) is None


@pytest.mark.parametrize(("written", "value"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5s", 0.5)])
def test_times_as_people_write_them(written: str, value: float) -> None:
    assert seconds(written) == value


@pytest.mark.parametrize("written", ["", "0", "ten", "-5", "5 minutes"])
def test_what_is_no_time_is_refused(written: str) -> None:
    with pytest.raises(UsageError, match="10m"):
        seconds(written)


def test_times_are_said_in_a_unit_that_fits() -> None:
    assert [said(each) for each in (5, 119, 600, 9000)] == ["5 s", "119 s", "10 min", "2.5 h"]
