"""A survival run where no GPU is: the whole command, with stand-ins for NVML, torch's allocator and vLLM's server."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import survival_load
from tests.exporting import Card

ROOT = Path(__file__).parents[2]
# A card of 140 GiB, of which the holder may take all that it wants.
TORCH = """
import types
free = 140 * 2**30
uint8 = "uint8"
def zeros(count, device):
    return device
def empty(size, dtype, device):
    global free
    free -= size
cuda = types.SimpleNamespace(mem_get_info=lambda gpu: (free, 140 * 2**30))
"""
# At the second question the first that is started dies, and the second has been started again by its supervisor; all others
# live. Like vLLM it has a process for the engine; both leave their numbers where the test finds them.
VLLM = """
import json, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

asked, restarts = 0, 0
with open(os.environ["TMPDIR"] + "/starts", "a+") as file:
    file.write("x")
    file.flush()
    file.seek(0)
    place = len(file.read())

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        known = {"/v1/models": {"data": [{"id": "m"}]}, "/onecard/status": {"restarts": restarts}}
        self.tell(200 if self.path in known else 404, known.get(self.path))
    def do_POST(self):
        global asked, restarts
        self.rfile.read(int(self.headers["content-length"]))
        asked += 1
        if asked > 1 and place == 1:
            print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 96.00 MiB.", flush=True)
            os._exit(1)
        restarts = int(asked > 1 and place == 2)
        self.tell(200, {"choices": []})
    def tell(self, code, what):
        body = json.dumps(what).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
engine = subprocess.Popen(["sleep", "600"])
with open(f"{os.environ['TMPDIR']}/{engine.pid}.processes", "w") as file:
    file.write(f"{os.getpid()} {engine.pid}")
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
# onecard's own command needs a real vLLM.
AS_ONECARD = """
import sys
from benchmarks import survival
survival._command = lambda contender, card, plan, model, gpu, port: [
    sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(port)
]
"""
ASKED = "nvmlDeviceGetComputeRunningProcesses_v3"
# Two processes with a client each: drawing for 64 is what takes its time.
RUN = """
from benchmarks import survival, survival_load
if __name__ == "__main__":
    survival_load._CLIENTS = survival_load._PROCESSES = 2
    survival.main()
"""


def test_no_two_requests_begin_alike() -> None:
    """A prefix that is cached takes no room, and what has room enough shows nothing."""
    bodies = [survival_load._body("m", (64 * 48, 2, 4096), seed) for seed in range(40)]
    contents = [body["messages"][0]["content"] for body in bodies]
    first = [each[:32] if isinstance(each, str) else each[0]["image_url"]["url"] for each in contents]
    assert len(set(first)) == 40
    assert sum(isinstance(each, str) for each in contents) == 8


def test_only_onecards_are_measured_side_by_side() -> None:
    """vLLM by itself takes what its neighbours take meanwhile for its own."""
    command = [sys.executable, "-m", "benchmarks.survival", "--shape", "x", "--out", "y", "--at-once", "2"]
    told = subprocess.run([*command, "--contenders", "onecard,vllm"], cwd=ROOT, capture_output=True, text=True)
    assert (told.returncode, told.stderr.splitlines()[-1].partition("--at-once ")[2][:22]) == (
        2,
        "is for onecard alone: ",
    )


def run_of(folder: Path, card: Card, *options: str, script: str = RUN) -> tuple[list[str], dict[str, str]]:
    """The command of a run with stand-ins for everything that is not here, and its environment."""
    stand_in = folder / "vllm" / "entrypoints" / "openai" / "api_server.py"
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text(VLLM, "utf-8")
    for package in list(stand_in.parents)[:3]:
        (package / "__init__.py").touch()
    (folder / "vllm-0.32.0.dist-info").mkdir()
    (folder / "vllm-0.32.0.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.32.0\n", "utf-8")
    (folder / "torch.py").write_text(TORCH, "utf-8")
    (folder / "run.py").write_text(script, "utf-8")
    environment = os.environ | card.environment | {"TMPDIR": str(folder)}
    # A proxy is not asked for what is on this machine.
    environment |= {"PYTHONPATH": f"{folder}:{ROOT}", "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, str(folder / "run.py"), "--shape", str(ROOT / "serving" / "demo" / "model")]
    return [*command, "--out", str(folder / "survival-x.json"), "--seconds", "2", *options], environment


def points_of(folder: Path) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = json.loads((folder / "survival-x.json").read_text("utf-8"))["points"]
    return points


def test_who_died_under_load_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    command, environment = run_of(tmp_path, Card(tmp_path), "--contenders", "vllm,original,vllm:fits")
    subprocess.run(command, env=environment, check=True)
    points = points_of(tmp_path)
    assert [(point["contender"], point["lives"]) for point in points] == [
        ("vllm", False),
        ("original", False),
        ("vllm:fits", True),
    ]
    dead, _, alive = points
    assert (dead["answers"]["200"], "CUDA out of memory" in dead["log"][0]) == (1, True)
    assert sum(dead["answers"].values()) > 1  # what was not answered is counted
    assert alive["answers"].keys() == {"200"}
    left = [each.info for each in psutil.process_iter(["name", "environ"]) if each.info["name"] == "sleep"]
    assert not [each for each in left if (each["environ"] or {}).get("TMPDIR") == str(tmp_path)]


def test_side_by_side_who_held_more_than_its_card_has_does_not_live(tmp_path: Path) -> None:
    """Both hold 10,000 MiB, half of it in the engine's process: an RTX 3060 has as much to use, and an RTX 4060 has not."""
    (tmp_path / "starts").write_text("xx", "utf-8")  # those that come to grief are started already
    card = Card(tmp_path)
    card.tells(**{ASKED: "0"})
    options = ("--at-once", "2", "--cards", "rtx3060,rtx4060")
    command, environment = run_of(tmp_path, card, *options, script=AS_ONECARD + RUN)
    running = subprocess.Popen(command, env=environment)
    pids: list[str] = []
    while len(pids) < 4 and running.poll() is None:
        pids = [pid for file in tmp_path.glob("*.processes") for pid in file.read_text("utf-8").split()]
        time.sleep(0.05)
    held = {f"{ASKED}.{place}": f"{pid} {5000 * 2**20}" for place, pid in enumerate(pids)}
    card.tells(**{ASKED: str(len(pids))}, **held)
    assert running.wait(60) == 0
    points = {point["card"]: point for point in points_of(tmp_path)}
    assert {name: (point["peak_mib"], point["lives"]) for name, point in points.items()} == {
        "rtx3060": (10_000, True),
        "rtx4060": (10_000, False),
    }
    assert all(point["answers"].keys() == {"200"} and not point["alone"] for point in points.values())
