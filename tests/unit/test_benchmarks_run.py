"""A whole run: the real generator against a server that speaks the protocol, and contenders that never come up."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks import __main__ as command
from benchmarks import plot, roofline, speed
from benchmarks.figures import TABLES
from benchmarks.results import Facts, Row, Run, table
from tests.listening import listening

QUICK = ("--tokens", "4", "--repetitions", "2", "--seconds", "0.1", "--waves", "1", "--clients", "1,3")


class OpenAIServer:
    """Streams as many tokens as are asked for, and keeps the pictures and questions that came. With `refuse_every`, each so
    many-th request is refused."""

    def __init__(self, *, refuse_every: int = 0) -> None:
        self.refuse_every = refuse_every
        self.came = 0
        self.asked: list[tuple[str, str]] = []
        self.app = Starlette(
            routes=[
                Route("/v1/models", lambda _: JSONResponse({"data": [{"id": "stand-in"}]})),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.came += 1
        if self.refuse_every and self.came % self.refuse_every == 0:
            return JSONResponse({"error": {"message": "busy"}}, 429)
        picture, text = body["messages"][0]["content"]
        self.asked.append((picture["image_url"]["url"], text["text"]))
        return StreamingResponse(self.answer(body["max_completion_tokens"]), media_type="text/event-stream")

    async def answer(self, tokens: int) -> AsyncIterator[str]:
        for _ in range(tokens):
            yield event({"choices": [{"index": 0, "delta": {"content": "x"}}]})
            await asyncio.sleep(0.005)
        yield event({"choices": [], "usage": {"prompt_tokens": 90, "completion_tokens": tokens}})
        yield "data: [DONE]\n\n"


def event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


@pytest.fixture
def server() -> Iterator[tuple[OpenAIServer, str]]:
    stand_in = OpenAIServer()
    with listening(stand_in.app) as port:
        yield stand_in, f"http://127.0.0.1:{port}/v1"


def test_any_openai_server_can_be_measured(
    server: tuple[OpenAIServer, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in, url = server
    options = ["--url", url, "--name", "Stand-in", "--out", str(tmp_path), *QUICK]
    assert command.main(["latency", "throughput", *options]) == 0
    run = Run.model_validate_json((tmp_path / "speed-stand-in.json").read_text("utf-8"))
    assert [(row.question, row.case, len(row.repetitions), row.failed) for row in run.rows] == [
        ("latency", "1 client", 2, None),
        ("throughput", "1 client", 2, None),
        ("throughput", "3 clients", 2, None),
        ("throughput", "3 clients, the same pictures again", 2, None),
    ]
    assert all(row.medians["answer_tokens"] == 4 and row.medians["failed"] == 0 for row in run.rows)
    assert all(row.medians["prompt_tokens"] == 90 for row in run.rows)
    # Only the row that says so repeats pictures, and it asks something else about them.
    first_questions = dict(reversed(stand_in.asked))
    repeated = [(picture, text) for picture, text in stand_in.asked if text != first_questions[picture]]
    assert len(stand_in.asked) - len(first_questions) == len(repeated) == 2 * 3
    out = capsys.readouterr().out
    assert "| 3 clients | Stand-in |" in out
    assert (tmp_path / "speed-stand-in.svg").read_text("utf-8").startswith("<?xml")


def test_a_server_that_refuses_everything_is_a_row_that_says_so(tmp_path: Path) -> None:
    with listening(OpenAIServer(refuse_every=1).app) as port:
        url = f"http://127.0.0.1:{port}/v1"
        assert command.main(["latency", "--url", url, "--label", "busy", "--out", str(tmp_path), *QUICK]) == 0
    run = Run.model_validate_json((tmp_path / "speed-busy.json").read_text("utf-8"))
    assert "requests was answered: Too Many Requests" in str(run.rows[0].failed)
    assert run.rows[0].medians == {}
    assert (run.model, run.settings["tokens"]) == ("stand-in", 4)


def test_requests_that_failed_are_told_beside_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever refuses some answers the others the sooner; and the median of what failed in three repetitions may be none."""
    with listening(OpenAIServer(refuse_every=12).app) as port:
        url = f"http://127.0.0.1:{port}/v1"
        options = ["--url", url, "--name", "S", "--out", str(tmp_path), *QUICK, "--clients", "3", "--repetitions", "5"]
        assert command.main(["throughput", *options]) == 0
    run = Run.model_validate_json((tmp_path / "speed-s.json").read_text("utf-8"))
    row = run.row("throughput", "3 clients", "S")
    assert row is not None
    assert (row.medians["failed"], row.requests_failed) == (0, 1)
    assert "| failed requests: 1 |" in capsys.readouterr().out
    assert "| S (failed requests: 1) |" in TABLES["speed"]("en", tmp_path)


