"""The known-good question: a version serves the built-in model on a spare port, sees a red square and must say so.

It is asked over HTTP as any client does, so that whatever a client needs has worked once: vLLM starts, the guard lets the
request in, the picture is read, the answer is right.
"""

import base64
import contextlib
import io
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from PIL import Image

from serving.errors import NotRunningError, OnecardError
from serving.machine.port import free_port
from serving.machine.progress import TITLES
from serving.machine.running import fetch_status
from serving.setup.environment import own_packages_only
from serving.setup.pip import Screen, stop
from serving.upgrade.service import as_user

MODEL, QUESTION, ANSWER = "demo", "What is in the picture?", "red square"
START_LIMIT_S = 1800
"""A first start on a GPU compiles kernels, minutes of it; one that has no end is none."""
_STOP_S = 45
_TAIL_LINES = 12


def ask_known_good(onecard: Path, profile: str, owner: str, screen: Screen) -> None:
    """Starts that `onecard`, as the user `owner` where one is named, asks, and stops it.

    Raises OnecardError with the end of its log where it does not start, does not answer, or answers wrongly.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="onecard-upgrade-", ignore_cleanup_errors=True) as folder:
        if owner:
            os.chmod(folder, 0o755)  # noqa: S103 - a folder for another user's below it
        with _serving(onecard, profile, owner, Path(folder), screen) as (url, log):
            answer = _ask(url, log)
    if ANSWER not in answer.lower():
        raise OnecardError(f"The new version starts and answers wrongly: a red square is to it {answer!r}.")
    screen.say(f"The new version sees a red square and says: {answer!r} ({time.monotonic() - began:.0f} s).")


@contextlib.contextmanager
def _serving(onecard: Path, profile: str, owner: str, folder: Path, screen: Screen) -> Iterator[tuple[str, Path]]:
    port, log, home = free_port(), folder / "server.log", folder / "home"
    home.mkdir()
    command = [str(onecard), "serve", "--profile", profile, "--model", MODEL, "--port", str(port)]
    # Nothing of the service's: no key, no exporter's port, no state, no service manager to talk to.
    ours = ("ONECARD_", "NOTIFY_", "WATCHDOG_")
    kept = {name: value for name, value in own_packages_only().items() if not name.startswith(ours)}
    mine = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "ONECARD_STATE_DIR": str(home),
        "ONECARD_EXPORTER_PORT": "0",
    }
    if owner:
        shutil.chown(home, owner, owner)
    with log.open("wb") as output:
        server = subprocess.Popen(
            as_user(owner, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=kept | mine,
            cwd=home,
            process_group=0,
        )
    try:
        _wait_until_ready(server, port, log, screen)
        yield f"http://127.0.0.1:{port}", log
    finally:
        server.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_S)
        stop(server)


def _wait_until_ready(server: "subprocess.Popen[bytes]", port: int, log: Path, screen: Screen) -> None:
    title, began = f"Asking the new version on port {port}", time.monotonic()
    screen.begin(title)
    while time.monotonic() - began < START_LIMIT_S:
        if server.poll() is not None:
            raise OnecardError(
                f"The new version does not start (exit code {server.returncode}). Its last words:\n{_tail(log)}"
            )
        try:
            status = fetch_status(port)
        except NotRunningError:
            doing = "starting"
        else:
            if status["state"] == "ready":
                return
            doing = TITLES.get(status["step"], str(status["step"]))
        screen.now(title, doing, time.monotonic() - began)
        time.sleep(0.3)
    raise OnecardError(
        f"The new version is not ready after {START_LIMIT_S // 60} minutes. Its last words:\n{_tail(log)}"
    )


def _ask(url: str, log: Path) -> str:
    content = [{"type": "image_url", "image_url": {"url": _red_square()}}, {"type": "text", "text": QUESTION}]
    body = {"model": MODEL, "max_tokens": 64, "temperature": 0, "messages": [{"role": "user", "content": content}]}
    try:
        # A proxy has no business with loopback.
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120, trust_env=False)
        reply.raise_for_status()
        return str(reply.json()["choices"][0]["message"]["content"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
        raise OnecardError(
            f"The new version starts and does not answer: {error}. Its last words:\n{_tail(log)}"
        ) from error


def _red_square() -> str:
    """As a data URL. The size and the place are those at which the built-in model is sure."""
    image = Image.new("RGB", (320, 240), "white")
    image.paste((255, 0, 0), (100, 60, 220, 180))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:])
