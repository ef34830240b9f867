"""One replica: a whole `onecard serve` on a free port of loopback, and the way to it.

Supervisor, guard, plan and warm-up are that server's own. It dies with the replica's process, however that ends; the replica
says that it is healthy as long as its server's supervisor lives, which restarts a dead engine by itself.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx

from deploy.ray.asked import Asked
from deploy.ray.metrics import Bridge
from deploy.ray.settings import Settings
from serving.guard.keys import read_keys
from serving.machine.port import free_port

# Of a request, what concerns the connection to the door and not the answer (RFC 9110, 7.6.1), and what was checked there.
_NOT_HANDED_ON = frozenset({"host", "origin", "connection", "content-length", "transfer-encoding", "expect", "te"})
# Serve gives every request an id, which goes on to the server and comes back from Serve itself.
_NOT_HANDED_BACK = frozenset({"connection", "transfer-encoding", "keep-alive", "date", "server", "x-request-id"})
# Whatever ends the replica's process, what it started ends with it; an exec keeps that (prctl(2), PR_SET_PDEATHSIG).
_TIED = """\
import os, sys
from serving.plugin import die_with_parent
die_with_parent(int(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""
# vLLM on a CPU binds its threads to the first cores, and so would every replica on the machine.
_SHARING = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
_STOP_S = 30.0
_LAST_WORDS = 4000


class Replica:
    """Its construction returns when the server is ready, and raises RuntimeError with the server's last words otherwise."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = Settings.model_validate(settings)
        self._port = free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        self._process = subprocess.Popen(
            tied(command(self._settings, self._port)),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=_SHARING | os.environ | {"ONECARD_EXPORTER_PORT": "0"},
            start_new_session=True,
        )
        self._client = httpx.AsyncClient(
            base_url=self._url,
            timeout=None,  # noqa: S113 - an answer takes as long as it takes; the server bounds it
            trust_env=False,
            limits=httpx.Limits(max_connections=None),
        )
        self._wait_until_ready()
        key = next((key.secret for key in read_keys(self._settings.api_keys_file).values()), None)
        self._bridge = Bridge(self._url, self._settings.metrics_interval_s, _own_name(), key)
        self._bridge.start()

    async def answer(self, asked: Asked) -> AsyncIterator[Any]:
        """First None, which says that this replica has the request; then the status with the headers; then the body."""
        yield None
        request = self._client.build_request(
            asked.method, asked.path, headers=headers_on(asked.headers), content=asked.body or None
        )
        reply = await self._client.send(request, stream=True)
        try:
            yield reply.status_code, headers_back(reply.headers.multi_items())
            async for chunk in reply.aiter_raw():
                yield chunk
        finally:
            await reply.aclose()

    def where(self) -> dict[str, Any]:
        """The processes and the port, for whoever looks for this replica on its machine."""
        return {"pid": os.getpid(), "server_pid": self._process.pid, "port": self._port}

    def check_health(self) -> None:
        """Raises RuntimeError when the server has ended; Serve then puts another replica in this one's place."""
        if (code := self._process.poll()) is not None:
            raise RuntimeError(f"onecard serve has ended with exit code {code}")

    async def __del__(self) -> None:
        """Serve calls it when what this replica was answering has been answered."""
        if hasattr(self, "_bridge"):
            self._bridge.stop()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, _STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + self._settings.start_s
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"onecard serve ended with exit code {self._process.returncode}:\n{self._said()}")
            if _is_ready(self._url):
                return
            time.sleep(0.25)
        self._process.kill()
        raise RuntimeError(f"onecard serve was not ready after {self._settings.start_s:.0f} s:\n{self._said()}")

    def _said(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-_LAST_WORDS:]


def tied(words: list[str]) -> list[str]:
    """The same command, which ends when this process does."""
    return [sys.executable, "-c", _TIED, str(os.getpid()), *words]


def command(settings: Settings, port: int) -> list[str]:
    """What a replica starts."""
    if settings.command:
        return [word.replace("{port}", str(port)) for word in settings.command]
    words = [sys.executable, "-m", "serving", "serve", "--profile", settings.profile, "--port", str(port)]
    words += ["--model", settings.model] if settings.model else []
    words += ["--drain-seconds", f"{settings.drain_s:g}"]
    words += ["--api-keys-file", str(settings.api_keys_file)] if settings.api_keys_file else []
    return words + (["--", *settings.vllm_arguments] if settings.vllm_arguments else [])


def headers_on(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of a request that a replica's server gets."""
    return [(name, value) for name, value in headers if name.lower() not in _NOT_HANDED_ON]


def headers_back(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of an answer that the client gets."""
    return [(name, value) for name, value in headers if name.lower() not in _NOT_HANDED_BACK]


def _own_name() -> str:
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
