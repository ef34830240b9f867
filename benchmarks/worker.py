"""A child process that does one thing again and again: a JSON line in, a JSON line out. Importing vLLM takes ten seconds,
a measurement two; so the process that measures is started once. Both sides of the pipe are here.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cores import held_to
from benchmarks.ending import TIED


class WorkerError(RuntimeError):
    """The child could not do it, or has ended; in its own words."""


class Worker:
    """`python -m MODULE ARGUMENTS`, held to `cores` where they are given; what it prints goes to `log`."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        log: Path,
        cores: Sequence[int] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self._log = log
        command = [*TIED, *held_to(cores), sys.executable, "-m", module, *arguments]
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=os.environ | (environment or {}),
                text=True,
            )

    def ask(self, task: Any) -> Any:
        """Sends a task and waits for its answer. Raises WorkerError."""
        if self._process.stdin is None or self._process.stdout is None:
            raise WorkerError("the worker has no pipes")
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the worker ended; {last_error(self._log)}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["result"]

    def stop(self) -> None:
        """Ends the child."""
        self._process.terminate()
        self._process.communicate()


def serve(prepare: Callable[[], Callable[[Any], Any]]) -> None:
    """The child's side: answers each line of stdin until there is none. Whatever is printed, by `prepare` while it imports
    or by what it returns while it works, goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    do = prepare()
    for line in sys.stdin:
        try:
            answer = {"result": do(json.loads(line))}
        except (Exception, SystemExit) as error:  # told to the parent, which names the measurement that failed
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def last_error(log: Path) -> str:
    """What a log says of an end: its first error, which the later ones follow from, else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    errors = (line for line in lines if "Error: " in line or line.startswith("onecard: "))
    told = next(errors, next((line for line in reversed(lines) if line.strip()), "it said nothing"))
    return f"{told.strip()[-400:]} (the log: {log})"
