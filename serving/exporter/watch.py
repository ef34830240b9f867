"""The server on a port as the exporter sees it: by its status over loopback, and by what it has written down.

Goes on telling when the server does not: then the plan is that of its last start, and the state "hung" or "stopped". What is
counted is left out, since no start has written down what the servers of all cards have come to.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from serving.errors import ConfigError, NotRunningError, OnecardError
from serving.guard.keys import read_keys
from serving.ipc.launch import Launch
from serving.machine.onecards import is_onecard
from serving.machine.running import fetch_state, fetch_status
from serving.machine.state_dir import read_json, run_dir

# Longer than a busy server takes, and shorter than a scrape interval.
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class View:
    """One look at the server. `status` has what is known of `/onecard/status`, the state at least."""

    up: bool
    status: dict[str, Any]
    launch: Launch | None
    started_at: float | None
    state_seconds: dict[str, float] = field(default_factory=dict)


class Watch:
    """Looks at the server on `port`; counts the seconds in each state from its first look on."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._folder = run_dir(port)
        self._seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def read(self) -> View:
        launch, facts = self._launch(), read_json(self._folder / "server.json")
        try:
            status, up = fetch_status(self._port, key=_key(launch), timeout_s=_TIMEOUT_S), True
        except OnecardError as error:
            # Who asks for a key that is not known here is there, and may be well.
            asked = not isinstance(error, NotRunningError)
            state = fetch_state(self._port, timeout_s=_TIMEOUT_S) if asked else None
            up = state is not None
            pid = facts.get("pid") if isinstance(facts, dict) else None
            state = state or ("hung" if isinstance(pid, int) and is_onecard(pid) else "stopped")
            status = {"state": state} | ({"plan": launch.plan.model_dump()} if launch else {})
        self._count(status["state"])
        started_at = facts.get("started_at") if isinstance(facts, dict) else None
        return View(up, status, launch, started_at, dict(self._seconds))

    def _launch(self) -> Launch | None:
        try:
            return Launch.model_validate(read_json(self._folder / "launch.json"))
        except ValidationError:  # none yet, or of another version of onecard
            return None

    def _count(self, state: str) -> None:
        now = time.monotonic()
        self._seconds[state] = self._seconds.get(state, 0.0) + now - self._last
        self._last = now


def _key(launch: Launch | None) -> str | None:
    """One of the server's own keys: what this user may read, this user may use."""
    try:
        keys = read_keys(launch.api_keys_file if launch else None)
    except ConfigError:
        return None
    return next(iter(keys.values())).secret.decode() if keys else None
