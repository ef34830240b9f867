"""A server whose model says what a test tells it to: for answers that a real one, held to a schema, cannot be made to give."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Said:
    """`answers` are given in turn, the last one again and again; (answer, "length") is one that was cut off."""

    answers: list[str | tuple[str, str]]
    status: dict[str, Any] | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.requests.append(request)
            said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        text, reason = said if isinstance(said, tuple) else (said, "stop")
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": "stand-in", "choices": [choice]}

    @property
    def last_words(self) -> str:
        """The last message of the last request."""
        content = self.requests[-1]["messages"][-1]["content"]
        return content if isinstance(content, str) else str(content[-1]["text"])


@contextmanager
def model_that_says(*answers: str | tuple[str, str], status: dict[str, Any] | None = None) -> Iterator[Said]:
    """A real socket on a free port of loopback. `status` is what `/onecard/status` tells; without it, it is not there."""
    said = Said(list(answers), status)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            models = {"object": "list", "data": [{"id": "stand-in", "object": "model", "created": 0, "owned_by": "me"}]}
            found = models if self.path == "/v1/models" else said.status
            self._reply(
                found if found is not None else {"error": {"message": "not here"}}, 404 if found is None else 200
            )

        def do_POST(self) -> None:
            self._reply(said.next(json.loads(self.rfile.read(int(self.headers["Content-Length"])))), 200)

        def _reply(self, body: dict[str, Any], code: int) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        said.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield said
        finally:
            server.shutdown()
            thread.join()
