"""What the tests themselves leave behind."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

STARTING = """
import pathlib, sys
from tests.conftest import start_server
server = start_server(pathlib.Path(sys.argv[1]))
print(server.process.pid, flush=True)
server.process.wait()
"""


def test_a_server_ends_with_the_tests_that_were_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTING, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as tests:
        assert tests.stdout
        server = psutil.Process(int(tests.stdout.readline()))
        while server.name() == "setpriv":  # not tied yet
            time.sleep(0.01)
        tests.kill()
    _, left = psutil.wait_procs([server], timeout=60)
    for each in left:
        each.kill()
    assert left == []
