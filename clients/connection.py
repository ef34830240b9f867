"""Where the server is, and how it is talked to: address, key, time-outs, no proxy. The same for both clients."""

import os
from dataclasses import dataclass
from typing import Any

from openai import Timeout

URL = "http://127.0.0.1:8000"
# A long answer of a busy server takes minutes; a server that is there answers the telephone at once.
_CONNECT_S = 5.0


@dataclass(frozen=True)
class Connection:
    """`url` is the server's, with or without `http://` and `/v1`; it and `api_key` default to ONECARD_URL and
    ONECARD_API_KEY."""

    url: str
    api_key: str
    timeout: Timeout

    @classmethod
    def to(cls, url: str | None, api_key: str | None, timeout_s: float) -> "Connection":
        address = (url or os.environ.get("ONECARD_URL") or URL).rstrip("/").removesuffix("/v1")
        address = address if "://" in address else f"http://{address}"
        key = api_key or os.environ.get("ONECARD_API_KEY", "").strip() or "none"
        return cls(address, key, Timeout(timeout_s, connect=_CONNECT_S))

    @property
    def http(self) -> dict[str, Any]:
        """For the SDK's HTTP client: proxies of the environment have no business with a server on this machine or in
        this room. Who needs one hands in an `http_client`."""
        return {"trust_env": False, "timeout": self.timeout}

    @property
    def sdk(self) -> dict[str, Any]:
        """For the SDK's client, of either kind."""
        return {"base_url": f"{self.url}/v1", "api_key": self.api_key, "timeout": self.timeout}

    @property
    def status_url(self) -> str:
        return f"{self.url}/onecard/status"
