"""The endpoint: our guard's first layers, then a replica of Serve's choice, whose answer passes as it comes.

Who may ask, what is asked for and how much of it are decided here, before anything crosses to another machine; what a picture
or a parameter may be, and who waits for a turn, by the replica's own guard. A replica that is lost takes its running requests
with it: they are told so as 503 with Retry-After, and in the middle of a stream as its last event.
"""

import asyncio
import contextlib
import json
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.ray.asked import Asked
from deploy.ray.settings import Settings
from serving.guard.body import Body, whole_body
from serving.guard.early import Early
from serving.guard.gate import overloaded
from serving.guard.keys import KeyRing, Keys
from serving.guard.origin import Origin
from serving.guard.respond import probe, refuse
from serving.guard.routes import Routes

# What a replica that takes the place of a lost one needs is not known here; the others answer meanwhile.
_RETRY_S = 5
_PROBE_S = 2.0
_LOST = "The replica that was answering has been lost; others go on. Ask again."
_NOBODY = "No replica took the request in time: they are starting, or have as much to do as they can. Ask again."


def build_door(settings: Settings, max_body_bytes: int) -> ASGIApp:
    """A request passes the layers from the last line here to the first."""
    forward = Forward(settings.queue_timeout_s)
    app: ASGIApp = Body(forward, max_body_bytes)
    app = Routes(app)
    app = Keys(app, KeyRing(settings.api_keys_file))
    app = Origin(app, settings.allow_hosts, settings.allow_origins)
    app = Probes(app, forward)
    return Early(app)


class Probes:
    """`/health`: the door answers. `/ready`: a replica would."""

    def __init__(self, app: ASGIApp, forward: "Forward") -> None:
        self.app = app
        self._forward = forward

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ready = scope.get("path") == "/ready" and await self._forward.someone_is_ready()
        await (probe(scope, "ready" if ready else "starting", ready=ready) or self.app)(scope, receive, send)


class Forward:
    """Hands a request to a replica. `queue_timeout_s` is the longest wait for one that takes it."""

    def __init__(self, queue_timeout_s: float) -> None:
        self._queue_timeout_s = queue_timeout_s
        self._handle: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _no_lifespan(scope, receive, send)
            return
        request = Request(scope)
        path = scope["path"] + (f"?{query.decode()}" if (query := scope["query_string"]) else "")
        body = await whole_body(receive) if scope["method"] == "POST" else b""
        asked = Asked(scope["method"], path, list(request.headers.items()), body)
        leaving = asyncio.ensure_future(_left(receive))
        answering = asyncio.ensure_future(self._answer(asked, scope, receive, send))
        try:
            await asyncio.wait({leaving, answering}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:  # who has left needs no answer: the replica's server is told, and stops computing it
            for task in (leaving, answering):
                task.cancel()
            await asyncio.gather(leaving, answering, return_exceptions=True)

    async def someone_is_ready(self) -> bool:
        """Whether a replica takes a request now."""
        status = 0

        async def see(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PROBE_S):
                await self._answer(Asked("GET", "/ready", [], b""), {"type": "http"}, _never, see)
        return status == 200

    async def _answer(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        stream = self._replicas().answer.remote(asked)
        started = streaming = False
        try:
            async with asyncio.timeout(self._queue_timeout_s):
                await anext(stream)
            status, headers = await anext(stream)
            streaming = any(name == "content-type" and value.startswith("text/event-stream") for name, value in headers)
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            started = True
            await send({"type": "http.response.start", "status": status, "headers": raw})
            async for chunk in stream:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            await _come_back(_NOBODY, "not_ready")(scope, receive, send)
        except BackPressureError:
            await overloaded(_RETRY_S)(scope, receive, send)
        except (RayError, RayServeException) as error:
            if not started:
                await _come_back(_LOST, "replica_lost")(scope, receive, send)
            elif streaming:
                await send({"type": "http.response.body", "body": _last_event()})
            else:  # half of a JSON object: closing the connection says that it is not whole
                raise ConnectionAbortedError(_LOST) from error
        finally:
            stream.cancel()

    def _replicas(self) -> Any:
        if self._handle is None:
            from ray import serve

            self._handle = serve.get_deployment_handle(REPLICAS).options(stream=True)
        return self._handle


REPLICAS = "onecard"


def _come_back(message: str, code: str) -> ASGIApp:
    return refuse(503, message, "server_error", code=code, headers={"Retry-After": str(_RETRY_S)})


def _last_event() -> bytes:
    """An error inside a stream, as vLLM tells it."""
    error = {"message": _LOST, "type": "server_error", "param": None, "code": "replica_lost"}
    return f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n".encode()


async def _left(receive: Receive) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never() -> Any:
    await asyncio.Event().wait()


async def _no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Nothing here is started or ended with the door."""
    while scope["type"] == "lifespan":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
