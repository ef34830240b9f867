"""The running server seen from outside: its status, its end, its log."""

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx

from serving.errors import NotRunningError, OnecardError, UsageError
from serving.machine.onecards import is_onecard
from serving.machine.processes import longest_end_s
from serving.machine.state_dir import log_file, read_json, run_dir

# By name, since the SDK's HTTP library is httpx or httpx2, by its version.
_BROKEN_OFF = frozenset({"RemoteProtocolError", "ReadError", "ReadTimeout"})


def fetch_status(port: int, key: str | None = None, timeout_s: float = 10) -> dict[str, Any]:
    """The JSON of `/onecard/status`; `key` is ONECARD_API_KEY where none is given.

    Raises NotRunningError when nobody, or somebody else, answers there.
    """
    url = f"{server_url(port)}/onecard/status"
    key = key or os.environ.get("ONECARD_API_KEY", "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        # A proxy has no business with loopback, and there is no TLS there: reading all the certificates that nobody is asked
        # for takes 25 ms of CPU each time, and the exporter asks every second.
        reply = httpx.get(url, headers=headers, timeout=timeout_s, trust_env=False, verify=False)  # noqa: S501
        reply.raise_for_status()
        status = reply.json()
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 401:
            raise OnecardError("The server needs a key: set ONECARD_API_KEY to one that it knows.") from error
        raise NotRunningError(f"Something answers on port {port}, but it is not onecard ({url}: {error}).") from error
    except httpx.TimeoutException as error:
        raise NotRunningError(
            f"What listens on port {port} does not answer within {timeout_s:.0f} s. A server that is stuck is ended "
            "and started again, after 90 s or what --hang-seconds says; `onecard logs` shows what it did last."
        ) from error
    except (httpx.HTTPError, ValueError) as error:
        raise NotRunningError(
            f"No onecard answers on port {port}. Start it with `onecard serve`, or name its port with --port."
        ) from error
    if not isinstance(status, dict) or not {"state", "plan", "queue"} <= status.keys():
        raise NotRunningError(f"Something answers on port {port}, but it is not onecard ({url}).")
    return status


def fetch_state(port: int, timeout_s: float = 10) -> str | None:
    """The state alone, which `/ready` tells without a key; None when nobody, or somebody else, answers there."""
    with contextlib.suppress(httpx.HTTPError, ValueError):
        reply = httpx.get(f"{server_url(port)}/ready", timeout=timeout_s, trust_env=False, verify=False)  # noqa: S501
        told = reply.json()
        if isinstance(told, dict) and isinstance(state := told.get("state"), str):
            return state
    return None


def server_url(port: int) -> str:
    """Where the server on that port of this machine is reached: on the address that it was told to listen on, else on
    loopback."""
    url = (_facts(port) or {}).get("url")
    return url if isinstance(url, str) else f"http://127.0.0.1:{port}"


def describe_status(status: dict[str, Any]) -> str:
    """A few lines for a person."""
    queue, left = status["queue"], status["seconds_left"]
    lines = [f"{status['state']}: {status['url']}/v1, model {status['models'][0]}, profile {status['plan']['profile']}"]
    if status["others"]:
        lines.append(f"other models, loaded when a request names them: {', '.join(status['others'])}")
    if status["asleep_since"]:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status["asleep_since"]))
        lines.append(
            f"since {since}; the next request wakes it" + (f", which takes about {left:.0f} s" if left else "")
        )
    elif status["state"] != "ready":
        lines.append(f"step: {status['step']}" + (f", about {left:.0f} s left" if left else ""))
    lines.append(f"requests: {queue['running']} running, {queue['waiting']} waiting; restarts: {status['restarts']}")
    for card in status.get("cards", []):
        gpu = f" (GPU {', '.join(map(str, card['gpus']))})" if card["gpus"] else ""
        why = f": {card['why']}" if card["why"] else ""
        lines.append(
            f"card {card['card']}{gpu}: {card['state']}, {card['requests']} requests, {card['restarts']} restarts{why}"
        )
    if given_up := status["plan"]["given_up"]:
        lines.append(f"given up so that it fits: {'; '.join(given_up)}")
    if status["wakes"] or status["swaps"]:
        lines.append(f"woken: {status['wakes']}, models exchanged: {status['swaps']}")
    return "\n".join(lines)


