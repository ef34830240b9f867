"""A card beside a running onecard: what that one holds is told apart from what others do, and planned with where it may be."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.responses import JSONResponse

from serving.beside import counted_as_free
from serving.errors import PortInUseError
from serving.machine.hardware import Hardware
from serving.machine.onecards import Onecard, holding
from serving.machine.port import free_port, open_socket
from serving.machine.state_dir import make_run_dir, write_json
from serving.planning.memory import MIB
from serving.supervisor.restarts import taken_by_others
from tests.conftest import ONECARD
from tests.exporting import Card
from tests.listening import listening
from tests.unit.test_plan import plan_of, with_card
from tests.unit.test_running import process

NAME = "NVIDIA GeForce RTX 3060"
# The memory is held by a process of the server's, which ends with it.
ENGINE = "import subprocess; engine = subprocess.Popen(['cat'], stdin=subprocess.PIPE)"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("ONECARD_API_KEY", raising=False)
    return tmp_path


@contextmanager
def onecard(folder: Path) -> Iterator[int]:
    """A process that looks like `onecard serve` on port 8000; the number of its engine."""
    with process(folder, "onecard", "serve", setup=ENGINE) as server:
        (engine,) = psutil.Process(server.pid).children()
        yield engine.pid


def ready(port: int, card: str = NAME, state: str = "ready") -> None:
    """What a supervisor in this process would leave word of."""
    pid = json.loads((make_run_dir(8000) / "server.json").read_text())["pid"]
    write_json(make_run_dir(port) / "server.json", {"pid": pid, "state": state})
    write_json(make_run_dir(port) / "launch.json", {"plan": {"gpu": {"name": card}}})


def test_a_port_that_an_own_onecard_has_is_said_so(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"in use by .*process {os.getpid()}"):
            open_socket("127.0.0.1", port)
        with onecard(folder):
            ready(port, state="starting")
            with pytest.raises(PortInUseError, match=f"a onecard of yours.*`onecard stop --port {port}`"):
                open_socket("127.0.0.1", port)
        # Another program has the port of one that was killed.
        with pytest.raises(PortInUseError, match=f"process {os.getpid()}"):
            open_socket("127.0.0.1", port)


def run(card: Card, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ONECARD, *arguments], capture_output=True, text=True, timeout=60, env=os.environ | card.environment
    )


def held(card: Card, used_mib: int, **processes: str) -> None:
    listed = {f"nvmlDeviceGetComputeRunningProcesses_v3{index}": told for index, told in processes.items()}
    card.tells(
        nvmlDeviceGetName=NAME,
        **{"nvmlDeviceGetMemoryInfo.total": str(12_288 * MIB), "nvmlDeviceGetMemoryInfo.used": str(used_mib * MIB)},
        **listed,
    )


def beside(port: int, used_mib: int = 10_000) -> Hardware:
    """A card on which a onecard holds what the driver does not tell."""
    found = with_card(NAME, 12_288, used_mib)
    return replace(found, gpus=(replace(found.gpus[0], onecards=(Onecard(port, None),)),))


def test_a_plan_counts_what_a_running_onecard_holds_as_free_and_says_so(folder: Path) -> None:
    card = Card(folder)
    held(card, 188)
    alone = run(card, "plan", "-p", "rtx3060", "--json")
    assert (alone.returncode, alone.stderr) == (0, "")
    with onecard(folder) as engine:
        held(card, 10_000, **{"": "2", ".0": f"{os.getpid()} {100 * MIB}", ".1": f"{engine} {9_812 * MIB}"})
        beside = run(card, "plan", "-p", "rtx3060", "--json")
        in_words = run(card, "plan", "-p", "rtx3060").stdout
        refused = run(card, "serve", "-p", "rtx3060")
    said = "Counted as free: 9,812 MiB of the onecard on port 8000."
    assert (json.loads(beside.stdout), beside.stderr) == (json.loads(alone.stdout), f"{said}\n")
    assert in_words.endswith(f"{said}\n")
    # A start cannot have it, and names who has.
    assert refused.returncode == 3
    assert (
        "other programs hold 9,300 MiB more than usual, among them the onecard on port 8000 (9,812 MiB)"
        in refused.stderr
    )
    assert "`onecard sleep --port 8000`" in refused.stderr


def test_a_smaller_plan_and_a_restart_that_waits_name_who_holds_the_memory() -> None:
    small = plan_of("rtx3060", hardware=beside(8001, used_mib=6_000))
    assert small.fits
    assert (
        small.given_up[-1]
        == "5,300 MiB of the card, which other programs hold now, among them the onecard on port 8001"
    )
    assert "among them the onecard on port 8001: 288 of" in str(taken_by_others(small, beside(8001, used_mib=12_000)))


def test_only_what_runs_and_holds_memory_of_the_card_is_named(folder: Path) -> None:
    assert holding(NAME, {os.getpid(): MIB}) == ()
    with onecard(folder) as engine:
        mine = os.getpid()
        assert holding(NAME, {mine: MIB, engine: 2 * MIB}) == (Onecard(8000, 2),)
        # Others are told of and it is not: it sleeps, or is on another card.
        ready(8000)
        assert holding(NAME, {mine: MIB}) == ()
    assert holding(NAME, {engine: 2 * MIB}) == ()


@pytest.mark.parametrize("told", [{}, {4194305: 9_812 * MIB}, None])  # WSL2; the host's numbers; a number without bytes
def test_what_the_driver_does_not_tell_is_not_guessed(folder: Path, told: dict[int, int] | None) -> None:
    with onecard(folder) as engine:
        seen = {engine: 0} if told is None else told
        ready(8000)
        assert holding(NAME, seen) == (Onecard(8000, None),)
        if told is not None:
            ready(8000, card="CPU")
            assert holding(NAME, seen) == ()
            ready(8000, state="asleep")
            assert holding(NAME, seen) == ()


@pytest.mark.parametrize(
    ("measured", "mib"), [({"weights": 9_000, "context": 500}, 9_500), ({"weights": 9_000}, 9_300)]
)
def test_the_server_itself_is_asked_then(measured: dict[str, int], mib: int) -> None:
    status: dict[str, Any] = {"state": "ready", "queue": {}, "plan": {"memory_mib": {"context": 300}}}
    with listening(JSONResponse(status | {"measured": {"memory_mib": measured}})) as port:
        found, (said,) = counted_as_free(beside(port))
        assert found.gpus[0].used_mib == 10_000 - mib
        assert (
            said
            == f"Counted as free: {mib:,} MiB of the onecard on port {port}, as it measured itself when it started."
        )
        assert found.gpus[0].onecards == ()
        # More than this card has in use is another card's.
        other, nothing = counted_as_free(beside(port, used_mib=800))
        assert (other.gpus[0].used_mib, nothing) == (800, [])


@pytest.mark.parametrize("answers", [True, False])
def test_what_nobody_tells_counts_as_taken_and_is_said(answers: bool) -> None:
    """Without the key of a server that asks for one, and where it does not answer at all."""
    with listening(JSONResponse({}, status_code=401)) as keyed:
        port = keyed if answers else free_port()
        found, (said,) = counted_as_free(beside(port))
    assert found == beside(port)
    assert said.startswith(f"Counted as taken: what the onecard on port {port} holds.")
    assert "ONECARD_API_KEY" in said


def test_without_a_gpu_there_is_nothing_to_count() -> None:
    found = replace(with_card(NAME, 1), gpus=())
    assert counted_as_free(found) == (found, [])
