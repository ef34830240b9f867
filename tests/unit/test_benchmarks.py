"""The benchmarks' parts: what is sent, who is started how, and what is made of the generator's record."""

import dataclasses
import io
import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import contenders, cores, generator, guard_cost, pictures, watch
from benchmarks.contenders import Contender, Setting
from benchmarks.load import Answer, Load, medians, percentile
from benchmarks.questions import where
from benchmarks.questions.goodput import highest_rate
from benchmarks.servers import DiedError, Server
from benchmarks.target import NotServedError, Scope, Target, ToServer, ToTransformers
from benchmarks.worker import Worker, WorkerError, last_error
from benchmarks.workload import LONG, PHOTO, SEVERAL, TEXT, Workload
from serving.ipc.launch import ENVIRONMENT_KEY
from serving.prepare import prepare

SMALL = Workload("small", pictures=1, width=64, height=48)


@pytest.fixture(scope="module")
def setting() -> Setting:
    """The demo model on the CPU, with half a GiB for everybody."""
    prepared = prepare("cpu", None)
    return Setting(prepared, prepared.resolved.download(), 512 << 20, ("--max-num-batched-tokens", "2048"))


def test_pictures_are_jpegs_of_their_size_and_never_the_same() -> None:
    drawn = [pictures.jpeg(number, 96, 64) for number in range(200)]
    assert len(set(drawn)) == 200
    with Image.open(io.BytesIO(drawn[0])) as image:
        assert (image.format, image.size) == ("JPEG", (96, 64))
    assert pictures.jpeg(7, 96, 64) == drawn[7]


def test_a_photograph_weighs_what_a_photograph_does() -> None:
    assert 60_000 < len(pictures.jpeg(0, PHOTO.width, PHOTO.height)) < 250_000


def test_requests_of_other_numbers_have_other_pictures_and_the_same_ones_another_question() -> None:
    first, second, again = SMALL.requests(0, 3), SMALL.requests(3, 3), SMALL.requests(0, 3, question=1)
    urls = [[content[0]["image_url"]["url"] for content in requests] for requests in (first, second, again)]
    assert not set(urls[0]) & set(urls[1])
    assert urls[0] == urls[2]
    assert first[0][-1]["text"] != again[0][-1]["text"]


def test_a_request_has_as_many_pictures_as_its_workload_says() -> None:
    small = dataclasses.replace(SEVERAL, width=32, height=32)
    assert [[part["type"] for part in content] for content in small.requests(0, 2)] == [
        ["image_url"] * 4 + ["text"]
    ] * 2
    texts = [content[0]["text"] for content in TEXT.requests(0, 2)]
    assert len(set(texts)) == 2
    assert texts[0].partition(" ")[2][:8] != texts[1][:8]


def test_the_lines_are_what_the_generator_reads(tmp_path: Path) -> None:
    SMALL.write(tmp_path / "requests.jsonl", 0, 2)
    lines = (tmp_path / "requests.jsonl").read_text("utf-8").splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"content"}] * 2


def test_the_generator_is_told_the_load() -> None:
    closed = generator.arguments("http://host:11434/v1", "qwen", Path("r.jsonl"), count=64, tokens=128, clients=16)
    assert {"--ignore-eos", "--skip-tokenizer-init", "--disable-shuffle"} <= set(closed)
    assert " ".join(closed).startswith(
        "--backend openai-chat --base-url http://host:11434 --endpoint /v1/chat/completions"
    )
    assert closed[closed.index("--max-concurrency") + 1] == "16"
    assert "--request-rate" not in closed
    arriving = generator.arguments("http://host/v1", "qwen", Path("r.jsonl"), count=64, tokens=128, per_s=2.5)
    assert arriving[arriving.index("--request-rate") + 1] == "2.5"
    assert "--max-concurrency" not in arriving


RECORD: dict[str, Any] = {
    "duration": 2.0,
    "ttfts": [0.1, 0.3, 0.0],
    "itls": [[0.01] * 10, [0.01] * 9 + [0.5], []],
    "output_lens": [11, 11, 0],
    "input_lens": [784, 784, 784],
    "errors": ["", "", "Traceback ...\nToo Many Requests"],
}


