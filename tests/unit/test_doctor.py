"""`onecard doctor`: what it finds on a machine, and how it says to mend it."""

import json
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from serving import doctor
from serving.doctor import Check, as_text, checks_json, run_checks
from serving.errors import ConfigError, PortInUseError, UsageError
from serving.machine.hardware import Gpu, Hardware, detect
from serving.machine.port import free_port, open_socket
from serving.planning.profile import load_profiles
from tests.conftest import ONECARD

PROFILES = load_profiles()
NO_GPU = Hardware(gpus=(), driver_version=None, nvml_problem="no driver", ram_mib=24_000, cpu_count=2, wsl=False)
RTX3060 = replace(
    NO_GPU,
    gpus=(Gpu(0, "NVIDIA GeForce RTX 3060", 12_288, 300, "8.6"),),
    driver_version="580.95.05",
    nvml_problem=None,
)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def found(name: str, profile: str = "cpu", port: int | None = None) -> Check:
    """The check of that name on this machine."""
    (check,) = (check for check in run_checks(profile, port or free_port()) if check.name == name)
    return check


def test_this_machine_can_serve_the_built_in_model(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ONECARD, "doctor", "--profile", "cpu", "--port", str(free_port()), "--json"],
        env=os.environ | {"ONECARD_STATE_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert {"python", "gpu", "vllm", "model", "disk", "port", "proxies"} <= checks.keys()
    assert (done.returncode, done.stderr) == (0, ""), checks
    assert checks["vllm"]["state"] == checks["model"]["state"] == "good"
    # It reads and changes nothing.
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU here")
def test_a_gpu_profile_without_a_gpu_is_broken_with_the_way_out() -> None:
    done = subprocess.run(
        [*ONECARD, "doctor", "--profile", "rtx3060"], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.returncode == 1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("BAD   gpu"))
    assert "rtx3060 needs one" in line
    assert "PROFILE=cpu" in done.stdout


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean `rtx4090`"):
        run_checks("rtx4099", free_port())


def test_what_this_machine_has_is_read_without_failing() -> None:
    here = detect()
    assert here.ram_mib > 0
    assert here.cpu_count >= 1
    assert (here.nvml_problem is None) == bool(here.gpus)


def test_a_good_card_is_named_with_its_memory() -> None:
    card, driver = doctor._gpu("rtx3060", PROFILES["rtx3060"], RTX3060)
    assert (card.state, driver.state, driver.found) == ("good", "good", "580.95.05")
    assert "RTX 3060, 12,288 MiB, compute capability 8.6" in card.found


def test_an_old_driver_is_broken_with_the_version_that_is_needed() -> None:
    _, driver = doctor._gpu("rtx3060", PROFILES["rtx3060"], replace(RTX3060, driver_version="550.90.07"))
    assert (driver.state, driver.found) == ("broken", "550.90.07")
    assert "580 or newer" in driver.mend


def test_memory_that_other_programs_hold_is_noted() -> None:
    held = replace(RTX3060, gpus=(replace(RTX3060.gpus[0], used_mib=3000),))
    *_, memory = doctor._gpu("rtx3060", PROFILES["rtx3060"], held)
    assert (memory.name, memory.state) == ("memory", "note")
    assert "3,000 MiB" in memory.found


@pytest.mark.parametrize(("ram_mib", "state"), [(8_000, "note"), (16_000, "good")])
def test_wsl_with_little_memory_is_told_where_to_raise_it(ram_mib: int, state: str) -> None:
    (check,) = doctor._wsl(replace(NO_GPU, wsl=True, ram_mib=ram_mib))
    assert check.state == state
    assert (".wslconfig" in check.mend) == (state == "note")
    assert doctor._wsl(NO_GPU) == []


def test_a_port_in_use_is_noted_with_its_owner() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check = found("port", port=port)
        assert (check.state, check.found) == ("note", f"{port} is taken")
        assert f"(process {os.getpid()})" in check.mend
        assert f"--port {port + 1}" in check.mend
    assert found("port", port=port).state == "good"


@pytest.mark.parametrize(
    ("variables", "state"),
    [
        ({}, "good"),
        ({"http_proxy": "http://proxy:3128"}, "note"),
        ({"HTTP_PROXY": "http://proxy:3128"}, "note"),
        ({"ALL_PROXY": "socks5://proxy"}, "note"),
        ({"https_proxy": "http://proxy:3128"}, "good"),  # the server speaks http
        ({"http_proxy": "http://proxy:3128", "no_proxy": "example.com"}, "note"),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "localhost"}, "note"),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "localhost, 127.0.0.1"}, "good"),
        ({"http_proxy": "http://proxy:3128", "NO_PROXY": "*"}, "good"),
    ],
)
def test_proxies_that_would_swallow_loopback_are_noted(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], state: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check = found("proxies")
    assert check.state == state
    assert ("no_proxy=localhost,127.0.0.1" in check.mend) == (state == "note")


def test_a_state_folder_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path / "file"))
    assert (found("disk").state, "ONECARD_STATE_DIR" in found("disk").mend) == ("broken", True)
    monkeypatch.setenv(
        "ONECARD_STATE_DIR", str(tmp_path / ("x" * 300))
    )  # a name that is too long is no reason to crash
    assert found("disk")


def test_a_folder_of_the_port_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a single `sudo onecard serve` leaves it: another user's, in a state folder that is this one's."""
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path))
    port = free_port()
    (tmp_path / str(port)).touch()
    assert (found("disk", port=port).state, found("disk").state) == ("broken", "good")


def test_the_disk_is_that_of_the_state_folder_even_before_it_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path / "not" / "yet"))
    assert found("disk").found.endswith(f"free in {tmp_path}")


def test_a_model_that_is_not_here_is_noted_with_the_command(tmp_path: Path) -> None:
    """The hub's library reads its folder when it is imported, so this asks a process of its own."""
    done = subprocess.run(
        [*ONECARD, "doctor", "--profile", "rtx3060", "--json"],
        env=os.environ | {"HF_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    (model,) = (check for check in json.loads(done.stdout)["checks"] if check["name"] == "model")
    assert model["state"] == "note"
    assert "onecard pull qwen3-vl-2b-awq" in model["mend"]


def test_the_text_has_a_line_for_each_check_and_one_for_each_cure() -> None:
    checks = [Check("python", "good", "3.11"), Check("gpu", "broken", "none", "buy one")]
    assert as_text(checks).splitlines() == [
        "ok    python     3.11",
        "BAD   gpu        none",
        "                  → buy one",
    ]
    assert json.loads(checks_json(checks))["checks"][1]["mend"] == "buy one"


def test_the_port_is_opened_for_every_family_of_address() -> None:
    port = free_port()
    with open_socket("127.0.0.1", port) as first:
        assert first.getsockname() == ("127.0.0.1", port)
        with pytest.raises(PortInUseError) as caught:
            open_socket("127.0.0.1", port)
        assert caught.value.exit_code == 8
    # Free again at once, although connections of it may linger.
    open_socket("localhost", port).close()
    if socket.has_dualstack_ipv6():
        open_socket("::1", port).close()
    with pytest.raises(UsageError, match="no address of this machine"):
        open_socket("203.0.113.7", port)
