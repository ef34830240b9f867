"""What `onecard serve` says while it works: one line a step, a sign of life on long ones, a banner when ready."""

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

from serving.ipc.launch import Launch
from serving.machine.progress import Progress

_HEARTBEAT_S = 10.0


class Console:
    """Prints to stderr, so that stdout stays free; on a terminal it rewrites its last line. Where stderr has been closed, or is
    a file on a full disk, nothing is printed and serving goes on."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()
        self._open_line = False

    def say(self, text: str) -> None:
        """One line of its own."""
        _write(("\n" if self._open_line else "") + text + "\n")
        self._open_line = False
        self._last = time.monotonic()

    def step(self, progress: Progress) -> None:
        """A new step has begun."""
        typical = progress.typical_step_s()
        usual = f" (usually {typical:.0f} s)" if typical and typical >= 1 else ""
        self.say(f"[{progress.elapsed_s():4.0f} s] {progress.title}{usual}")

    def tick(self, progress: Progress) -> None:
        """To be called every second or so: shows that a long step is still running."""
        left = progress.seconds_left()
        text = f"[{progress.elapsed_s():4.0f} s] … still {progress.title}" + (
            f", about {left:.0f} s left" if left else ""
        )
        if self._terminal and time.monotonic() - self._last > 2:
            _write("\r\x1b[2K" + text)
            self._open_line = True
        elif not self._terminal and time.monotonic() - self._last > _HEARTBEAT_S:
            self.say(text)

    def ready(self, launch: Launch, seconds: float, keyed: bool) -> None:
        """The banner: the address, the model's names, and lines to copy."""
        names = launch.model_names
        key = " -H 'Authorization: Bearer YOUR_KEY'" if keyed else ""
        port = f" --port {launch.port}" if launch.port != 8000 else ""
        self.say(
            f"\nReady after {seconds:.0f} s: {launch.url}/v1   model: {names[0]}"
            + (f" (also {', '.join(names[1:])})" if names[1:] else "")
            + f"\n\n  {_command()} ask{port} photo.jpg 'What is in the picture?'"
            + f"\n  curl{key} -F image=@photo.jpg -F question='What is in the picture?' {launch.url}/ask"
            + f"\n  OpenAI(base_url='{launch.url}/v1', api_key='{'YOUR_KEY' if keyed else 'none'}')   # Python, openai SDK"
            + f"\n\nLog: {launch.run_dir / 'server.log'}   Stop: Ctrl-C or `{_command()} stop{port}`"
        )
        if not keyed:
            self.say("No API key is set, so only this machine can reach it (set ONECARD_API_KEY to open it to others).")


def _write(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _command() -> str:
    """What this user types for `onecard`: the word alone where it is on the PATH, else its path from here."""
    return "onecard" if shutil.which("onecard") else os.path.relpath(Path(sys.executable).parent / "onecard")
