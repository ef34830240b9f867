"""Who a request says it was meant for (`Host`) and which web page sent it (`Origin`): a page on the web must not be able
to use a server on somebody's loopback, neither by a form nor by pointing its own name at 127.0.0.1 (DNS rebinding)."""

import ipaddress
import socket

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard.respond import refuse

_ALLOWED_METHODS = "GET, POST"
# Any: SDKs for browsers add some of their own. The star does not stand for the key (Fetch standard, CORS protocol).
_ALLOWED_HEADERS = "authorization, *"
_PREFLIGHT_S = "600"
# What containers call the machine that they run on. `.internal` is nobody's to register, so no page has such a name.
_OF_CONTAINERS = ("host.docker.internal", "host.containers.internal")


class Origin:
    """`hosts` are names beside this machine's own; `origins` those that may use the API from a browser (CORS)."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...], origins: tuple[str, ...]) -> None:
        self.app = app
        machine = socket.gethostname().lower()
        self._hosts = frozenset({"localhost", machine, f"{machine}.local", *_OF_CONTAINERS, *hosts})
        self._origins = frozenset(origin.rstrip("/") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if len(hosts) != 1 or not self._expected(hosts[0].decode("latin-1")):
            await _refuse_host()(scope, receive, send)
        elif not origins:
            await self.app(scope, receive, send)
        else:
            await self._from_a_page(origins, hosts[0].decode("latin-1"), scope, receive, send)

    async def _from_a_page(self, origins: list[bytes], host: str, scope: Scope, receive: Receive, send: Send) -> None:
        origin = origins[0].decode("latin-1").lower() if len(origins) == 1 else "null"
        own = origin.partition("://")[2] == host.lower()  # our own playground
        if not own and origin.rstrip("/") not in self._origins:  # a desktop program's is `file://`
            await _refuse_origin()(scope, receive, send)
        elif own:
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "OPTIONS":
            headers = {"Access-Control-Allow-Methods": _ALLOWED_METHODS, "Access-Control-Max-Age": _PREFLIGHT_S}
            headers |= {"Access-Control-Allow-Headers": _ALLOWED_HEADERS}
            await Response(status_code=204, headers=headers)(scope, receive, _allowing(origin, send))
        else:
            await self.app(scope, receive, _allowing(origin, send))

    def _expected(self, host: str) -> bool:
        """An address cannot be rebound; a name must be one of ours."""
        name = _without_port(host.lower()).removesuffix(".")
        return name in self._hosts or name.endswith(".localhost") or is_address(name)


def is_address(name: str) -> bool:
    """Whether it is no name but an address, without brackets."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _without_port(host: str) -> str:
    if host.startswith("["):  # an IPv6 address
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _allowing(origin: str, send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers.add_vary_header("Origin")
        await send(message)

    return wrapped


def _refuse_host() -> Response:
    return refuse(
        421,
        "This server does not answer to that name in `Host`. Use its address or localhost, or start it with "
        "--allow-host NAME.",
        code="unexpected_host",
    )


def _refuse_origin() -> Response:
    return refuse(
        403,
        "Web pages of that origin may not use this server. Whoever runs it can allow them with --allow-origin ORIGIN.",
        "permission_error",
        code="foreign_origin",
    )
