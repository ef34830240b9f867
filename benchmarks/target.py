"""What a question is put to: a server, or transformers without one. It counts the pictures, so that none comes twice."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from benchmarks.contenders import Contender
from benchmarks.generator import Generator
from benchmarks.load import Answer, Load
from benchmarks.servers import Server
from benchmarks.watch import watching
from benchmarks.worker import Worker
from benchmarks.workload import Workload


@dataclass(frozen=True)
class Scope:
    """How much is measured. `waves` is the number of times that all clients ask, or all places of the engine are filled,
    in one measurement; one client asks for about `seconds`."""

    tokens: int = 128
    repetitions: int = 3
    seconds: float = 6.0
    waves: int = 4
    clients: tuple[int, ...] = (1, 4, 16, 64)
    first_token_ms: float = 500.0
    per_token_ms: float = 50.0


class NotServedError(Exception):
    """The question cannot be put to this contender: it serves one client at a time."""


class Sender(Protocol):
    """How requests reach what is measured. `server_pid` is its first process, where this machine runs it as a server."""

    server_pid: int | None

    def send(
        self,
        workload: Workload,
        *,
        first: int,
        count: int,
        tokens: int,
        clients: int | None,
        per_s: float,
        question: int,
    ) -> Load: ...


class Target:
    """One contender while it is measured. `say` tells of the progress of a long measurement; `gpu` is NVML's index of the one
    that it works on, where that is watched."""

    def __init__(
        self,
        contender: Contender,
        scope: Scope,
        sender: Sender,
        say: Callable[[str], None],
        gpu: int | None = None,
    ) -> None:
        self.contender = contender
        self.scope = scope
        self.say = say
        self._sender = sender
        self._gpu = gpu
        self._next = 0
        self._question = 0
        self._last: dict[tuple[Workload, int], tuple[int, int]] = {}
        self._single: dict[Workload, int] = {}

    def closed_loop(self, workload: Workload, clients: int, count: int | None = None) -> Load:
        """So many clients, each asking again as soon as it is answered; pictures that were never sent before."""
        count = count or self._count(workload, clients)
        first, self._next = self._next, self._next + count
        self._last[workload, clients] = (first, count)
        return self._send(workload, first, count, clients)

    def again(self, workload: Workload, clients: int) -> Load:
        """The pictures of the last closed loop once more, with another question."""
        if (workload, clients) not in self._last:
            self.closed_loop(workload, clients)
        self._question += 1
        return self._send(workload, *self._last[workload, clients], clients)

    def arrivals(self, workload: Workload, per_s: float, count: int) -> Load:
        """Requests that arrive by chance, `per_s` a second, however many are being answered."""
        first, self._next = self._next, self._next + count
        return self._send(workload, first, count, None, per_s)

    @property
    def server(self) -> tuple[str, str]:
        """The address with `/v1`, and the model, for what is asked otherwise than by the generator."""
        if not isinstance(self._sender, ToServer):
            raise NotServedError
        return self._sender.url, self._sender.model

    @property
    def server_pid(self) -> int | None:
        """The server's first process, where there is one on this machine."""
        return self._sender.server_pid

    def unseen(self) -> int:
        """The number of a picture that was not sent before."""
        first, self._next = self._next, self._next + 1
        return first

    def _send(self, workload: Workload, first: int, count: int, clients: int | None, per_s: float = math.inf) -> Load:
        if not self.contender.serves and clients != 1:
            raise NotServedError
        with watching(self._gpu, self.server_pid) as watch:
            load = self._sender.send(
                workload,
                first=first,
                count=count,
                tokens=self.scope.tokens,
                clients=clients,
                per_s=per_s,
                question=self._question,
            )
        # Before the load its pictures were drawn.
        return replace(load, gpu_busy=watch.gpu_busy(load.seconds), api_cpu_s=watch.api_cpu_s(load.seconds))

    def _count(self, workload: Workload, clients: int) -> int:
        """Many clients: as many waves for each contender, whether it takes 16 at a time or 64, so that filling and draining
        weigh the same. One client neither fills nor drains: as many requests as the time allows."""
        if clients > 1:
            return max(clients, self.scope.waves * min(clients, self.contender.in_flight))
        if workload not in self._single:
            pilot = self.closed_loop(workload, 1, count=1)
            self._single[workload] = max(3, min(30, round(self.scope.seconds / pilot.seconds)))
        return self._single[workload]


class ToServer:
    """Requests over HTTP, by the generator. `alive` raises DiedError when the server has ended."""

    def __init__(self, generator: Generator, url: str, model: str, server: Server | None = None) -> None:
        self._generator, self.url, self.model, self._server = generator, url, model, server
        self.server_pid = server.process.pid if server else None

    def send(
        self,
        workload: Workload,
        *,
        first: int,
        count: int,
        tokens: int,
        clients: int | None,
        per_s: float,
        question: int,
    ) -> Load:
        if self._server:
            self._server.check_alive()
        load = self._generator.send(
            self.url,
            self.model,
            workload,
            first=first,
            count=count,
            tokens=tokens,
            clients=clients,
            per_s=per_s,
            question=question,
            seed=first,
        )
        if self._server and load.failed:  # what was answered before it died is no measurement
            self._server.check_alive()
        return load


class ToTransformers:
    """Requests to the model in a process of its own (generate.py), one after the other. Nothing is seen of an answer
    before it is complete: its first token is as late as its last."""

    server_pid: int | None = None

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def send(
        self,
        workload: Workload,
        *,
        first: int,
        count: int,
        tokens: int,
        clients: int | None,
        per_s: float,
        question: int,
    ) -> Load:
        del clients, per_s  # there is one client, and it waits
        with TemporaryDirectory(prefix="onecard-bench-") as folder:
            file = Path(folder) / "requests.jsonl"
            workload.write(file, first, count, question)
            rows = self._worker.ask({"requests": str(file), "tokens": tokens})
        answers = [Answer(row["seconds"], row["seconds"], row["tokens"], row["prompt_tokens"]) for row in rows]
        return Load(sum(answer.total_s for answer in answers), workload.pictures, answers)
