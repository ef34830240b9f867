"""The request path, in order. vLLM loads `Guard` with `--middleware serving.guard.stack.Guard`."""

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.ask import Ask
from serving.guard.body import Body
from serving.guard.chat import Chat
from serving.guard.image_sizes import ImageSizes
from serving.guard.keys import Keys, read_keys
from serving.guard.measure import Measure
from serving.guard.probes import Probes
from serving.guard.routes import Routes
from serving.guard.state import ServerState
from serving.guard.status import Status
from serving.launch import current_launch
from serving.metrics import expose_status
from serving.status import status_body


class Guard:
    """A request passes the layers from top to bottom; each may answer it and end its way."""

    def __init__(self, app: ASGIApp) -> None:
        launch = current_launch()
        if launch is None:
            raise RuntimeError("the guard works only in a server that `onecard serve` started")
        state = ServerState(launch)
        vllm = app
        app = Chat(vllm, launch.plan.limits, launch.default_max_tokens, allow_image_urls=launch.allow_image_urls)
        app = Ask(app, launch.model_names[0])
        app = ImageSizes(app)
        app = Body(app, max_bytes=launch.plan.limits.max_body_mib * 2**20)
        app = Status(app, state)
        app = Routes(app)
        app = Keys(app, read_keys(launch.api_keys_file))
        app = Probes(app, state, warm_up_through=vllm)
        app = Measure(app)
        expose_status(lambda: status_body(launch, state=state.state, measured=state.measured))
        self.app: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
