"""The onecards of this user that run on this machine, and what each holds of a GPU's memory. Facts only.

NVML tells which process holds how much, but not everywhere: not in WSL2 (nvml.h: `usedGpuMemory` is not available under
WDDM), and in a container it tells the host's numbers of processes, or 0 bytes (open-gpu-kernel-modules, pull request 614).
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serving.machine.state_dir import read_json, run_dir, state_dir


@dataclass(frozen=True)
class Onecard:
    """A running `onecard serve`; `held_mib` is what its processes hold of a card, None where that cannot be told apart from
    what others hold."""

    port: int
    held_mib: int | None

    def __str__(self) -> str:
        return f"the onecard on port {self.port}" + (f" ({self.held_mib:,} MiB)" if self.held_mib else "")


def holding(card: str, held: Mapping[int, int]) -> tuple[Onecard, ...]:
    """Those that hold memory of the card of that name, or may do so. `held` are its bytes by process, as NVML tells them; 0
    where it does not tell how many. The one that asks is none of them."""
    import psutil

    # Numbers of processes that are not here are those of a host that has us in a container.
    told = any(psutil.pid_exists(pid) for pid in held)
    found = []
    for port, pid in _supervisors():
        family = {pid, *_children(pid)}
        own = [held[each] for each in family if each in held]
        if own:
            found.append(Onecard(port, sum(own) // 2**20 if all(own) else None))
        elif not told and _loaded_on(port, card):
            found.append(Onecard(port, None))
    return tuple(found)


def among(onecards: tuple[Onecard, ...]) -> str:
    """To be said of what other programs hold: which of them are onecards."""
    return f", among them {' and '.join(map(str, onecards))}" if onecards else ""


def serves_on(port: int) -> bool:
    """Whether one of them has that port, whatever it is doing."""
    return any(each == port for each, _ in _supervisors())


def is_onecard(pid: int) -> bool:
    """Whether the process is a `onecard serve`: what a killed one has written down may by now be somebody else's number."""
    import psutil

    try:
        words = psutil.Process(pid).cmdline()
    except (psutil.Error, ValueError):
        return False
    return "serve" in words and any(word == "serving" or word.endswith("onecard") for word in words)


def _supervisors() -> Iterator[tuple[int, int]]:
    """Port and process of each that runs, but for this process."""
    for file in sorted(state_dir().glob("*/server.json")):
        facts = read_json(file)
        pid = facts.get("pid") if isinstance(facts, dict) else None
        if file.parent.name.isdigit() and isinstance(pid, int) and pid != os.getpid() and is_onecard(pid):
            yield int(file.parent.name), pid


def _children(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:  # it has ended meanwhile
        return []


def _loaded_on(port: int, card: str) -> bool:
    """Whether a model is loaded there that was planned for a card of that name."""
    facts, launch = (_read(port, name) for name in ("server.json", "launch.json"))
    gpu = launch.get("plan", {}).get("gpu", {})
    return facts.get("state") == "ready" and gpu.get("name") == card


def _read(port: int, name: str) -> dict[str, Any]:
    value = read_json(run_dir(port) / name)
    return value if isinstance(value, dict) else {}
