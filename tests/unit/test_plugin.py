"""What vLLM loads in its processes, in processes that load it as vLLM's do."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from serving.hub import resolve_model
from serving.ipc.launch import Launch
from serving.prepare import prepare

# As vLLM on CUDA: the API process forks the engine, which forks a worker, and each loads the plugins.
FORKING = """
import multiprocessing, sys, time
from vllm.plugins import load_general_plugins

def live(more):
    load_general_plugins()
    if more:
        multiprocessing.get_context("fork").Process(target=live, args=(more[1:],)).start()
    print(more, flush=True)
    time.sleep(600)

live(["engine", "worker"])
"""


def test_forked_processes_of_the_server_die_with_their_parent(tmp_path: Path) -> None:
    plan, demo = prepare("cpu", "demo", gpu_memory_mib=8192).plan, resolve_model("demo").folder
    launch = Launch(plan=plan, model_folder=demo, default_max_tokens=256, host="127.0.0.1", port=8000, run_dir=tmp_path)
    parent = subprocess.Popen(
        [sys.executable, "-c", FORKING],
        env=os.environ | {"ONECARD_LAUNCH": str(launch.write())},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout
    with parent.stdout as output:
        while "[]" not in output.readline():
            assert parent.poll() is None
    forked = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    _, left = psutil.wait_procs(forked, timeout=10)
    for each in left:
        each.kill()
    assert (len(forked), left) == (2, [])
