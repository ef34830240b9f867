"""Pictures from the web, where the operator has allowed that: the only place that opens a connection outward.

A host is resolved once, and the address that was checked is the one connected to. No proxy, no cookies, no encodings; every
redirect is checked the same way; one deadline covers everything.
"""

import asyncio
import functools
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx

from serving.images.addresses import Target, UrlError, is_public, read_url
from serving.images.errors import ImageError

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

NOT_FETCHED = "The picture could not be fetched from its URL. Send it as a data URL instead."
_MAX_REDIRECTS = 3
# `identity`: compressed bodies are refused, so the bytes counted are the bytes kept.
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "onecard"}


async def resolve(host: str, port: int) -> list[str]:
    """The host's addresses, as the system's resolver gives them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@functools.cache
def trusted() -> ssl.SSLContext:
    """httpx's trusted certificates, loaded once: loading takes longer than a request."""
    return httpx.create_ssl_context(trust_env=False)


def _shown(url: str) -> str:
    """The URL for the log: without query and user info, which may be secrets."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url)[0])[:200]


class _Pinned(httpx.AsyncHTTPTransport):
    """Connects to one address, whatever the URL's host would resolve to by now. The Host header and the certificate's name
    remain the host's."""

    def __init__(self, target: Target, address: str, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        self._target = target
        self._address = address

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions |= {"sni_hostname": self._target.host}
        request.url = request.url.copy_with(host=self._address)
        return await super().handle_async_request(request)


@dataclass(frozen=True)
class Fetcher:
    """`deadline_s` covers resolving, connecting, redirects and the whole body; `max_bytes` limits the body."""

    allowed_hosts: frozenset[str] = frozenset()
    deadline_s: float = 5.0
    max_bytes: int = 20 * 2**20
    resolve: Resolve = field(default=resolve)
    is_public: Callable[[str], bool] = field(default=is_public)
    tls: Callable[[], ssl.SSLContext] = field(default=trusted)

    async def fetch(self, url: str) -> bytes:
        """The body of the resource at `url`. Raises ImageError, with one and the same message to the client for every
        failure."""
        try:
            async with asyncio.timeout(self.deadline_s):
                return await self._fetch(url)
        # OSError: the deadline's and the resolver's; UnicodeError: a name that IDNA cannot encode.
        except (UrlError, httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise ImageError(NOT_FETCHED, cause=f"{_shown(url)!r}: {type(error).__name__}: {error}") from error

    async def _fetch(self, url: str) -> bytes:
        for _ in range(1 + _MAX_REDIRECTS):
            target = read_url(url, self.allowed_hosts)
            body = await self._get(target, await self._address(target))
            if isinstance(body, bytes):
                return body
            url = str(body)
        raise UrlError(f"more than {_MAX_REDIRECTS} redirects")

    async def _address(self, target: Target) -> str:
        """The address to connect to. If any address of the host is not public, none is used: that is no honest host."""
        addresses = await self.resolve(target.host, target.port)
        if hidden := [address for address in addresses if not self.is_public(address)]:
            raise UrlError(f"{target.host} is {hidden[0]}, which is not public")
        if not addresses:
            raise UrlError(f"{target.host} has no address")
        return addresses[0]

    async def _get(self, target: Target, address: str) -> bytes | httpx.URL:
        """The body, or the target of a redirect."""
        transport = _Pinned(target, address, self.tls())
        async with (
            httpx.AsyncClient(transport=transport, trust_env=False, timeout=self.deadline_s) as client,
            client.stream("GET", target.url, headers=_HEADERS) as reply,
        ):
            if reply.has_redirect_location:
                return target.url.join(reply.headers["location"])
            reply.raise_for_status()
            if reply.headers.get("content-encoding", "identity").lower() != "identity":
                raise UrlError("its body is compressed, which was not asked for")
            return await self._body(reply)

    async def _body(self, reply: httpx.Response) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in reply.aiter_raw():
            size += len(chunk)
            if size > self.max_bytes:
                raise UrlError(f"its body is larger than {self.max_bytes:,} bytes")
            chunks.append(chunk)
        return b"".join(chunks)
