"""API keys: one in `ONECARD_API_KEY`, or a file of `name:key` lines. Compared in constant time."""

import hmac
import os
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import ConfigError
from serving.guard.respond import refuse


def read_keys(file: Path | None) -> dict[str, bytes]:
    """Key name → key, from the file and the environment; empty when none is configured.

    Raises ConfigError when the file cannot be read or holds no key.
    """
    keys: dict[str, bytes] = {}
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(f"The key file {file} cannot be read: {reason}.") from error
        for number, line in enumerate(lines, start=1):
            name, colon, key = line.partition(":")  # a key may have colons of its own, a name has none
            if not colon:
                name, key = f"line-{number}", line
            if key.strip() and not line.lstrip().startswith("#"):
                keys[name.strip()] = key.strip().encode()
        if not keys:
            raise ConfigError(f"The key file {file} holds no key. Write one a line, as in `alice:a-long-random-word`.")
    if single := os.environ.get("ONECARD_API_KEY"):
        keys["ONECARD_API_KEY"] = single.encode()
    return keys


class Keys:
    """Refuses with 401 what carries none of the keys. Without keys everything passes: the server is on loopback then."""

    def __init__(self, app: ASGIApp, keys: dict[str, bytes]) -> None:
        self.app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._keys or self._known(scope):
            await self.app(scope, receive, send)
            return
        refusal = refuse(
            401,
            "This server needs an API key: send it as `Authorization: Bearer KEY` (in the SDK: OpenAI(api_key=...)).",
            "authentication_error",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refusal(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        # Every key is compared, whichever matches, so that the time says nothing.
        matches = [hmac.compare_digest(given.strip(), key) for key in self._keys.values()]
        return scheme.lower() == b"bearer" and any(matches)
