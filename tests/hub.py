"""A model hub on this machine: the routes of the Hugging Face Hub that a download uses, with what can go wrong on the way."""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One model, `someone/model`. Set a fault at any time; `asked` has each request as (method, path, Range)."""

    files: dict[str, bytes]
    gated: bool = False
    portal: bool = False  # a page of HTML instead of every answer, as a hotel's network gives
    hangs_up: bool = False  # the connection is closed without an answer
    cuts: int = 0  # how many downloads of the weights end in their middle
    weights_asked: threading.Event = field(default_factory=threading.Event)
    weights_given: threading.Event = field(default_factory=threading.Event)  # set unless a test holds the weights back
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def hub_of(files: dict[str, bytes]) -> Iterator[Hub]:
    """Serves them on a free port of loopback."""
    hub = Hub(files)
    hub.weights_given.set()

    class Handler(_Handler):
        served = hub

    with _Server(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.weights_given.set()
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error of the server's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _answer(self) -> None:
        hub, path = self.served, urlsplit(self.path).path
        hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if hub.hangs_up:
            self.close_connection = True
        elif hub.portal:
            self._send(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
        elif path == "/api/models/someone/model/revision/main":
            siblings = [{"rfilename": name} for name in hub.files]
            self._json({"id": "someone/model", "sha": COMMIT, "siblings": siblings})
        elif path == f"/api/models/someone/model/tree/{COMMIT}":
            self._json([self._entry(name, content) for name, content in hub.files.items()])
        elif path.startswith("/api/models/someone/model/"):
            self._refuse(404, "RevisionNotFound")
        elif path.startswith(place := f"/someone/model/resolve/{COMMIT}/") and path[len(place) :] in hub.files:
            self._resolve(path[len(place) :])
        elif path.startswith("/cdn/") and path[5:] in hub.files:
            self._content(path[5:])
        else:
            self._refuse(404, "RepoNotFound")

    def _resolve(self, name: str) -> None:
        """Small files are answered at once; the weights, as large files are, by a redirect to where they lie."""
        content = self.served.files[name]
        facts = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"'}
        if self.served.gated:
            self._refuse(401, "GatedRepo")
        elif name.endswith(".safetensors"):
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            elsewhere = self.served.url.replace("127.0.0.1", "localhost")
            self._send(302, b"", facts | linked | {"Location": f"{elsewhere}/cdn/{name}"})
        else:
            self._send(200, content, facts)

    def _content(self, name: str) -> None:
        hub, content = self.served, self.served.files[name]
        hub.weights_asked.set()
        hub.weights_given.wait()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        rest = content[start:]
        status, headers = 200, {"Accept-Ranges": "bytes"}
        if start:
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
        if hub.cuts:
            hub.cuts -= 1
            self.close_connection = True
            self._send(status, rest[: len(rest) // 2], headers | {"Content-Length": str(len(rest))})
        else:
            self._send(status, rest, headers)

    def _entry(self, name: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content)}
        entry["oid"] = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
