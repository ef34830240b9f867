"""`onecard report`: what it tells of a server, and what it keeps to itself."""

import json
from pathlib import Path

import pytest

from serving.doctor import Check
from serving.ipc.launch import Launch
from serving.ipc.status import status_body
from serving.machine.port import free_port
from serving.machine.progress import keep_typical
from serving.machine.state_dir import make_run_dir
from serving.prepare import prepare
from serving.report import make_report
from tests.listening import listening
from tests.unit.test_running import waiting_room


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Of a server with everything that is nobody else's business."""
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("ONECARD_API_KEY", "hush-hush")
    argv = ("--chat-template", "/home/alice/secret plans.jinja", "--revision=~alice/thesis")
    argv += ("--otlp-traces-endpoint", "collector.hooli.lan:4317")
    port = free_port()
    made = Launch(
        plan=prepare("cpu", "demo", gpu_memory_mib=8192, user_argv=argv).plan,
        model_folder=tmp_path / "model of alice",
        default_max_tokens=256,
        host="192.168.7.7",
        port=port,
        run_dir=make_run_dir(port),
        user_argv=argv,
    )
    made.write()
    keep_typical(made.run_dir, f"{made.plan.profile} {made.model_folder}", {"weights": 12.5})
    return made


def test_a_server_that_runs_no_more_is_told_of_by_its_last_start(launch: Launch) -> None:
    report = make_report("cpu", launch.port)
    assert report["plan"]["memory_mib"]["total"] == launch.plan.memory_mib.total
    assert report["plan"]["engine_args"]["max_num_seqs"] == launch.plan.engine_args["max_num_seqs"]
    assert report["timings_s"] == {"weights": 12.5}
    assert (report["server"]["state"], "No onecard answers" in report["server"]["why"]) == (None, True)
    assert {"python", "torch"} <= report["versions"].keys()
    assert {"gpus", "ram_mib", "driver_version"} <= report["machine"].keys()
    assert {check["name"] for check in report["checks"]} >= {"python", "vllm", "disk"}


def test_nothing_in_it_is_somebodys_own(launch: Launch) -> None:
    written = json.dumps(make_report("cpu", launch.port), ensure_ascii=False)
    for own in ("alice", "plans", "hush", "192.168", "hooli", "http:", str(Path.home()) + "/", str(launch.run_dir)):
        assert own not in written, own
    # What only looks like it stays: words with a slash, and numbers with dots.
    source = launch.plan.expected.source
    assert source in written


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("collector:4317", "<address>"),
        ("no route to 10.1.2.3:29500", "no route to <address>"),
        ("HTTP://hooli/x", "<address>"),
        ("[core.py:1234] CUDA 13.0, driver 580.65.06", "[core.py:1234] CUDA 13.0, driver 580.65.06"),
        ("port 8000 is free", "port 8000 is free"),
    ],
)
def test_addresses_are_told_from_what_looks_like_them(
    said: str, told: str, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.report.run_checks", lambda *_: [Check("odd", "note", said)])
    (check,) = make_report("cpu", launch.port)["checks"]
    assert check["found"] == told


def test_a_running_server_tells_what_it_is_at(launch: Launch) -> None:
    with listening(waiting_room(launch, key="somebody:hush-hush")) as port:
        report = make_report("cpu", port)
    told = status_body(launch, state="starting", step="weights")
    assert (report["server"]["state"], report["server"]["step"]) == (told["state"], told["step"])
    assert report["plan"]["memory_mib"] == told["plan"]["memory_mib"]
    assert "url" not in report["server"]
