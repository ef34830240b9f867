"""What a folder installs as onecard: a source tree (it has a pyproject.toml), or a wheel that was unpacked beside its file."""

import hashlib
import json
import re
import tomllib
from email import message_from_string
from pathlib import Path

VERSION = 1
"""Raised when the steps of an installation change, so that finished environments go through them again."""
PINNED = ("torch==", "torchvision==")


def wheel_of(root: Path) -> Path | None:
    """The wheel that an unpacked one keeps beside its contents; None in a source tree."""
    return None if (root / "pyproject.toml").is_file() else next(root.glob("onecard-*.whl"), None)


def project_digest(root: Path) -> str:
    """Changes when what is to be installed changes: the project's dependencies and the steps, not ruff's settings."""
    if wheel := wheel_of(root):
        kept: object = [wheel.name, sorted(_requirements(root)), VERSION]
    else:
        tables = _pyproject(root)
        kept = {"build": tables.get("build-system"), "project": tables.get("project"), "steps": VERSION}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def cpu_pins(root: Path) -> list[str]:
    """torch and torchvision as the extra `cpu` pins them, as PyTorch's CPU builds: ["torch==2.13.0+cpu", ...]."""
    if wheel_of(root):
        found = (re.match(r"(\S+?)\s*;.*extra == [\"']cpu[\"']", each) for each in _requirements(root))
        pins = [each[1] for each in found if each]
    else:
        pins = _pyproject(root)["project"]["optional-dependencies"]["cpu"]
    return [f"{pin}+cpu" for pin in pins if pin.startswith(PINNED)]


def requirement(root: Path, extras: str) -> tuple[str, ...]:
    """What pip is to install: the source tree where it lies, so that it can be changed there; or the wheel."""
    wheel = wheel_of(root)
    return (f"{wheel}[{extras}]",) if wheel else ("--editable", f"{root}[{extras}]")


def version(root: Path) -> str:
    """onecard's version in that folder; empty where it is not onecard."""
    try:
        text = (root / "serving" / "__init__.py").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(r'^__version__ = "([\w.+-]+)"', text, re.MULTILINE)
    return found[1] if found else ""


def _pyproject(root: Path) -> dict[str, dict[str, dict[str, list[str]]]]:
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))


def _requirements(root: Path) -> list[str]:
    """The lines `Requires-Dist` of the unpacked wheel."""
    metadata = next(root.glob("onecard-*.dist-info/METADATA")).read_text("utf-8")
    return [str(each) for each in message_from_string(metadata).get_all("Requires-Dist", [])]
