"""Sleep and wake with a real engine; in the long suite fifty rounds of it, and two models that take turns under load. The
findings go into docs/endurance.json when ONECARD_WRITE_FAULTS is set."""

import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai import DefaultHttpxClient, OpenAI
from tokenizers import Tokenizer

from tests.conftest import ONECARD, START_S, Server, start_server
from tests.faults.conftest import RED_CIRCLE
from tests.faults.test_endurance import keep

MODEL = Path(__file__).parents[2] / "serving" / "demo" / "model"
ROUNDS = int(os.environ.get("ONECARD_SLEEPS", "50"))
SWAPS = int(os.environ.get("ONECARD_SWAPS", "20"))
QUESTION: Any = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": RED_CIRCLE}},
            {"type": "text", "text": "What color is the circle?"},
        ],
    }
]


def onecard(server: Server, *words: str, code: int = 0) -> str:
    command = [*ONECARD, *words, "--port", str(server.port)]
    done = subprocess.run(command, capture_output=True, text=True, env=server.environment, timeout=START_S, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def descendants(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def ask(client: OpenAI, model: str) -> str:
    """The answer about the colour, however long the model takes to be loaded."""
    answer = client.with_options(timeout=START_S).chat.completions.create(
        model=model, temperature=0, max_tokens=20, messages=QUESTION
    )
    return answer.choices[0].message.content or ""


def test_asleep_it_holds_nothing_and_the_next_question_is_answered(server: Server, client: OpenAI) -> None:
    engine = descendants(server)
    try:
        assert "Asleep" in onecard(server, "sleep")
        # Whoever is left without a parent is a zombie until init has seen it.
        assert psutil.wait_procs(engine, timeout=60)[1] == []
        assert "asleep" in onecard(server, "status", code=1)
        assert server.get("/health").status_code == 200
        assert server.get("/ready").json() == {"ready": False, "state": "asleep"}
        assert server.get("/v1/models").status_code == 200
        assert descendants(server) == []
        assert "red" in ask(client, "demo")
        assert server.get("/onecard/status").json()["wakes"] > 0
    finally:
        onecard(server, "wake")
        server.wait_until_ready()
    assert onecard(server, "wake") == "It is awake.\n"


# --- long: two models, the second of which says blue where the first says red ---


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("two")
    plain, twin = folder / "plain", folder / "twin"
    shutil.copytree(MODEL, plain)
    shutil.copytree(MODEL, twin)
    words = Tokenizer.from_file(str(twin / "tokenizer.json"))
    tensors = load_file(twin / "model.safetensors")
    rows = tensors["model.language_model.embed_tokens.weight"]  # the head's too
    for before in ("", " "):
        red, blue = (words.encode(before + colour).ids[0] for colour in ("red", "blue"))
        rows[[red, blue]] = rows[[blue, red]]
    save_file(tensors, twin / "model.safetensors", {"format": "pt"})
    running = start_server(folder, "--models", f"{plain},{twin}", "--min-stay", "3s")
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_rounds_of_sleep_and_wake_leave_nothing_behind(two_models: Server) -> None:
    supervisor = psutil.Process(two_models.process.pid)
    seen: list[dict[str, float]] = []
    waking: list[float] = []
    with two_models.openai() as client:
        for _ in range(ROUNDS):
            onecard(two_models, "sleep")
            assert supervisor.children() == []
            seen.append(
                {
                    "rss_mib": supervisor.memory_info().rss / 2**20,
                    "descriptors": supervisor.num_fds(),
                    "threads": supervisor.num_threads(),
                }
            )
            began = time.monotonic()
            assert "red" in ask(client, "plain")
            waking.append(time.monotonic() - began)
    third = max(1, len(seen) // 3)
    growth = {
        name: round(
            statistics.median(each[name] for each in seen[-third:])
            - statistics.median(each[name] for each in seen[third : 2 * third] or seen[:third]),
            1,
        )
        for name in seen[0]
    }
    keep(
        "sleeps",
        {
            "date": time.strftime("%Y-%m-%d"),
            "rounds": ROUNDS,
            "seconds_to_answer": {"median": round(statistics.median(waking), 1), "longest": round(max(waking), 1)},
            "growth": growth,
        },
    )
    allowed = {"rss_mib": 8.0, "descriptors": 0, "threads": 0}
    assert {name: grown for name, grown in growth.items() if grown > allowed[name]} == {}


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_models_that_take_turns_under_load_answer_every_question_rightly(two_models: Server) -> None:
    colours = {"plain": "red", "twin": "blue"}
    done = threading.Event()
    answered = dict.fromkeys(colours, 0)
    wrong: list[str] = []
    waited: list[float] = []

    def client(model: str) -> None:
        http = DefaultHttpxClient(trust_env=False)
        # No retries: what is lost is counted.
        with OpenAI(base_url=f"{two_models.url}/v1", api_key="none", http_client=http, max_retries=0) as openai_client:
            while not done.is_set():
                began = time.monotonic()
                try:
                    said = ask(openai_client, model)
                except (openai.OpenAIError, httpx.HTTPError) as error:
                    wrong.append(f"{model}: {type(error).__name__}: {error}")
                    continue
                waited.append(time.monotonic() - began)
                answered[model] += 1
                if colours[model] not in said:
                    wrong.append(f"{model}: {said}")

    threads = [threading.Thread(target=client, args=(model,)) for model in (*colours, *colours)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    before = swaps = two_models.get("/onecard/status").json()["swaps"]
    while swaps - before < SWAPS and time.monotonic() - began < SWAPS * START_S:
        time.sleep(1)
        swaps = two_models.get("/onecard/status").json()["swaps"]
    done.set()
    for thread in threads:
        thread.join()
    keep(
        "swaps",
        {
            "date": time.strftime("%Y-%m-%d"),
            "swaps": swaps - before,
            "seconds": round(time.monotonic() - began),
            "answered": answered,
            "lost_or_wrong": len(wrong),
            "longest_wait_s": round(max(waited), 1),
        },
    )
    assert wrong == []
    assert swaps - before >= SWAPS
    assert min(answered.values()) > 0
