"""The request path, in order. vLLM loads `Guard` with `--middleware serving.guard.stack.Guard`.

Before the first layer, below ASGI, `connection.py` limits the size of a request's head and the time that a connection may
stall. After the last layer comes vLLM's own handler, which gets its pictures from our media connector (media.py).
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard import engine
from serving.guard.ask import Ask
from serving.guard.body import Body
from serving.guard.content import Content
from serving.guard.early import Early
from serving.guard.elsewhere import Elsewhere
from serving.guard.errors import Errors
from serving.guard.gate import Gate
from serving.guard.image_sizes import ImageSizes
from serving.guard.in_engine import InEngine
from serving.guard.keys import KeyRing, Keys
from serving.guard.measure import Measure
from serving.guard.models import Models
from serving.guard.origin import Origin
from serving.guard.page import Page
from serving.guard.probes import Probes
from serving.guard.quarantine import Quarantine, Witness
from serving.guard.quota import Quota
from serving.guard.routes import Routes
from serving.guard.state import ServerState
from serving.guard.status import Status
from serving.guard.suspects import Suspects
from serving.guard.turn import Turn
from serving.guard.usage import Usage
from serving.guard.validation import Validation
from serving.ipc.board import Board
from serving.ipc.handover import Channel
from serving.ipc.launch import current_launch
from serving.ipc.status import status_body
from serving.metrics import expose_status


class Guard:
    """Each layer wraps those above it in this list, so a request passes them from the bottom up. Any of them may answer it."""

    def __init__(self, app: ASGIApp) -> None:
        launch = current_launch()
        if launch is None:
            raise RuntimeError("the guard works only in a server that `onecard serve` started")
        settings = launch.guard
        self.state = state = ServerState(launch, Channel.inherited(), Board.inherited())
        suspects = Suspects(launch.home)
        ring = KeyRing(launch.api_keys_file)
        max_body_bytes = launch.plan.limits.max_body_mib * 2**20
        vllm = app
        app = Errors(vllm, engine.is_dead, state.restart_s)
        app = Witness(app, InEngine(launch.run_dir, state.admission.capacity.sequences), suspects, engine.is_dead)
        app = Turn(app, state.admission, settings.queue_timeout_s, state.refusal)
        app = Validation(app, launch)
        app = Quarantine(app, suspects, state.spared_s)
        app = Ask(app, launch.model_names[0])
        app = Elsewhere(app, state)
        app = Body(app, max_body_bytes, settings.body_timeout_s)
        app = state.presence.layer(app)
        app = Gate(app, state.admission, max_body_bytes, lambda: state.others_have_less)
        app = Content(app)
        app = Models(app, launch)
        app = Quota(app, ring, Usage(launch.home / "usage.json", shared=len(launch.cards) > 1))
        app = ImageSizes(app)
        app = Status(app, state)
        app = Routes(app)
        app = Keys(app, ring)
        app = Page(app)
        app = Origin(app, settings.allowed_hosts, settings.allowed_origins)
        app = Probes(app, state, vllm)
        app = Early(app)
        app = Measure(app)
        expose_status(lambda: status_body(state.launch, state=state.state, measured=state.measured))
        self.app: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
