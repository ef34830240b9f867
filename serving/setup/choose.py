"""What follows from the facts: which vLLM to install, whether it can work here, and what to warn about. Pure functions.

A refusal here costs a second; the same finding after the download would have cost gigabytes.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from serving.errors import ConfigError, DiskFullError, HardwareError
from serving.setup.machine import Gpu, Machine
from serving.setup.near import nearest

Variant = Literal["gpu", "cpu"]

MIN_DRIVER = 580
"""vLLM 0.32 and 0.33 are built for CUDA 13, whose first driver branch this is."""
NEEDED_MIB: dict[Variant, int] = {"gpu": 14_000, "cpu": 5_000}
"""Disk that an installation takes at its peak: the environment, the downloads on their way into it, and pip's cache.
CPU: 4.1 GB measured, and up to 0.9 GB of cache. GPU: from the sizes of the wheels."""
WSL_MEMORY_MIB: dict[Variant, int] = {"gpu": 12_000, "cpu": 6_000}
CPU_WAY_OUT = "PROFILE=cpu (make serve PROFILE=cpu) serves the small built-in model without a GPU."


def profile_device(name: str, folder: Path) -> Literal["auto", "cuda", "cpu"]:
    """What the profile `name` runs on, read from the YAML files in `folder` before a YAML library is installed.

    `serving.planning.profile` reads them properly later; only the top-level lines `device:` and `aliases: [...]` matter here.
    """
    if name == "auto":
        return "auto"
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"There is no profile file {name}.")
        return _device(path)
    known: dict[str, Path] = {}
    for path in sorted(folder.glob("*.yaml")):
        aliases = re.search(r"^aliases:\s*\[(.*)\]", path.read_text("utf-8"), re.MULTILINE)
        names = [path.stem, *(re.split(r"[\s,]+", aliases.group(1).strip()) if aliases else ())]
        known.update((alias.strip("'\""), path) for alias in names)
    if name not in known:
        near = nearest(name, known, cutoff=0.4)
        hint = f" Did you mean {near}?" if near else ""
        raise ConfigError(f"There is no profile {name!r}.{hint} Known: auto, {', '.join(sorted(known))}.")
    return _device(known[name])


def _device(path: Path) -> Literal["cuda", "cpu"]:
    return "cpu" if re.search(r"^device:\s*[\"']?cpu\b", path.read_text("utf-8"), re.MULTILINE) else "cuda"


def driver_branch(version: str) -> int:
    """580 of "580.95.05"; 0 where there is no version."""
    found = re.match(r"\d+", version)
    return int(found.group()) if found else 0


def choose_variant(profile: str, device: Literal["auto", "cuda", "cpu"], gpu: Gpu, *, wsl: bool = False) -> Variant:
    """The build of vLLM for this profile on this machine; HardwareError where it could not work."""
    if device == "cpu":
        return "cpu"
    wanted = f"PROFILE={profile} needs an NVIDIA GPU" if device == "cuda" else "There is an NVIDIA card"
    if gpu.trouble and (gpu.driver or gpu.cards):
        raise HardwareError(
            f"{wanted}, but its driver does not start: {gpu.trouble}. After an update of the driver a reboot cures "
            f"that; inside a container, start it with --gpus all. Or: {CPU_WAY_OUT}"
        )
    if not gpu.names:
        if device == "auto":
            return "cpu"
        seen = (
            f"there is a card on the PCI bus, but no driver for it. {_driver_advice(wsl)}"
            if gpu.cards
            else "none was found here (no NVIDIA driver and no NVIDIA card). Inside a container, start it with --gpus all."
        )
        raise HardwareError(f"{wanted}, and {seen} Or: {CPU_WAY_OUT}")
    if driver_branch(gpu.driver) < MIN_DRIVER:
        raise HardwareError(
            f"The NVIDIA driver is too old: vLLM's CUDA 13 build needs version {MIN_DRIVER} or newer, and {gpu.names[0]} "
            f"here runs with {gpu.driver or 'an unknown version'}. {_driver_advice(wsl)} Nothing was downloaded. "
            f"Or: {CPU_WAY_OUT}"
        )
    return "gpu"


def _driver_advice(wsl: bool) -> str:
    if wsl:
        return "Update the NVIDIA driver in Windows (not inside WSL2), then run `wsl --shutdown`."
    return (
        f"Install a driver of branch {MIN_DRIVER} or newer and reboot: `sudo ubuntu-drivers install` on Ubuntu, the "
        "distribution's nvidia package elsewhere."
    )


def check_disk(variant: Variant, free_mib: int, installed_mib: int, folder: Path) -> None:
    """DiskFullError where what is still to come does not fit beside what an interrupted installation left."""
    needed = NEEDED_MIB[variant] - installed_mib
    if free_mib < needed:
        raise DiskFullError(
            f"Not enough disk: installing vLLM for the {variant.upper()} takes about {needed / 1000:.1f} GB more at its peak, "
            f"and {free_mib / 1000:.1f} GB are free where {folder} lies, so it was not begun. Free some (`pip cache "
            "purge` often gives gigabytes), or clone onto a larger disk."
        )


def warnings(variant: Variant, machine: Machine) -> Iterable[str]:
    """What works but badly, or will not work later; one line each."""
    if variant == "cpu" and machine.gpu.cards and not machine.gpu.names:
        yield f"An NVIDIA card is here without a working driver, so the CPU is used. {_driver_advice(machine.wsl)}"
    if machine.windows_mount:
        yield (
            "The checkout lies on a Windows drive, where installing and loading are several times slower. Clone it "
            "inside WSL2 instead, for example to ~/onecard."
        )
    if machine.wsl and machine.memory_mib < WSL_MEMORY_MIB[variant]:
        yield (
            f"WSL2 may use {machine.memory_mib / 1024:.0f} GiB of memory; {WSL_MEMORY_MIB[variant] // 1000} or more is "
            "better. In Windows, put `[wsl2]` and `memory=16GB` into %UserProfile%\\.wslconfig and run `wsl --shutdown`."
        )
    if variant == "gpu" and not (machine.compiler and machine.python_headers):
        yield (
            "A C compiler and Python's headers are needed to build GPU kernels at first start: "
            "`sudo apt install build-essential python3-dev`."
        )
