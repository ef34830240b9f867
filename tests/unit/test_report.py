"""`onecard report`: what it tells of a server, and what it keeps to itself."""

import json
from pathlib import Path

import pytest

from serving.launch import Launch
from serving.prepare import prepare
from serving.progress import keep_typical
from serving.report import make_report
from serving.state_dir import make_run_dir
from serving.status import status_body
from tests.conftest import free_port
from tests.listening import listening
from tests.unit.test_running import waiting_room


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Of a server with everything that is nobody else's business."""
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("ONECARD_API_KEY", "hush-hush")
    argv = ("--chat-template", "/home/alice/secret plans.jinja", "--revision=~alice/thesis")
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
    for own in ("alice", "plans", "hush", "192.168", "http:", str(Path.home()) + "/", str(launch.run_dir)):
        assert own not in written, own
    # What only looks like it stays: words with a slash, and numbers with dots.
    source = launch.plan.expected.source
    assert source in written


def test_a_running_server_tells_what_it_is_at(launch: Launch) -> None:
    with listening(waiting_room(launch, key="somebody:hush-hush")) as port:
        report = make_report("cpu", port)
    told = status_body(launch, state="starting", step="weights")
    assert (report["server"]["state"], report["server"]["step"]) == (told["state"], told["step"])
    assert report["plan"]["memory_mib"] == told["plan"]["memory_mib"]
    assert "url" not in report["server"]
