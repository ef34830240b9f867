"""A survival run where no GPU is: the whole command, with stand-ins for NVML, torch's allocator and vLLM's server."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
# At the second question the first that is started dies, and the second has been started again by its supervisor; the third
# lives. Like vLLM it has a process for the engine.
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
subprocess.Popen(["sleep", "600"])
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
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


def test_who_died_under_load_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    stand_in = tmp_path / "vllm" / "entrypoints" / "openai" / "api_server.py"
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text(VLLM, "utf-8")
    for package in list(stand_in.parents)[:3]:
        (package / "__init__.py").touch()
    (tmp_path / "vllm-0.32.0.dist-info").mkdir()
    (tmp_path / "vllm-0.32.0.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.32.0\n", "utf-8")
    (tmp_path / "torch.py").write_text(TORCH, "utf-8")
    (tmp_path / "run.py").write_text(RUN, "utf-8")
    environment = os.environ | Card(tmp_path).environment | {"TMPDIR": str(tmp_path)}
    # A proxy is not asked for what is on this machine.
    environment |= {"PYTHONPATH": f"{tmp_path}:{ROOT}", "http_proxy": "http://127.0.0.1:9"}
    out = tmp_path / "survival-x.json"
    command = [sys.executable, str(tmp_path / "run.py"), "--shape", str(ROOT / "serving" / "demo" / "model")]
    command += ["--out", str(out), "--contenders", "vllm,original,vllm:fits", "--seconds", "2"]
    subprocess.run(command, env=environment, check=True)
    points = json.loads(out.read_text("utf-8"))["points"]
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
