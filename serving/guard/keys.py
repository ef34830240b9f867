"""API keys: one in `ONECARD_API_KEY`, or a file of `name:key` lines, each with the quotas that it may have.

    # name:key [requests/minute=N] [requests/day=N] [tokens/minute=N] [tokens/day=N]
    alice:a-long-random-word
    batch:another-long-word tokens/day=2000000

Keys are compared in constant time. A change of the file is seen without a restart.
"""

import difflib
import hashlib
import hmac
import ipaddress
import logging
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import ConfigError
from serving.guard.facts import facts
from serving.guard.respond import refuse

logger = logging.getLogger("vllm.onecard")

QUOTAS = ("requests/minute", "requests/day", "tokens/minute", "tokens/day")
_COUNT = re.compile(r"[0-9]{1,18}")
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Key:
    """`quotas` by their names in the file; there is no limit on what is not named."""

    secret: bytes
    quotas: dict[str, int] = field(default_factory=dict)


def is_open_to_strangers(host: str, file: Path | None) -> bool:
    """Whether other machines can reach that address and no key is required. Raises what `read_keys` does."""
    keys = read_keys(file)
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    return not loopback and not keys


def read_keys(file: Path | None) -> dict[str, Key]:
    """Key name → key, from the file and the environment; empty when none is configured.

    Raises ConfigError when the file cannot be read, holds no key, or names a quota that does not exist.
    """
    keys: dict[str, Key] = {}
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(f"The key file {file} cannot be read: {reason}.") from error
        for number, line in enumerate(lines, start=1):
            if line.lstrip().startswith("#"):
                continue
            line = line.partition(" #")[0]
            name, colon, rest = line.partition(":")  # a key may have colons of its own, a name has none
            if not colon:
                name, rest = "", line
            if words := rest.split():
                name = name.strip() or f"line-{number}"
                if name in keys:
                    raise ConfigError(
                        f"{file}, line {number}: the name {name!r} stands twice. A second key needs one of its own."
                    )
                keys[name] = Key(words[0].encode(), _quotas(file, number, words[1:]))
        if not keys:
            raise ConfigError(f"The key file {file} holds no key. Write one a line, as in `alice:a-long-random-word`.")
    if single := os.environ.get(
        "ONECARD_API_KEY", ""
    ).strip():  # a file or a secret that it comes from ends with a newline
        keys["ONECARD_API_KEY"] = Key(single.encode())
    return keys


def _quotas(file: Path, number: int, words: list[str]) -> dict[str, int]:
    quotas: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in QUOTAS or not _COUNT.fullmatch(value):
            near = difflib.get_close_matches(name, QUOTAS, n=1)
            hint = f" Did you mean {near[0]}=N?" if near else f" Known: {', '.join(QUOTAS)}, as in tokens/day=100000."
            raise ConfigError(f"{file}, line {number}: {word!r} is no quota.{hint}")
        quotas[name] = int(value)
    return quotas


class KeyRing:
    """The current keys. If the file becomes unreadable, they stay as they were, and the log says so."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._stamp = self._stamped()
        self._looked = time.monotonic()
        self._keys = read_keys(file)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def quotas(self, name: str) -> dict[str, int]:
        key = self._keys.get(name)
        return key.quotas if key else {}

    def name_of(self, given: bytes) -> str | None:
        """The name of the key. Every key is compared, and as a digest, so that timing reveals nothing."""
        self._look_again()
        digest = hashlib.sha256(given).digest()
        found: str | None = None
        for name, key in self._keys.items():
            if hmac.compare_digest(digest, hashlib.sha256(key.secret).digest()):
                found = name
        return found

    def _look_again(self) -> None:
        now = time.monotonic()
        if self._file is None or now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        if (stamp := self._stamped()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._file)
            logger.info("the API keys were read again: %s", ", ".join(self._keys))
        except ConfigError as error:
            logger.warning("the API keys stay as they were: %s", error)

    def _stamped(self) -> tuple[int, int, int] | None:
        try:
            stat = self._file.stat() if self._file else None
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat else None


class Keys:
    """Refuses requests without a valid key with 401. If no keys are configured, everything passes: the server is on
    loopback."""

    def __init__(self, app: ASGIApp, ring: KeyRing) -> None:
        self.app = app
        self._ring = ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._ring:
            await self.app(scope, receive, send)
            return
        scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        name = self._ring.name_of(given.strip())
        if name is None or scheme.lower() != b"bearer":
            refusal = refuse(
                401,
                "This server needs an API key: send it as `Authorization: Bearer KEY` (in the SDK: OpenAI(api_key=...)).",
                "authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
            await refusal(scope, receive, send)
            return
        facts(scope).key = name
        await self.app(scope, receive, send)
