"""Bytes of one file of a hub over HTTP: from any place on, over redirects, with every way of going wrong told apart.

The token goes to the hub's own host only: where a hub redirects to another (its CDN), httpx leaves the header away.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import httpx
from huggingface_hub import constants

from serving.errors import HubError
from serving.hub.listing import Listing, RemoteFile

T = TypeVar("T")
# Answers that may be others when asked again.
PASSING = frozenset({408, 429, 500, 502, 503, 504})
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)


class UnreachableError(HubError):
    """The network's fault, or a hub's for the moment: not the model's."""


class InterruptedTransferError(UnreachableError):
    """It may go on where it stopped, when it is tried again."""


class Patience:
    """Waits longer after each failure, and gives up at the fifth in a row."""

    def __init__(self) -> None:
        self._pauses_s = iter(_PAUSES_S)

    def after(self, error: InterruptedTransferError) -> None:
        """Raises the error once it is time to give up."""
        pause_s = next(self._pauses_s, None)
        if pause_s is None:
            raise error
        time.sleep(pause_s)


def patiently(ask: Callable[[], T]) -> T:
    """What it returns, once it is not interrupted any more."""
    patience = Patience()
    while True:
        try:
            return ask()
        except InterruptedTransferError as error:
            patience.after(error)


class Source(Protocol):
    """One hub. `refusal` says in a sentence what its answer to a request for a file of `repo_id` means."""

    @property
    def title(self) -> str: ...

    @property
    def endpoint(self) -> str: ...

    def listing(self, repo_id: str, revision: str) -> Listing: ...

    def url(self, repo_id: str, file: RemoteFile) -> str: ...

    def headers(self) -> dict[str, str]: ...

    def refusal(self, repo_id: str, response: httpx.Response) -> str: ...


def refuse_offline() -> None:
    """Raises HubError where the user wants no hub to be asked."""
    if constants.HF_HUB_OFFLINE:
        raise HubError("is not asked, since HF_HUB_OFFLINE is set.")


def new_client(headers: dict[str, str] | None = None) -> httpx.Client:
    """Raises HubError offline, UnreachableError where the environment names a proxy or certificates that cannot be used."""
    refuse_offline()
    try:
        return httpx.Client(headers=headers, follow_redirects=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:  # ImportError: a SOCKS proxy needs a package
        raise UnreachableError(f"the environment's proxy or certificates cannot be used ({error}).") from error


class Transport:
    """Reads the files of one listing. Connects at the first need, so that what is kept here costs no network."""

    def __init__(self, source: Source, listing: Listing) -> None:
        self.source = source
        self.listing = listing
        self._client: httpx.Client | None = None

    def __enter__(self) -> "Transport":
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def read(self, file: RemoteFile, start: int, length: int) -> bytes:
        """Exactly these bytes, which the file must have. Raises HubError."""
        return patiently(lambda: self._read(file, start, length))

    @contextmanager
    def open(self, file: RemoteFile, start: int, length: int | None = None) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The place where the bytes begin, and the bytes: a server that knows no ranges begins at 0.

        Raises InterruptedTransferError for what may go better the next time, and HubError.
        """
        last = "" if length is None else start + length - 1
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{last}"}
        try:
            url = self.source.url(self.listing.repo_id, file)
            with self._connected().stream("GET", url, headers=headers) as response:
                yield self._begin(file, start, response), response.iter_bytes()
        except httpx.TransportError as error:
            raise InterruptedTransferError(f"the connection broke at {file.name} ({_reason(error)}).") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise HubError(f"{file.name} cannot be fetched ({_reason(error)}).") from error

    def _read(self, file: RemoteFile, start: int, length: int) -> bytes:
        if length == 0:
            return b""
        with self.open(file, start, length) as (begin, chunks):
            received = bytearray()
            for chunk in chunks:
                received += chunk
                if begin + len(received) >= start + length:
                    break
        wanted = bytes(received[start - begin : start - begin + length])
        if len(wanted) < length:
            raise HubError(f"{file.name} ends before its {file.size:,} bytes.")
        return wanted

    def _connected(self) -> httpx.Client:
        if self._client is None:
            self._client = new_client(self.source.headers())
        return self._client

    def _begin(self, file: RemoteFile, start: int, response: httpx.Response) -> int:
        """Where the answer's bytes begin in the file. Raises as `open` does."""
        if response.status_code in PASSING:
            raise InterruptedTransferError(f"it answers {response.status_code} for {file.name}.")
        if response.status_code == 206:
            said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if said is None or int(said[1]) != start or said[2] not in ("*", str(file.size)):
                raise HubError(f"it answers with other bytes of {file.name} than it was asked for.")
            return start
        if response.status_code == 200:
            # Something else (a page of the network's) must not take the place of what was received.
            length = response.headers.get("Content-Length")
            if length != str(file.size) and (start or (length and "Content-Encoding" not in response.headers)):
                raise HubError(f"what comes for {file.name} is not the {file.size:,} bytes that are listed.")
            return 0
        raise HubError(self.source.refusal(self.listing.repo_id, response))


def _reason(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