def test_figures_count_what_was_answered_and_what_was_not() -> None:
    load = generator.load_of(RECORD, pictures_each=4)
    figures = load.figures()
    assert (figures["requests"], figures["failed"], figures["images_per_s"], figures["tokens_per_s"]) == (2, 1, 4, 11)
    assert (figures["first_token_ms"], figures["prompt_tokens"]) == (200, 784)
    assert load.errors == ["Too Many Requests"]
    assert load.stalls()["stall_ms"] == 490
    assert load.share_within(0.2, 0.05) == pytest.approx(1 / 3)
    assert load.share_within(0.5, 0.1) == pytest.approx(2 / 3)


def test_a_load_without_answers_says_why() -> None:
    with pytest.raises(ValueError, match="none of 2 requests was answered: Unauthorized"):
        Load(1.0, 1, [], 2, ["Unauthorized"]).figures()


def test_an_answer_in_one_piece_has_no_time_per_token() -> None:
    assert "per_token_ms" not in Load(1.0, 1, [Answer(1.0, 1.0, 128, 784)]).figures()


def test_percentiles_and_medians() -> None:
    assert percentile(range(1, 101), 99) == 99
    assert percentile([5.0], 99) == 5.0
    assert medians([{"a": 1, "b": 2}, {"a": 3}, {"a": 9}]) == {"a": 3, "b": 2}


@given(st.floats(0.3, 500), st.floats(0.3, 500))
def test_the_highest_rate_is_found_from_wherever_the_search_begins(limit: float, start: float) -> None:
    found = highest_rate(lambda rate: rate <= limit, start, 0.01, bisections=4)
    assert limit * (1 - 2**-4) <= found <= limit


def test_a_server_that_keeps_no_rate_has_no_goodput() -> None:
    assert highest_rate(lambda _rate: False, 4.0, 0.25, 4) == 0.0


