"""onecard on Ray Serve, as far as no Ray is needed: its settings, what is refused before a start, what a replica starts."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.ray.cluster import check_exposure, check_room, connect, head_answers, watch_head
from deploy.ray.replica import command, headers_back, headers_on, tied
from deploy.ray.settings import Settings, read_settings
from serving.errors import ConfigError, HardwareError, NotInstalledError, NotRunningError, UsageError
from serving.machine.port import free_port

DEPLOY = Path(__file__).parent.parent.parent / "deploy" / "ray"
WITHOUT_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed here")


def test_the_shipped_application_is_one() -> None:
    config = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
    (application,) = config["applications"]
    assert read_settings(application["args"]).max_replicas == 2
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_a_setting_that_is_none_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"`max_replcas`.*max_replicas"):
        read_settings({"max_replcas": 2})
    with pytest.raises(ConfigError, match=r"`min_replicas`.*greater than or equal to 1.*it is 0"):
        read_settings({"min_replicas": 0})
    with pytest.raises(UsageError, match=r"max_replicas \(1\) is less than min_replicas \(2\)"):
        read_settings({"min_replicas": 2, "max_replicas": 1})


def test_more_replicas_than_gpus_are_refused() -> None:
    two_cards = {"GPU": 2.0, "CPU": 32.0}
    check_room(Settings(min_replicas=1, max_replicas=2), two_cards)
    with pytest.raises(HardwareError, match=r"3 replicas of 1 GPU need 3, and the cluster has 2: it carries 2"):
        check_room(Settings(min_replicas=1, max_replicas=3), two_cards)
    check_room(Settings(min_replicas=1, max_replicas=3), two_cards, grows=True)
    with pytest.raises(HardwareError, match="3 replicas of 1 GPU"):
        check_room(Settings(min_replicas=3, max_replicas=4), two_cards, grows=True)
    with pytest.raises(HardwareError, match=r"the cluster has 0.*profile `cpu`"):
        check_room(Settings(), {"CPU": 8.0})
    check_room(Settings(gpus=0, max_replicas=8), {"CPU": 8.0})


@WITHOUT_RAY
def test_without_ray_the_way_to_it_is_named() -> None:
    with pytest.raises(NotInstalledError, match=r"pip install 'onecard\[gpu,ray\]'"):
        connect(None)
    words = [sys.executable, "-m", "deploy.ray", "--profile", "cpu"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (NotInstalledError.exit_code, "")
    assert done.stderr.startswith("onecard: Ray Serve is not installed")


def test_an_address_without_a_head_is_told() -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        head_answers("head-of-the-cluster")
    assert not head_answers(f"127.0.0.1:{free_port()}")


def test_a_head_that_is_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.ray.cluster._LOOK_EVERY_S", 0.01)
    with pytest.raises(NotRunningError, match="lost its head"):
        watch_head(f"127.0.0.1:{free_port()}")


def test_what_a_replica_starts_runs_and_ends_with_it() -> None:
    assert subprocess.run(tied(["/bin/echo", "served"]), capture_output=True, check=True).stdout == b"served\n"
    replica = "import subprocess; from deploy.ray.replica import tied; subprocess.Popen(tied(['/bin/sleep', '600']))"
    # The pipe's other end is inherited: it is closed when what the replica has started has ended too.
    subprocess.run([sys.executable, "-c", replica], capture_output=True, check=True, timeout=60)


def test_an_endpoint_for_others_needs_a_key(tmp_path: Path) -> None:
    check_exposure("127.0.0.1", None)
    with pytest.raises(UsageError, match="no API key"):
        check_exposure("0.0.0.0", None)
    keys = tmp_path / "keys"
    keys.write_text("alice:a-long-random-word\n")
    check_exposure("0.0.0.0", keys)


def test_a_replica_starts_what_onecard_serve_would() -> None:
    settings = Settings(profile="rtx3060", model="qwen3-vl-4b-awq", vllm_arguments=("--max-model-len", "4096"))
    words = command(settings, 4711)
    assert words[3:] == ["serve", "--profile", "rtx3060", "--port", "4711", "--model", "qwen3-vl-4b-awq",
                         "--drain-seconds", "60", "--", "--max-model-len", "4096"]  # fmt: skip
    assert command(Settings(command=("run", "{port}")), 4711) == ["run", "4711"]


def test_of_a_request_what_concerns_the_door_stays_there() -> None:
    given = [
        ("host", "onecard.example"),
        ("origin", "https://a.example"),
        ("authorization", "Bearer x"),
        ("accept", "*/*"),
    ]
    assert headers_on(given) == given[2:]
    assert headers_back([("server", "uvicorn"), ("retry-after", "5")]) == [("retry-after", "5")]
