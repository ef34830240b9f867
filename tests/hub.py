"""A model hub on this machine: the routes of Hugging Face and of ModelScope that are used, with what can go wrong there.

Large files are redirected to another host, as both hubs do, small ones to another route of Hugging Face's own; ranges
are answered with 206.
"""

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_the-token-of-the-test"


@dataclass(frozen=True)
class Asked:
    """One request; `range` and `token` are empty where it has none."""

    method: str
    path: str
    range: str
    token: str
    host: str


@dataclass
class Hub:
    """One model, `someone/model`. Set a fault at any time; `asked` has every request."""

    files: dict[str, bytes]
    commit: str = COMMIT  # what `main` is; Hugging Face knows no other
    huggingface: bool = True  # whether each of the two has the model
    modelscope: bool = False
    gated: bool = False
    knows_token: bool = True
    portal: bool = False  # a page of HTML instead of every answer, as a hotel's network gives
    hangs_up: bool = False  # the connection is closed without an answer
    has_ranges: bool = True  # otherwise a range is answered with 200 and the whole file
    cuts: int = 0  # how many downloads of the weights end in their middle
    stalls: int = 0  # how many downloads of the weights stop in their middle until `weights_given`
    busy: int = 0  # how many requests for the weights are answered with 503
    api_busy: int = 0  # how many requests for the list of files
    given: dict[str, bytes] = field(default_factory=dict)  # contents other than those listed
    listed_sizes: dict[str, int] = field(default_factory=dict)  # sizes other than the true ones
    weights_given: threading.Event = field(default_factory=threading.Event)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def ranges_of(self, name: str) -> list[str]:
        """The ranges of the downloads of that file, in order."""
        return [each.range for each in self.asked if each.method == "GET" and each.path == f"/cdn/{name}"]


@contextmanager
def hub_of(files: dict[str, bytes]) -> Iterator[Hub]:
    """Serves them on a free port of loopback."""
    hub = Hub(files)

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
        hub, url = self.served, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        head = (self.headers.get(name, "") for name in ("Range", "Authorization", "Host"))
        hub.asked.append(Asked(self.command, url.path, *head))
        if hub.hangs_up:
            self.close_connection = True
        elif hub.portal:
            self._send(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
        elif url.path.startswith("/cdn/") and url.path[5:] in hub.files:
            self._from_cdn(url.path[5:])
        elif hub.api_busy and url.path.startswith(("/api/models/", "/api/v1/")):
            hub.api_busy -= 1
            self._send(503, b"", {})
        elif not hub.knows_token and hub.asked[-1].token:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif hub.modelscope and url.path.startswith(place := "/api/v1/models/someone/model/"):
            self._modelscope(url.path.removeprefix(place), query)
        elif hub.huggingface and "someone/model" in url.path and not url.path.startswith("/api/v1/"):
            self._huggingface(url.path, query)
        else:
            self._refuse(404, "RepoNotFound")

    def _huggingface(self, path: str, query: dict[str, str]) -> None:
        hub = self.served
        resolved = re.fullmatch(f"/someone/model/resolve/(?:main|{hub.commit})/(.+)", path)
        if path in (f"/api/models/someone/model/revision/{name}" for name in ("main", hub.commit)):
            siblings = [self._sibling(name) if "blobs" in query else {"rfilename": name} for name in hub.files]
            self._json({"id": "someone/model", "sha": hub.commit, "siblings": siblings})
        elif path == f"/api/models/someone/model/tree/{hub.commit}":
            self._json([self._entry(name) for name in hub.files])
        elif path.startswith("/api/models/someone/model/"):
            self._refuse(404, "RevisionNotFound")
        elif resolved and resolved[1] in hub.files:
            name = resolved[1]
            linked = {"X-Linked-Size": str(self._size(name)), "X-Linked-ETag": f'"{_sha256(hub.files[name])}"'}
            facts = {"X-Repo-Commit": hub.commit, "ETag": f'"{_git_sha1(hub.files[name])}"'}
            if hub.gated:
                self._refuse(401, "GatedRepo")
            elif _is_large(name):
                self._give(name, facts | linked)
            else:
                self._send(307, b"", facts | {"Location": f"/api/resolve-cache/models/someone/model/{name}"})
        elif path.startswith(place := "/api/resolve-cache/models/someone/model/"):
            name = path.removeprefix(place)
            self._content(name, {"X-Repo-Commit": hub.commit, "ETag": f'"{_git_sha1(hub.files[name])}"'})
        else:
            self._refuse(404, "EntryNotFound")

    def _modelscope(self, route: str, query: dict[str, str]) -> None:
        hub = self.served
        if route == "repo/files":
            known = query["Revision"] == "master"
            self._json({"Code": 200, "Success": True, "Data": {"Files": self._modelscope_files() if known else None}})
        elif route == "repo" and query["Revision"] == COMMIT and query["FilePath"] in hub.files:
            self._give(query["FilePath"], {})
        else:
            self._refuse(404, "")

    def _modelscope_files(self) -> list[dict[str, object]]:
        folder: dict[str, object] = {"Path": "figures", "Type": "tree", "Size": 0, "Sha256": "", "Revision": ""}
        return [folder] + [
            {
                "Path": name, "Type": "blob", "Size": self._size(name), "Sha256": _sha256(content), "Revision": COMMIT,
                "IsLFS": _is_large(name),
            }
            for name, content in self.served.files.items()
        ]  # fmt: skip

    def _give(self, name: str, facts: dict[str, str]) -> None:
        """Small files are answered at once; the weights, as large files are, by a redirect to where they lie."""
        if _is_large(name):
            elsewhere = self.served.url.replace("127.0.0.1", "localhost")
            self._send(302, b"", facts | {"Location": f"{elsewhere}/cdn/{name}"})
        else:
            self._content(name, facts)

    def _from_cdn(self, name: str) -> None:
        hub = self.served
        if hub.busy:
            hub.busy -= 1
            self._send(503, b"", {})
        else:
            self._content(name, {"Accept-Ranges": "bytes"})

    def _content(self, name: str, headers: dict[str, str]) -> None:
        hub = self.served
        content = hub.given.get(name, hub.files[name])
        status, asked = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        body = content
        if asked and hub.has_ranges:
            start, end = int(asked[1]), int(asked[2] or len(content) - 1)
            body = content[start : end + 1]
            total = hub.listed_sizes.get(name, len(content))
            status, headers = 206, headers | {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{total}"}
        if hub.cuts and _is_large(name):
            hub.cuts -= 1
            self.close_connection = True
            self._send(status, body[: len(body) // 2], headers | {"Content-Length": str(len(body))})
        elif hub.stalls and _is_large(name):
            hub.stalls -= 1
            self._send(status, body[: len(body) // 2], headers | {"Content-Length": str(len(body))})
            hub.weights_given.wait()
            self.wfile.write(body[len(body) // 2 :])
        else:
            self._send(status, body, headers)

    def _size(self, name: str) -> int:
        return self.served.listed_sizes.get(name, len(self.served.files[name]))

    def _sibling(self, name: str) -> dict[str, object]:
        sibling: dict[str, object] = {"rfilename": name, "size": self._size(name)}
        sibling["blobId"] = _git_sha1(self.served.files[name])
        if _is_large(name):
            sibling["lfs"] = {"sha256": _sha256(self.served.files[name]), "size": self._size(name), "pointerSize": 130}
        return sibling

    def _entry(self, name: str) -> dict[str, object]:
        content = self.served.files[name]
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": _git_sha1(content)}
        if _is_large(name):
            entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
        return entry

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        said = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, b"", {name: value for name, value in said.items() if value})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
