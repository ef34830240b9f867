"""A checkpoint served for as long as it is asked: `onecard serve` in a process of its own, on a free port."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from serving.errors import OnecardError
from serving.machine.port import free_port
from serving.machine.state_dir import state_dir

_START_LIMIT_S = 900.0
_STOP_LIMIT_S = 60.0


def is_url(model: str) -> bool:
    """Whether it is a server already."""
    return model.startswith(("http://", "https://"))


@contextlib.contextmanager
def served(model: str, profile: str, arguments: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a server of `model`, made for it; `arguments` go to vLLM. Raises OnecardError where it does not become
    ready."""
    with tempfile.TemporaryDirectory(prefix="onecard-evaluate-") as folder:
        port = free_port()
        output = Path(folder) / "serve.out"
        command = [
            sys.executable,
            "-m",
            "serving",
            "serve",
            "--profile",
            profile,
            "--model",
            model,
            "--port",
            str(port),
            "--",
            *arguments,
        ]
        environment = os.environ | {"ONECARD_STATE_DIR": folder, "ONECARD_EXPORTER_PORT": "0"}
        for name in ("ONECARD_API_KEY", "ONECARD_API_KEYS_FILE"):
            environment.pop(name, None)
        with output.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait(process, f"http://127.0.0.1:{port}", output, model)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, output: Path, model: str) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    sys.stderr.write(f"Starting {model} …\n")
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx.HTTPError):  # not listening yet
            if httpx.get(f"{url}/ready", timeout=10, trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    said = output.read_text(errors="replace")[-1500:].strip()
    raise OnecardError(f"{model} could not be served: {_with_kept_log(said, output.parent)}")


def _with_kept_log(said: str, folder: Path) -> str:
    """`said`, and the log that it names, where it outlives the server's temporary folder."""
    kept = state_dir() / "evaluate" / "server.log"
    for log in folder.glob("*/server.log"):
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, kept)
        said = said.replace(str(log), str(kept))
    return said
