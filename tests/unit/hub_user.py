"""`onecard` as someone uses it who knows one hub, on a machine without this one's tokens, proxies and caches."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from serving.hub import resolve_model
from tests.hub import COMMIT, TOKEN, Hub

DEMO = resolve_model("demo").folder
assert DEMO is not None
WEIGHTS = save({"visual.weight": np.arange(400_000, dtype=np.float32), "text.weight": np.ones(1_100_000, np.float32)})
WANTED = {
    "config.json": (DEMO / "config.json").read_bytes(),
    "preprocessor_config.json": (DEMO / "preprocessor_config.json").read_bytes(),
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
}
UNWANTED = {
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"raise SystemExit",
    "README.md": b"# A model",
    "x.gguf": b"x",
    "original/model.safetensors": b"for another program",
    "../../escaped.json": b"{}",
    ".hidden.json": b"{}",
}


@dataclass
class User:
    """`home` is where the hub's programs keep what they have downloaded."""

    home: Path
    endpoint: str
    more: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        foreign = ("HF_", "HUGGING", "MODELSCOPE")
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(foreign)}
        mine = {
            "HF_HOME": str(self.home), "HF_ENDPOINT": self.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DOWNLOAD_TIMEOUT": "20",
            "MODELSCOPE_ENDPOINT": self.endpoint, "ONECARD_STATE_DIR": str(self.home / "state"), "no_proxy": "*",
        }  # fmt: skip
        return kept | mine | self.more

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "serving", *arguments]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=120)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def pull(self, model: str = "someone/model") -> subprocess.CompletedProcess[str]:
        return self.run("pull", model)

    def plan(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("plan", "--profile", "rtx3060", "--model", "someone/model", *arguments)

    def python(self, code: str) -> str:
        """What Python code prints in this environment: what another program would do."""
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout.strip()

    @property
    def cache(self) -> Path:
        return self.home / "hub" / "models--someone--model"

    @property
    def partial(self) -> Path:
        """What has been received of the weights, until they are whole."""
        return self.cache / "blobs" / f"{hashlib.sha256(WEIGHTS).hexdigest()}.onecard.incomplete"

    def has_received(self) -> bool:
        """Whether a part of the weights is here."""
        return self.partial.exists() and self.partial.stat().st_size > 0

    def files(self, commit: str = COMMIT) -> dict[str, bytes]:
        """The model as it lies in the cache."""
        return {file.name: file.read_bytes() for file in (self.cache / "snapshots" / commit).iterdir()}


def wait_for(condition: Callable[[], object]) -> None:
    """Until it holds; a minute is longer than it can take."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def succeeds(done: subprocess.CompletedProcess[str]) -> Path:
    """The folder that it prints."""
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def refusal(done: subprocess.CompletedProcess[str], code: int = 6) -> str:
    """The paragraph that `onecard` ends with."""
    assert done.returncode == code, done.stderr
    assert "onecard: " in done.stderr
    return done.stderr.rpartition("onecard: ")[2]


def starts_of(hub: Hub) -> list[int]:
    """At which byte each download of the weights began."""
    return [int(each.removeprefix("bytes=").partition("-")[0]) for each in hub.ranges_of("model.safetensors")]
