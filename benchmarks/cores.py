"""Which cores a server and the load generator run on: a desktop has six, and a generator beside them takes none away."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

_PAIR = re.compile(r"(server|generator)=(\d+)")


@dataclass(frozen=True)
class Cores:
    """Core numbers; empty means "not held to any"."""

    server: tuple[int, ...] = ()
    generator: tuple[int, ...] = ()


def parse(text: str) -> dict[str, int]:
    """`server=6,generator=4` → {"server": 6, "generator": 4}. Raises ValueError."""
    pairs = [_PAIR.fullmatch(part) for part in text.split(",")]
    if not all(pairs) or not text:
        raise ValueError(f"--cores is {text!r}, and is written as server=6 or server=6,generator=4")
    return {pair[1]: int(pair[2]) for pair in pairs if pair}


def available() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def share(cores: Sequence[int], shares: int) -> list[list[int]]:
    """Equal parts, one for each GPU that is measured at the same time; what is left over is nobody's."""
    each = len(cores) // shares
    if each < 1:
        raise ValueError(f"{len(cores)} cores cannot be shared among {shares} servers")
    return [list(cores[part * each : (part + 1) * each]) for part in range(shares)]


def divide(cores: Sequence[int], server: int | None, generator: int | None, *, hold: bool = False) -> Cores:
    """The server's cores from the left, the generator's from the right, never the same one.

    With neither number nor `hold`, nobody is held to any. Raises ValueError where there are too few.
    """
    if server is None and generator is None and not hold:
        return Cores()
    if generator is None:
        generator = min(max(1, len(cores) // 4), len(cores) - (server or 1))
    if server is None:
        server = len(cores) - generator
    if min(server, generator) < 1 or server + generator > len(cores):
        raise ValueError(
            f"{server} cores for the server and {max(generator, 1)} for the generator are not to be had: "
            f"there are {len(cores)}"
        )
    return Cores(tuple(cores[:server]), tuple(cores[len(cores) - generator :]))


def held_to(cores: Sequence[int]) -> list[str]:
    """The command that holds what follows it to those cores."""
    return ["taskset", "-c", ",".join(map(str, cores))] if cores else []