@contextlib.contextmanager
def client_errors(url: str) -> Iterator[None]:
    """Turns what a client command may meet (the SDK's exceptions, unreadable files) into refusals in words."""
    import openai

    from clients.errors import AnswerError, InputError
    from clients.request import why_not_sent

    try:
        yield
    except InputError as error:
        raise UsageError(str(error)) from error
    except UnicodeEncodeError as error:
        raise UsageError(why_not_sent(error)) from error
    except AnswerError as error:
        raise OnecardError(str(error)) from error
    except openai.APIConnectionError as error:
        if type(error.__cause__).__name__ in _BROKEN_OFF:
            raise _broke_off(error.__cause__) from error
        raise NotRunningError(f"No server answers at {url}. Start one with `onecard serve`.") from error
    except openai.AuthenticationError as error:
        raise OnecardError(
            f"The server at {url} does not take the key that was sent, or none was (401). Set ONECARD_API_KEY to one that "
            "it knows."
        ) from error
    except openai.APIStatusError as error:
        said = error.body.get("message") if isinstance(error.body, dict) else None
        if said is None:
            raise OnecardError(
                f"What answers at {url} does not speak OpenAI's API ({error.status_code} without its error). Is the "
                "address right? `--port` and `--url` name another."
            ) from error
        raise OnecardError(f"The server refused ({error.status_code}): {said}") from error
    except (openai.APIError, httpx.HTTPError) as error:  # in the middle of a stream
        raise _broke_off(error) from error
    except BrokenPipeError:  # whoever reads the answer has enough of it (`| head`): the command ends quietly
        raise
    except OSError as error:
        if error.filename is None:  # it was open already: a disk that is full, above all
            raise OnecardError(f"Reading or writing failed: {error.strerror or error}.") from error
        hint = " A folder is for `onecard batch`." if isinstance(error, IsADirectoryError) else ""
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.{hint}") from error


def _broke_off(cause: BaseException | None) -> OnecardError:
    return OnecardError(f"The answer broke off ({cause}). `onecard status` says how the server is.")


def supervisor_facts(port: int) -> dict[str, Any]:
    """What the supervisor on that port has left word of (`Situation.note`); for commands of this machine, which need no key.
    Raises NotRunningError, and OnecardError where one answers and its word is not here."""
    if facts := _facts(port):
        return facts
    if fetch_state(port):
        raise OnecardError(
            f"A onecard answers on port {port}, and {run_dir(port)} does not say which process it is: it keeps its state in "
            "another folder, or is another user's. Set ONECARD_STATE_DIR to its folder (of a service: /var/lib/onecard/state, "
            "as root), or send its process SIGTERM to stop it."
        )
    raise _nobody_on(port)


def _facts(port: int) -> dict[str, Any] | None:
    facts = read_json(run_dir(port) / "server.json")
    known = isinstance(facts, dict) and isinstance(facts.get("pid"), int) and is_onecard(facts["pid"])
    return facts if known else None


def signal_supervisor(port: int, number: signal.Signals) -> dict[str, Any]:
    """Sends that signal to the supervisor on that port, and returns its facts. Raises NotRunningError, also where it ended in
    this moment, and OnecardError where it is another user's."""
    facts = supervisor_facts(port)
    try:
        os.kill(facts["pid"], number)
    except ProcessLookupError as error:
        raise _nobody_on(port) from error
    except PermissionError as error:
        raise OnecardError(
            f"The onecard on port {port} (process {facts['pid']}) runs as another user, and only that user or root can do this."
        ) from error
    return facts


def _nobody_on(port: int) -> NotRunningError:
    return NotRunningError(f"No onecard runs on port {port}. If it listens elsewhere, name its port with --port.")


def stop_server(port: int) -> float:
    """Ends the server on that port; the seconds it took. Raises NotRunningError, or OnecardError when it does not end."""
    import psutil

    began = time.monotonic()
    facts = signal_supervisor(port, signal.SIGTERM)
    pid = facts["pid"]
    try:
        psutil.Process(pid).wait(timeout=longest_end_s(float(facts.get("drain_s", 0))))
    except psutil.NoSuchProcess:
        pass  # it was gone before the wait began
    except psutil.TimeoutExpired as error:
        raise OnecardError(f"Process {pid} does not end. `kill -9 {pid}` ends it; its children die with it.") from error
    return time.monotonic() - began


def log_lines(port: int, count: int, *, follow: bool, card: int = 0) -> Iterator[str]:
    """The last `count` lines of the log of that card's server, and, with `follow`, what is added, without end."""
    file = log_file(port, card)
    last: int | None = count  # of the first log; of those that follow it, all
    while True:
        with _open_log(file, port, card) as log:
            yield from deque(log, maxlen=last)
            if not follow:
                return
            while _goes_on(log, file):
                yield from log
                time.sleep(0.2)
            yield from log  # what was added between the two looks
        last = None


def _goes_on(log: IO[str], file: Path) -> bool:
    """Whether the log still grows there: a full one is renamed and a new one begun (supervisor/server_log.py)."""
    try:
        return os.path.samestat(os.fstat(log.fileno()), file.stat())
    except FileNotFoundError:
        return True  # not begun yet


def _open_log(file: Path, port: int, card: int) -> IO[str]:
    try:
        return file.open(encoding="utf-8", errors="replace")
    except FileNotFoundError as error:
        of = f"card {card} of port {port}" if card else f"port {port}"
        raise NotRunningError(
            f"There is no log for {of} ({file}). Was a server started there, with this ONECARD_STATE_DIR?"
        ) from error
    except OSError as error:
        raise NotRunningError(
            f"{file} cannot be read: {error.strerror}. Does the server run as another user?"
        ) from error