def test_server_and_generator_never_share_a_core() -> None:
    assert cores.parse("server=6,generator=2") == {"server": 6, "generator": 2}
    assert cores.divide(range(16), None, None) == cores.Cores()
    for count, server in ((16, 6), (16, None), (2, 1), (7, 6)):
        held = cores.divide(range(count), server, None, hold=True)
        assert held.server
        assert held.generator
        assert not set(held.server) & set(held.generator)
        assert server in (None, len(held.server))
    assert cores.share(range(8), 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cores.held_to([0, 3]) == ["taskset", "-c", "0,3"]


@pytest.mark.parametrize(
    "call", [lambda: cores.parse("6"), lambda: cores.divide(range(4), 4, None), lambda: cores.share([0], 2)]
)
def test_cores_that_are_not_to_be_had_are_refused(call: Any) -> None:
    with pytest.raises(ValueError, match="core"):
        call()


SERVERS = ("original", "vllm", "onecard")


def test_every_server_gets_the_same_kv_cache_and_shared_arguments(setting: Setting) -> None:
    for name in SERVERS:
        line = " ".join(contenders.command(contenders.parse(name, setting), setting, 8390, Path("launch.json")))
        assert "--kv-cache-memory-bytes 536870912" in line
        assert "--max-num-batched-tokens 2048" in line
        assert "--port 8390" in line
    launch = contenders.launch_of(contenders.parse("engine", setting), setting, 8390, Path("run"))
    assert launch.plan.engine_args["kv_cache_memory_bytes"] == 512 << 20
    assert launch.user_argv == setting.shared_argv


def test_the_original_recipe_is_the_originals(setting: Setting) -> None:
    original = contenders.parse("original", setting)
    line = " ".join(contenders.command(original, setting, 8390, Path("launch.json")))
    assert "--enforce-eager --max-num-seqs 16 --max-model-len 4096" in line
    assert "--quantization" not in line  # the demo model is not AWQ's
    awq = dataclasses.replace(
        setting, shared_argv=("--hf-overrides", '{"quantization_config": {"quant_method": "awq", "bits": 4}}')
    )
    assert "--quantization awq" in " ".join(contenders.command(original, awq, 8390, Path("launch.json")))


def test_onecard_is_started_as_a_user_starts_it(setting: Setting) -> None:
    line = contenders.command(contenders.parse("onecard", setting), setting, 8390, Path("launch.json"))
    assert line[:5] == [sys.executable, "-m", "serving", "serve", "--profile"]


def test_only_the_one_with_the_connector_has_it(setting: Setting) -> None:
    def environment(name: str, caches: Path | None = None) -> dict[str, str]:
        contender = contenders.parse(name, setting)
        return contenders.environment(
            contender, gpu="3", launch_file=Path("launch.json"), state_dir=Path("state"), caches=caches
        )

    assert environment("engine+connector")["VLLM_MEDIA_CONNECTOR"] == "onecard"
    assert "VLLM_MEDIA_CONNECTOR" not in environment("engine")
    assert environment("vllm")["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment("onecard", Path("empty"))["TRITON_CACHE_DIR"] == "empty/triton"


def test_a_contender_can_be_held_to_cores_and_must_exist(setting: Setting) -> None:
    six = contenders.parse("onecard@6", setting)
    assert (six.kind, six.cores, six.title) == ("onecard", 6, "onecard, 6 cores")
    four = contenders.with_cores([six, contenders.parse("vllm", setting)], 4)
    assert [each.cores for each in four] == [6, 4]
    with pytest.raises(ValueError, match="there is no contender 'ollama'; there are"):
        contenders.parse("ollama", setting)


def test_a_variant_differs_in_what_it_says_and_in_nothing_else(setting: Setting) -> None:
    words = 'fast=PYTORCH_ALLOC_CONF=expandable_segments:True --compilation-config {"mode":0} --max-num-seqs 7'
    varied = dataclasses.replace(setting, variants=(contenders.variant(words),))
    plain, fast = (contenders.parse(name, varied) for name in ("onecard", "onecard:fast@2"))
    assert (fast.title, fast.in_flight, fast.cores) == ("onecard, fast, 2 cores", 7, 2)
    lines = [contenders.command(each, varied, 8390, Path("launch.json")) for each in (plain, fast)]
    assert lines[1] == [*lines[0], "--compilation-config", '{"mode":0}', "--max-num-seqs", "7"]
    assert contenders.launch_of(fast, varied, 8390, Path("run")).user_argv[-2:] == ("--max-num-seqs", "7")

    def environment(contender: contenders.Contender) -> dict[str, str]:
        files = {"launch_file": Path("launch.json"), "state_dir": Path("state")}
        return contenders.environment(contender, gpu=None, caches=None, **files)

    assert environment(fast) == environment(plain) | {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


def test_a_variant_may_serve_another_model(setting: Setting) -> None:
    varied = dataclasses.replace(
        setting, variants=(contenders.variant("fp8=A=1 --model some/folder --max-num-seqs 7"),)
    )
    line = contenders.command(contenders.parse("onecard:fp8", varied), varied, 8390, Path("launch.json"))
    assert line[line.index("--model") + 1] == "some/folder"
    assert line.count("--model") == 1
    with pytest.raises(ValueError, match="only onecard plans"):
        contenders.parse("vllm:fp8", varied)
    with pytest.raises(ValueError, match="names no model"):
        contenders.variant("fp8=--model")


@pytest.mark.parametrize("name", ["onecard:slow", "onecard:", "transformers:fast", "ollama:fast"])
def test_a_variant_that_nobody_described_is_refused(setting: Setting, name: str) -> None:
    varied = dataclasses.replace(setting, variants=(contenders.variant("fast=--stream-interval 4"),))
    with pytest.raises(ValueError, match="there is no"):
        contenders.parse(name, varied)
    with pytest.raises(ValueError, match="is no variant"):
        contenders.variant("--stream-interval 4")


class Recording:
    """Notes what is sent and answers as a server does that needs half a second."""

    server_pid: int | None = None

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.fails = False

    def send(self, workload: Workload, **asked: Any) -> Load:
        if self.fails:
            raise WorkerError
        self.sent.append({"workload": workload, **asked})
        return Load(asked["count"] / 2, workload.pictures, [Answer(0.1, 0.5, 8, 100, (0.1,) * 4)] * asked["count"])


def target(kind: str = "onecard", in_flight: int = 32) -> tuple[Target, Recording]:
    recording = Recording()
    return Target(Contender(kind, kind, in_flight), Scope(), recording, lambda _text: None), recording


def test_no_picture_is_sent_twice_unless_it_is_asked_for() -> None:
    asked, recording = target()
    asked.closed_loop(PHOTO, 64)
    asked.closed_loop(PHOTO, 16)
    asked.again(PHOTO, 64)
    first, second, repeated = recording.sent
    assert second["first"] == first["first"] + first["count"]
    assert (repeated["first"], repeated["count"]) == (first["first"], first["count"])
    assert repeated["question"] != first["question"]


@pytest.mark.parametrize(("in_flight", "requests"), [(16, 64), (32, 128), (1 << 30, 256)])
def test_every_contender_gets_as_many_waves(in_flight: int, requests: int) -> None:
    asked, recording = target(in_flight=in_flight)
    asked.closed_loop(PHOTO, 64)
    assert recording.sent[0]["count"] == requests


def test_one_client_asks_for_as_long_as_the_time_allows_after_a_pilot() -> None:
    asked, recording = target()
    asked.closed_loop(LONG, 1)
    asked.closed_loop(LONG, 1)
    assert [each["count"] for each in recording.sent] == [1, 12, 12]


def test_a_pilot_that_failed_is_sent_again() -> None:
    asked, recording = target()
    recording.fails = True
    with pytest.raises(WorkerError):
        asked.closed_loop(LONG, 1)
    recording.fails = False
    asked.closed_loop(LONG, 1)
    assert [each["count"] for each in recording.sent] == [1, 12]


def test_what_was_answered_before_the_server_died_is_no_measurement(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:

        class Killing:
            def send(self, *_: Any, **__: Any) -> Load:
                process.kill()
                process.wait()
                return Load(1.0, 1, [Answer(0.1, 0.5, 8, 100)] * 40, failed=24)

        server = Server(Contender("vllm", "vllm"), [], "", process, tmp_path / "log", 0.0, threading.Event())
        asked = Target(server.contender, Scope(), ToServer(Killing(), "", "", server), lambda _text: None)  # type: ignore[arg-type]
        with pytest.raises(DiedError, match="exit code -9"):
            asked.closed_loop(PHOTO, 64)


def test_transformers_serves_one_client_only() -> None:
    asked, _ = target("transformers", 1)
    with pytest.raises(NotServedError):
        asked.closed_loop(PHOTO, 4)
    with pytest.raises(NotServedError):
        asked.arrivals(PHOTO, 1.0, 10)


CHILD = """
import sys
from benchmarks import worker
def do(task):
    print("noise")
    if task == "die":
        sys.stderr.write("ValueError: of its own\\n")
        import os; os._exit(3)
    return {"rows": 1 / task}
def prepare():
    print("noise while importing")
    return do
worker.serve(prepare)
"""


def test_a_worker_answers_says_its_errors_and_names_what_it_died_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.py").write_text(CHILD, "utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    child = Worker("child", log=tmp_path / "child.log", cores=cores.available()[:1])
    try:
        assert child.ask(4) == {"rows": 0.25}
        with pytest.raises(WorkerError, match="ZeroDivisionError"):
            child.ask(0)
        assert child.ask(2) == {"rows": 0.5}
        with pytest.raises(WorkerError, match="ValueError: of its own"):
            child.ask("die")
    finally:
        child.stop()
    assert "noise while importing\nnoise\n" in (tmp_path / "child.log").read_text("utf-8")


def test_a_log_is_quoted_by_its_first_error(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert "it said nothing" in last_error(log)
    log.write_text("INFO fine\ntorch.OutOfMemoryError: CUDA out of memory\nRuntimeError: Engine core failed\n", "utf-8")
    assert last_error(log).startswith("torch.OutOfMemoryError: CUDA out of memory")


def test_transformers_first_token_is_as_late_as_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "child.py").write_text(
        "from benchmarks import worker\n"
        "worker.serve(lambda: lambda task: [{'seconds': 2.0, 'tokens': task['tokens'], 'prompt_tokens': 90}] * 3)\n",
        "utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    child = Worker("child", log=tmp_path / "child.log")
    try:
        load = ToTransformers(child).send(SMALL, first=0, count=3, tokens=16, clients=1, per_s=math.inf, question=0)
    finally:
        child.stop()
    figures = load.figures()
    assert (figures["first_token_ms"], figures["total_ms"], figures["images_per_s"]) == (2000, 2000, 0.5)


def test_what_the_guard_costs_is_measured_of_requests_that_it_lets_through(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard_cost, "_ROUNDS", 1)
    monkeypatch.setattr(guard_cost, "_REQUESTS", 2)
    monkeypatch.setenv(ENVIRONMENT_KEY, "")
    monkeypatch.setattr("sys.argv", ["guard_cost"])
    guard_cost.main()
    assert capsys.readouterr().out.count("µs") == 2


def test_how_busy_a_gpu_was_counts_the_load_and_not_the_drawing_before_it() -> None:
    seen = watch.Watch()
    assert seen.gpu_busy(1.0) is None
    seen.gpu = [(float(second), 0.0) for second in range(10)] + [(10.0, 0.5), (11.0, 1.0), (12.0, 0.9)]
    assert seen.gpu_busy(2.0) == pytest.approx(0.8)
    assert Load(1.0, 1, [Answer(0.1, 0.5, 8, 100)], gpu_busy=seen.gpu_busy(2.0)).figures()["gpu_busy"] == 0.8
    assert "gpu_busy" not in Load(1.0, 1, [Answer(0.1, 0.5, 8, 100)]).figures()


def test_only_a_gpu_of_this_machine_is_watched() -> None:
    assert watch.index_of("3") == 3
    assert watch.index_behind("http://elsewhere:8000/v1") is None
    with watch.watching(None, None) as seen:
        pass
    assert (seen.gpu_busy(1.0), seen.api_cpu_s(1.0)) == (None, None)


@pytest.mark.parametrize(("title", "counted"), [("python", True), ("VLLM::EngineCore", False)])
def test_the_apis_cpu_is_that_of_its_processes_and_not_of_the_engine(title: str, counted: bool) -> None:
    busy = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
    start = f"import subprocess, sys; subprocess.Popen([sys.argv[1], '-c', {busy!r}], executable=sys.executable).wait()"
    with subprocess.Popen([sys.executable, "-c", start, title]) as server:
        try:
            while not (below := psutil.Process(server.pid).children()) or not sum(below[0].cpu_times()[:2]):
                time.sleep(0.05)
            with watch.watching(None, server.pid) as seen:
                before = sum(below[0].cpu_times()[:2])
                while sum(below[0].cpu_times()[:2]) < before + 0.3:
                    time.sleep(0.05)
        finally:
            server.kill()
    spent = seen.api_cpu_s(math.inf)
    assert spent is not None
    assert (spent > 0) == counted


STACKS = """\
thread (1): MainThread;run (a.py:1);step (a.py:2);schedule (s.py:1) 30
thread (1): MainThread;run (a.py:1);step (a.py:2);execute (e.py:1) 50
thread (7): picture_0;_worker (concurrent/futures/thread.py:69) 90
thread (7): picture_0;_worker (concurrent/futures/thread.py:69);decode (d.py:1) 60
thread (8): picture_1;_worker (concurrent/futures/thread.py:69);decode (d.py:1) 60
thread (9): Thread-1 (sockets);Poller.poll (zmq/sugar/poll.py:80) 70
"""


def test_where_the_time_goes_is_told_by_thread_and_function_and_sleep_is_none_of_it() -> None:
    assert where.shares(STACKS, 100) == {
        "MainThread": 0.8,
        "MainThread · step (a.py:2)": 0.8,
        "MainThread · execute (e.py:1)": 0.5,
        "MainThread · schedule (s.py:1)": 0.3,
        "picture": 1.2,
        "picture · decode (d.py:1)": 1.2,
    }


def test_where_needs_a_server_of_this_machine_and_py_spy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked:
        server_pid: int | None = None

    case, *_ = where.cases(Scope())
    with pytest.raises(NotServedError):
        case.measure(Asked())  # type: ignore[arg-type]
    monkeypatch.setattr(where, "py_spy", lambda: None)
    monkeypatch.setattr(Asked, "server_pid", 1)
    with pytest.raises(ValueError, match="pip install py-spy"):
        case.measure(Asked())  # type: ignore[arg-type]


BUSY = """
import threading

def working():
    while True:
        pass

working()
"""


@pytest.mark.skipif(where.py_spy() is None, reason="py-spy is not installed")
def test_py_spy_sees_what_a_server_does_while_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, "_SECONDS", 1)
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:

        class Asked:
            scope = Scope(clients=(2,))
            server_pid = process.pid

            def closed_loop(self, _workload: Workload, _clients: int, count: int = 2) -> Load:
                time.sleep(0.1 if count == 2 else 5)
                return Load(0.1, 1, [Answer(0.1, 0.1, 1, 1)] * count)

        try:
            engine, api, *_ = where.cases(Asked.scope)
            figures = api.measure(Asked())  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="no engine process"):
                engine.measure(Asked())  # type: ignore[arg-type]
        finally:
            process.kill()
    assert figures["MainThread"] > 0.5
    assert any("working" in name for name in figures)
