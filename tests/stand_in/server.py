"""`python -m tests.stand_in.server FD`: the real guard on the inherited socket, before an application that answers chat
requests as slowly as `max_tokens` says (a hundredth of a second each), streamed where it is asked to, and names itself
in them. Asked to "die" it does; "the engine dies" leaves it alive, as it does vLLM's API server. `STAND_IN` names what
else it does."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import uvicorn
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serving.guard.connection import Connection
from serving.guard.stack import Guard
from serving.ipc import control
from serving.ipc.launch import SUPERVISOR_KEY, current_launch
from serving.plugin import die_with_parent

launch = current_launch()
NAME = launch.model_names[0] if launch else ""
ANSWER = "A red circle. "


class Engine:
    """What the guard sees of vLLM's engine client. When it dies every request ends at once."""

    def __init__(self) -> None:
        self.errored, self.is_running = False, True
        self.death = asyncio.Event()

    def die(self) -> None:
        self.errored, self.is_running = True, False
        self.death.set()


engine = Engine()


async def chat(request: Request) -> Response:
    body = await request.json()
    if body["messages"][0]["content"] == "die":
        os._exit(7)
    if body["messages"][0]["content"] == "the engine dies":
        engine.die()
    longest = body.get("max_completion_tokens") or body["max_tokens"]
    if body.get("stream"):
        return StreamingResponse(pieces(longest), media_type="text/event-stream")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(engine.death.wait(), longest / 100)
        return JSONResponse({"error": {"message": "EngineDeadError"}}, 500)
    answer = {"choices": [{"message": {"content": ANSWER.strip()}}], "usage": {"prompt_tokens": 20}}
    here = {"model": NAME, "size": len(await request.body()), "card": launch.card if launch else 0}
    return JSONResponse(answer | here)


async def pieces(count: int) -> AsyncIterator[str]:
    """The answer, piece by piece and again and again."""
    for letter in itertools.islice(itertools.cycle(ANSWER), count):
        await asyncio.sleep(0.01)
        piece = {"model": NAME, "choices": [{"index": 0, "delta": {"content": letter}}]}
        yield f"data: {json.dumps(piece)}\n\n"
    yield "data: [DONE]\n\n"


async def metrics(_request: Request) -> Response:
    running = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0\n"
    return Response(generate_latest() + running, media_type="text/plain")


class Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: object) -> None:  # noqa: ARG002
        """As vLLM does: SIGTERM ends what is under way."""
        if os.environ.get("STAND_IN") != "deaf":
            os._exit(0)


def main() -> None:
    die_with_parent(int(os.environ[SUPERVISOR_KEY]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    match os.environ.get("STAND_IN"):
        case "refused":
            control.tell(event="refused", reason="vLLM does not take that.", exit_code=12)
            sys.exit(12)
        case "broken":
            raise RuntimeError("the weights are of clay")
        case "clay" if NAME == "clay":
            raise RuntimeError("the weights are of clay")
        case "starts another":
            subprocess.Popen(["sleep", "600"])
        case "second never starts" if launch and launch.card == 1:
            signal.pause()
        case "crashes":
            signal.signal(signal.SIGALRM, lambda *_: os._exit(7))
            signal.setitimer(signal.ITIMER_REAL, 1.0)
    routes = [Route("/v1/chat/completions", chat, methods=["POST"]), Route("/metrics", metrics)]
    app = Starlette(routes=routes, middleware=[Middleware(Guard)])
    config = uvicorn.Config(app, http=Connection, ws="none", log_config=None, timeout_graceful_shutdown=1)
    app.state.server = server = Server(config)  # where vLLM keeps them
    app.state.engine_client = engine
    server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
