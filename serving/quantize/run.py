"""The worker run to its end: its steps shown with the time left, its interruption clean, its failure explained."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.errors import DiskFullError, DoesNotFitError, OnecardError
from serving.quantize.environment import worker_environment
from serving.quantize.job import Job, heard
from serving.setup.pip import stop

_TITLES = {"load": "loading the model", "pictures": "reading the pictures", "save": "writing the checkpoint"}
_SAID_EVERY_S = 5.0


def run_worker(job: Job, python: Path, log: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The worker's last words. Raises OnecardError with the library's own last line where it fails."""
    progress = Progress(say)
    command = [str(python), "-m", "serving.quantize.worker", str(Path(job.work) / "job.json")]
    last: dict[str, Any] = {}
    with log.open("a", encoding="utf-8") as record:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=record,
            env=worker_environment(),
            process_group=0,
        )
        try:
            for raw in process.stdout or ():
                line = raw.decode(errors="replace")
                if (told := heard(line)) is not None:
                    last = told
                    progress.step(told)
                else:
                    record.write(line)
        finally:
            stop(process)
    if process.returncode or last.get("step") != "save":
        raise _explain(process.returncode, log)
    if last["peak_gpu_mib"]:
        say(f"Peak of GPU memory: {last['peak_gpu_mib']:,} MiB.")
    return last


class Progress:
    """What a step says to a person: each layer with the time left, quick steps now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said = 0.0
        self._seconds: list[float] = []

    def step(self, told: dict[str, Any]) -> None:
        if told["step"] == "skipped":
            self._say(f"  skipped {told['name']}: {told['reason']}")
            return
        done, of = told["done"], told["of"]
        if told["step"] != "layer":
            if time.monotonic() - self._said > _SAID_EVERY_S or done in (0, of):
                self._said = time.monotonic()
                self._say(f"{_TITLES[told['step']]}" + (f": {done} of {of}" if of > 1 else ": done" if done else " …"))
            return
        if told["kept"]:
            self._say(f"part {done} of {of}: done before")
            return
        self._seconds.append(told["seconds"])
        left = sum(self._seconds) / len(self._seconds) * (of - done)
        self._say(f"part {done} of {of}: {told['seconds']:.0f} s" + (f", about {left:.0f} s left" if done < of else ""))


def _explain(code: int, log: Path) -> OnecardError:
    tail = [line.strip() for line in log.read_text(errors="replace").splitlines()[-400:] if line.strip()]
    verdict = next((line for line in reversed(tail) if "Error" in line or "error" in line), f"exit code {code}")[:300]
    text = "\n".join(tail)
    again = "The same command goes on with the layers that are done."
    if "No space left" in text:
        return DiskFullError(f"The disk became full while quantizing. Free some. {again} Details: {log}")
    if "out of memory" in text.lower() or code == -9:
        return DoesNotFitError(
            f"The memory did not suffice ({verdict}). Calibrate on less (--samples 32), or on the CPU (--device cpu). "
            f"Details: {log}"
        )
    return OnecardError(f"llm-compressor failed: {verdict}. {again} Details: {log}")
