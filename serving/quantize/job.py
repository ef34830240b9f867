"""What is handed to the worker, as a file, and what it says of itself, as lines: the contract between two environments.

Standard library only: both sides import it.
"""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MARK = "@onecard "


@dataclass(frozen=True)
class Job:
    """`samples`: (pictures, question, answer). `scheme` is its name, `group` what it says of the body. `largest_pixels`
    bounds every calibration picture, so that a folder of photographs needs no more memory than one of drawings."""

    model: str
    scheme: str
    work: str
    method: str
    group: dict[str, Any]
    targets: str
    samples: tuple[tuple[tuple[str, ...], str, str], ...]
    largest_pixels: int
    longest_tokens: int
    device: str

    def fingerprint(self) -> str:
        """Changes when the result would: the same run goes on where it was, another one does not."""
        files = [
            (file.name, file.stat().st_size, file.stat().st_mtime_ns)
            for file in sorted(Path(self.model).glob("*.safetensors"))
        ]
        kept = {**asdict(self), "work": "", "device": "", "files": files}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    def write(self) -> Path:
        file = Path(self.work) / "job.json"
        file.write_text(json.dumps(asdict(self) | {"fingerprint": self.fingerprint()}, indent=1), encoding="utf-8")
        return file

    @classmethod
    def read(cls, file: Path) -> "Job":
        values = json.loads(file.read_text(encoding="utf-8"))
        del values["fingerprint"]
        samples = tuple((tuple(images), question, answer) for images, question, answer in values["samples"])
        return cls(**{**values, "samples": samples})


def fingerprint_of(file: Path) -> str:
    """That of the job in a file; empty where it was cut off."""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["fingerprint"])
    except (ValueError, KeyError):
        return ""


def say(step: str, done: int, of: int, **facts: Any) -> None:
    """In the worker: one step is done."""
    sys.stdout.write(_MARK + json.dumps({"step": step, "done": done, "of": of, **facts}) + "\n")
    sys.stdout.flush()


def heard(line: str) -> dict[str, Any] | None:
    """In the parent: what a line of the worker says; None for a line of the library's."""
    if not line.startswith(_MARK):
        return None
    value: dict[str, Any] = json.loads(line.removeprefix(_MARK))
    return value
