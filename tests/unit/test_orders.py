"""`onecard sleep` and `onecard wake` against real processes that hear signals and write down what becomes of them."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import NotRunningError, OnecardError
from serving.machine.orders import send_to_sleep, wake_up
from serving.machine.running import describe_status
from serving.machine.state_dir import make_run_dir, write_json

SCRIPT = """
import json, os, signal, sys, time
file = sys.argv[-1]
def note(state, why=None):
    with open(file + ".new", "w") as out:
        facts = {"pid": os.getpid(), "state": state, "at": time.time(), "why": why, "drain_s": 0, "wake_deadline_s": 5}
        json.dump(facts, out)
    os.replace(file + ".new", file)
signal.signal(signal.SIGUSR1, lambda *_: note("asleep"))
signal.signal(signal.SIGUSR2, lambda *_: %s)
note("ready")
print(1, flush=True)
while True:
    time.sleep(60)
"""


@contextlib.contextmanager
def onecard(folder: Path, on_wake: str = 'note("ready")') -> Iterator[None]:
    """A process that looks like `onecard serve` on port 8000."""
    script = folder / "onecard"
    script.write_text(SCRIPT % on_wake)
    file = make_run_dir(8000) / "server.json"
    command = [sys.executable, str(script), "serve", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        try:
            yield
        finally:
            started.kill()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path))
    return tmp_path


def test_sleep_and_wake_say_when_it_is_done(folder: Path) -> None:
    with onecard(folder):
        assert wake_up(8000) == "It is awake."
        assert send_to_sleep(8000).startswith("Asleep after ")
        assert send_to_sleep(8000).startswith("It is asleep, for ")
        assert wake_up(8000).startswith("Awake after ")


def test_a_wake_need_not_be_waited_for(folder: Path) -> None:
    with onecard(folder, "None"):
        send_to_sleep(8000)
        assert wake_up(8000, wait=False) == "It wakes up."


def test_why_it_could_not_wake_up_is_said(folder: Path) -> None:
    with onecard(folder, 'note("asleep", "other programs hold the memory")'):
        send_to_sleep(8000)
        with pytest.raises(OnecardError, match="could not wake up: other programs hold the memory"):
            wake_up(8000)


def test_nobody_is_there_and_nobody_else_is_signalled(folder: Path) -> None:
    with pytest.raises(NotRunningError, match="port 8000"):
        send_to_sleep(8000)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        write_json(make_run_dir(8000) / "server.json", {"pid": other.pid, "state": "ready", "at": 0})
        with pytest.raises(NotRunningError):
            wake_up(8000)
        assert other.poll() is None
        other.kill()
    assert json.loads((folder / "8000" / "server.json").read_text())["pid"] == other.pid


def test_the_status_says_since_when_it_sleeps_and_what_else_there_is() -> None:
    since = time.mktime((2026, 11, 22, 21, 30, 0, 0, 0, -1))
    text = describe_status(
        {
            "state": "asleep",
            "url": "http://127.0.0.1:8000",
            "models": ["a"],
            "others": ["b", "c"],
            "plan": {"profile": "cpu", "given_up": []},
            "queue": {"running": 0, "waiting": 0},
            "seconds_left": 25.2,
            "asleep_since": since,
            "restarts": 0,
            "wakes": 3,
            "swaps": 1,
        }
    )
    assert text.splitlines() == [
        "asleep: http://127.0.0.1:8000/v1, model a, profile cpu",
        "other models, loaded when a request names them: b, c",
        "since 2026-11-22 21:30:00; the next request wakes it, which takes about 25 s",
        "requests: 0 running, 0 waiting; restarts: 0",
        "woken: 3, models exchanged: 1",
    ]
