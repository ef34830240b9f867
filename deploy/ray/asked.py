"""What goes between door and replica."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """A request as it goes from the door to a replica."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
