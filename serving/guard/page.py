"""The playground: the files of `serving/web/`, served at `/` and `/web/NAME`, open without a key.

Owns those files and what a browser may do with them. They hold no secret: what the page asks for passes the key as
everything does. The waiting room serves them as well, so that whoever opens the page early sees how far the start is.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.respond import wrong_method

FOLDER = Path(__file__).parent.parent / "web"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Nothing but our own files, no inline script or style, and no text that becomes markup (Trusted Types): were a model's
# answer ever to reach the page as HTML, the browser would refuse it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for again each time, and answered by 304 as long as it is the same: an upgrade shows at once.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    kind: str
    etag: str


@cache
def _files() -> dict[str, _File]:
    """Path → file, all of them: what is asked for is looked up here and never opened."""
    found: dict[str, _File] = {}
    for file in FOLDER.iterdir():
        if kind := _KINDS.get(file.suffix):
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            found["/" if file.name == "index.html" else f"/web/{file.name}"] = _File(content, kind, etag)
    return found


class Page:
    """Answers what asks for the page; the rest passes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._files = _files()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = self._files.get(scope["path"]) if scope["type"] == "http" else None
        if file is None:
            await self.app(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await wrong_method(scope, ("GET", "HEAD"))(scope, receive, send)
        else:
            await _answer(file, scope)(scope, receive, send)


def _answer(file: _File, scope: Scope) -> Response:
    headers = _HEADERS | {"ETag": file.etag}
    if dict(scope["headers"]).get(b"if-none-match", b"").decode("latin-1") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.kind)
