"""llm-compressor in an environment of its own, `.quantize` beside `.venv`: its pins (compressed-tensors, transformers) and
vLLM's exclude each other. Made on first use, with progress; an interrupted installation goes on where it was.
"""

import os
import subprocess
import sys
import time
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from serving.errors import NotInstalledError
from serving.setup.environment import PYTORCH_CPU_INDEX
from serving.setup.pip import Done, Screen, explain, run

ROOT = Path(__file__).resolve().parents[2]
EXTRA = "quantize"
# What the worker imports of this project's dependencies.
_OURS = ("pillow", "pydantic")


def ready(python: Path | None) -> Path:
    """The interpreter that has llm-compressor: `python` where it is given, else the one of `.quantize`, made on first use.

    Raises NotInstalledError, or DiskFullError while it is made.
    """
    if python is not None:
        if not _serves(python):
            raise NotInstalledError(
                f"{python} has no llm-compressor ({requirements()[0]}). Install it there, or leave --quantize-python out: then "
                "onecard makes an environment for it."
            )
        return python
    folder = _home() / ".quantize"
    own = folder / "bin" / "python"
    if not (folder / "complete").exists() or (folder / "complete").read_text("utf-8") != _wanted():
        _make(folder, own)
    return own


def requirements() -> list[str]:
    """What the extra `quantize` asks for, from the checkout or from the installed package."""
    project = ROOT / "pyproject.toml"
    if project.is_file():
        extras = tomllib.loads(project.read_text("utf-8"))["project"]["optional-dependencies"]
        return list(extras[EXTRA])
    try:
        marked = requires("onecard") or []
    except PackageNotFoundError:
        marked = []
    return [line.partition(";")[0].strip() for line in marked if f'extra == "{EXTRA}"' in line.replace("'", '"')]


def _home() -> Path:
    return ROOT if (ROOT / "pyproject.toml").is_file() else Path(sys.prefix).parent


def _torch() -> list[str]:
    """The same build of torch as here, so that a machine without a GPU does not get gigabytes of CUDA."""
    here = version("torch")
    pins = [f"torch=={here}", f"torchvision=={version('torchvision')}"]
    return pins if "+cpu" not in here else [f"torch=={here.partition('+')[0]}+cpu", pins[1]]


def _wanted() -> str:
    return "\n".join([*requirements(), *_torch()])


def _make(folder: Path, python: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "setup.log"
    screen = Screen()
    screen.say(
        f"{requirements()[0]} and vLLM need different versions of the same packages, so it gets an environment of its own, "
        f"{folder} (about 2 GB, once)."
    )
    began = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    torch, torchvision = _torch()
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    index = ["--extra-index-url", PYTORCH_CPU_INDEX] if "+cpu" in torch else []

    def step(title: str, command: list[str]) -> Done:
        screen.begin(title)
        return run(command, title, cwd=folder, env=environment, log=log, screen=screen)

    def must(title: str, command: list[str]) -> None:
        done = step(title, command)
        if done.returncode:
            raise explain(title, done, log)

    if not python.exists():
        must("[1/4] an empty environment", [sys.executable, "-m", "venv", str(folder)])
    if step("[2/4] torch", [*pip, torch]).returncode:
        must("[2/4] torch", [*pip, *index, torch])
    # torchvision's own requirement would take torch from another index; its pin is of the same release.
    if step("[3/4] torchvision", [*pip, "--no-deps", torchvision]).returncode:
        must("[3/4] torchvision", [*pip, "--no-deps", torchvision.partition("+")[0]])
    must("[4/4] llm-compressor", [*pip, *requirements(), *_OURS, torch])
    mended = subprocess.run(
        [python, "-m", "serving.cpu"], capture_output=True, text=True, check=False, env=environment | _importable()
    )
    if mended.returncode or not _serves(python):
        raise NotInstalledError(
            f"The environment {folder} was made and llm-compressor cannot be imported in it: {mended.stderr.strip()[-300:]} "
            f"Remove the folder and run the same command again; details are in {log}."
        )
    (folder / "complete").write_text(_wanted(), encoding="utf-8")
    screen.say(f"The environment is ready, after {time.monotonic() - began:.0f} s.")


def _importable() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT)}


def worker_environment() -> dict[str, str]:
    """What the worker is started with: this package and nothing else of ours, and nothing that asks a hub."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    return dict(os.environ) | _importable() | quiet


def _serves(python: Path) -> bool:
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('llmcompressor') is None)"
    try:
        return subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode == 0
    except OSError:
        return False
