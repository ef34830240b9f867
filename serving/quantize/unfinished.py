"""`OUT.partial`: what an unfinished run leaves, whose it is, and how long it has taken so far."""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.errors import UsageError
from serving.machine.state_dir import read_json, write_json
from serving.quantize.job import Job, fingerprint_of


@contextlib.contextmanager
def held(work: Path, *, anew: bool) -> Iterator[None]:
    """Makes the folder and keeps other runs out of it; the kernel lets them in however this process ends. `anew` throws
    away what is there. Raises UsageError where another run is at work."""
    work.mkdir(parents=True, exist_ok=True)
    folder = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"Another `onecard quantize` is at work in {work}. Wait until it has finished, or name another --out."
            ) from error
        if anew:
            for each in work.iterdir():
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        yield
    finally:
        os.close(folder)


def take_up(work: Path, job: Job) -> str:
    """Hands the job over, and says what of it an interrupted run has done; empty where that is nothing. Raises UsageError
    where that run was another."""
    before = work / "job.json"
    kept = len(list(work.glob("layers/*.safetensors")))
    made = is_made(work)
    known = before.is_file() and (kept > 0 or made)
    if known and fingerprint_of(before) != job.fingerprint():
        raise UsageError(
            f"{work} holds an unfinished run with another model, scheme or calibration. Give the same ones to go on with "
            "it, or add --restart to begin anew."
        )
    job.write()
    return ("the checkpoint is made" if made else f"{kept} parts are done") if known else ""


def is_made(work: Path) -> bool:
    """Whether the checkpoint is whole, and only its proof is left."""
    return (work / "made" / "config.json").is_file()  # which is written last


@contextlib.contextmanager
def notes(work: Path) -> Iterator[dict[str, Any]]:
    """What the README of the result will tell of the making: `seconds`, those of the interrupted runs with them, and what
    is put in."""
    file = work / "notes.json"
    found = {"seconds": 0.0} | (read_json(file) or {})
    began = time.monotonic()
    try:
        yield found
    finally:
        found["seconds"] += time.monotonic() - began
        with contextlib.suppress(OSError):  # no room even for this: the time is not all told, and the run can go on
            write_json(file, found)
