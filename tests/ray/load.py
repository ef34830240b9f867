"""Requests that never pause, and what became of each."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Load:
    """`clients` threads that ask one after another from `with` to its end."""

    url: str
    clients: int
    body: dict[str, Any]
    answered: int = 0
    refused: list[httpx.Response] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    expected: str = "red circle"

    def __enter__(self) -> "Load":
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Lets every request that is under way come to its end."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(timeout=600, trust_env=False) as client:
            while not self._ending.is_set():
                try:
                    reply = client.post(f"{self.url}/v1/chat/completions", json=self.body)
                except httpx.HTTPError as error:
                    with self._lock:
                        self.broken.append(repr(error))
                    time.sleep(0.2)
                    continue
                with self._lock:
                    if reply.status_code != 200:
                        self.refused.append(reply)
                        continue
                    self.answered += 1
                    said = reply.json()["choices"][0]["message"]["content"]
                    if self.expected not in said:
                        self.wrong[said] += 1