def test_no_server_there_is_told_and_so_is_a_question_that_there_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["latency", "--url", "http://127.0.0.1:9/v1", "--out", str(tmp_path)])
    assert "http://127.0.0.1:9/v1/models names no model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["speed"])
    assert "there is no question 'speed'; there are burst, latency" in capsys.readouterr().err


def test_contenders_that_do_not_start_are_rows_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of keys without one is refused before vLLM is imported, which takes half a minute for the two."""
    (tmp_path / "keys").touch()
    monkeypatch.setenv("ONECARD_API_KEYS_FILE", str(tmp_path / "keys"))
    assert command.main(["latency", "--contenders", "onecard,onecard@1", "--out", str(tmp_path), *QUICK]) == 0
    run = Run.model_validate_json((tmp_path / "speed-cpu.json").read_text("utf-8"))
    failed = {name: str(facts.failed) for name, facts in run.contenders.items()}
    assert list(failed) == ["onecard", "onecard@1"]
    assert all("did not start" in reason and "holds no key" in reason for reason in failed.values())
    assert run.rows == []
    assert not {str(Path.cwd()), str(tmp_path), tempfile.gettempdir()} & set(_paths(run.model_dump_json()))


@pytest.mark.long
def test_an_argument_that_no_vllm_takes_is_told_in_the_words_of_each(tmp_path: Path) -> None:
    # No vLLM takes this argument: both end, one by vLLM's own word and one by onecard's.
    arguments = ["latency", "--contenders", "original,onecard", "--out", str(tmp_path), *QUICK, "--", "--no-such-thing"]
    assert command.main(arguments) == 0
    run = Run.model_validate_json((tmp_path / "speed-cpu.json").read_text("utf-8"))
    failed = {name: str(facts.failed) for name, facts in run.contenders.items()}
    assert "no-such-thing" in failed["original"]
    assert "vLLM has no argument --no-such-thing" in failed["onecard"]
    assert run.rows == []
    assert not {str(Path.cwd()), str(tmp_path), tempfile.gettempdir()} & set(_paths(run.model_dump_json()))


def _paths(text: str) -> Iterator[str]:
    """Each absolute path in a text, and each folder above it."""
    for path in re.findall(r"(?<![\w/.])/[\w./-]+", text):
        yield from map(str, (Path(path), *Path(path).parents))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """`timeout` ends a run by SIGTERM; a server lives in a process group of its own and must not outlive it."""
    run = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "latency", "--contenders", "original", "--out", str(tmp_path)],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
    )

    def started() -> list[psutil.Process]:
        found = psutil.process_iter(["cmdline", "environ"])
        return [each for each in found if (each.info["environ"] or {}).get("TMPDIR") == str(tmp_path)]

    def serves(process: psutil.Process) -> bool:
        words = process.info["cmdline"]
        return words[0] == sys.executable and "vllm.entrypoints.openai.api_server" in words

    try:
        while not any(map(serves, started())) and run.poll() is None:
            time.sleep(0.1)
        assert len(started()) == 3  # the run, its generator and the server
        run.send_signal(number)
        assert run.wait(60) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    finally:
        run.kill()
        run.wait()
    ends = time.monotonic() + 60
    while (left := started()) and time.monotonic() < ends:
        time.sleep(0.1)
    for each in left:
        each.kill()
    assert left == []


def a_run() -> Run:
    figures = {"first_token_ms": 40.0, "per_token_ms": 2.5, "total_ms": 360.0, "images_per_s": 2.7, "gpu_busy": 0.71}
    rows = [("latency", "1 client"), ("throughput", "64 clients"), ("burst", "first burst after ready")]
    return Run(
        date="2026-11-22",
        command="python -m benchmarks",
        versions={"vllm": "0.32.0"},
        machine={"cpu": "some", "cores": "16", "gpu": "NVIDIA H200"},
        model="shape",
        settings={"tokens": 128, "clients": (1, 64)},
        contenders={
            "onecard": Facts(title="onecard"),
            "vllm": Facts(title="vLLM's defaults", failed="did not start: X"),
        },
        rows=[Row(question=question, case=case, contender="onecard", medians=figures) for question, case in rows]
        + [Row(question="burst", case="second burst", contender="onecard", medians={"images_per_s": 3.0})],
    )


def test_the_readmes_table_names_what_was_measured_and_what_did_not_start(tmp_path: Path) -> None:
    assert TABLES["speed"]("en", tmp_path) == "Not measured yet."
    (tmp_path / "speed-h200.json").write_text(a_run().model_dump_json(), "utf-8")
    english, chinese = TABLES["speed"]("en", tmp_path), TABLES["speed"]("zh", tmp_path)
    assert "| onecard | 40 ms | 2.50 ms | 360 ms | 2.7 | 71% | 90% |" in english
    assert "| vLLM's defaults (did not start: X) | – |" in english
    assert "NVIDIA H200" in chinese
    assert "did not start: X" in table(a_run(), [("latency", ("total_ms",))])


def test_the_headline_has_only_what_was_measured_of_both(tmp_path: Path) -> None:
    assert TABLES["headline"]("en", tmp_path) == "Not measured yet."
    run = a_run()
    run.rows.append(Row(question="latency", case="1 client", contender="vllm", medians={"first_token_ms": 80.0}))
    run.rows += [
        Row(question="start", case=case, contender="onecard", medians={"ready_s": ready_s})
        for case, ready_s in (("empty caches", 110.0), ("warm caches", 34.0))
    ]
    (tmp_path / "speed-h200.json").write_text(run.model_dump_json(), "utf-8")
    point = {"card": "rtx3060", "lives": True, "ready_s": 60.0, "answers": {"200": 1127, "429": 3, "429: too many": 3}}
    points = [point | {"contender": "onecard"}, point | {"contender": "vllm", "lives": False}]
    (tmp_path / "survival-x.json").write_text(json.dumps({"points": points}), "utf-8")
    assert TABLES["headline"]("en", tmp_path).splitlines() == [
        "Measured on an NVIDIA H200, vLLM 0.32.0, 2026-11-22:",
        "",
        "|  | onecard | vLLM's defaults |",
        "| --- | --- | --- |",
        "| 12 GB beside a desktop, full load for two minutes | 1,127 answered, 3 lost | dies after 1,127 answers |",
        "| first token, one client | 40 ms | 80 ms |",
        "| ready, the first time; later | 110 s; 34 s | not measured |",
    ]
    del points[1]["ready_s"]
    (tmp_path / "survival-x.json").write_text(json.dumps({"points": points}), "utf-8")
    assert "启动失败" in TABLES["headline"]("zh", tmp_path)


def test_the_plot_shows_what_the_run_has(tmp_path: Path) -> None:
    file = tmp_path / "speed-h200.json"
    file.write_text(a_run().model_dump_json(), "utf-8")
    drawn = plot.plot(file)
    assert drawn is not None
    assert drawn.read_text("utf-8").count('id="axes_') == 3
    file.write_text(a_run().model_copy(update={"rows": []}).model_dump_json(), "utf-8")
    assert plot.plot(file) is None


def test_the_bound_of_decoding_is_bandwidth_over_bytes() -> None:
    """360 GB/s over 1.35 GB of four-bit layers and a 16-bit head; the KV cache of one conversation takes a little more."""
    card = roofline.predict("RTX 3060", 360, 25.5, roofline.Overhead())
    assert card.tokens_per_s < 360e9 / roofline.w4_bytes(roofline.qwen3_vl_2b().text) == pytest.approx(266, abs=1)
    assert card.tokens_per_s > 240


def test_a_prediction_gets_better_with_the_card_and_worse_with_the_overhead() -> None:
    bound = roofline.predictions(roofline.Overhead())
    real = roofline.predictions(roofline.Overhead(host_s=0.03, fixed_s=0.002))
    assert [each.title.split()[-3:-2] for each in bound] == [["3060"], ["Ti"], ["4090"]]
    for best, less in zip(bound, real, strict=True):
        assert less.tokens_per_s < best.tokens_per_s
        assert less.first_token_s == pytest.approx(best.first_token_s + 0.03)
    assert bound[2].images_per_s > 4 * bound[0].images_per_s


def test_the_overhead_is_what_a_measurement_leaves(tmp_path: Path) -> None:
    overhead = roofline.overhead_of(a_run())
    assert overhead is not None
    h200 = roofline.predict("H200", 4800, 989, overhead)
    assert h200.first_token_s == pytest.approx(0.040)
    assert 1 / h200.tokens_per_s == pytest.approx(0.0025)
    assert roofline.overhead_of(a_run().model_copy(update={"machine": {"cpu": "some"}})) is None
    (tmp_path / "speed-h200.json").write_text(a_run().model_dump_json(), "utf-8")
    assert "248" in speed.predicted("en", tmp_path, lambda _heads, rows: "\n".join(map(str, rows)))
