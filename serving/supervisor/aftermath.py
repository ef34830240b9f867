"""What one card's server died of, and what follows: whose request is suspected, the pause before the next start, or why there
is none. It starts and ends nothing itself.
"""

import time

from serving.errors import GaveUpError, OnecardError
from serving.guard.in_engine import left_by
from serving.guard.suspects import Suspects
from serving.supervisor.restarts import Restarts
from serving.supervisor.server_log import ServerLog
from serving.supervisor.situation import Stage


class Aftermath:
    """`refusal` is what the server itself said of its end, and the exit code that goes with it; `hang` why it was killed."""

    def __init__(self, stage: Stage, log: ServerLog, suspects: Suspects) -> None:
        self.refusal: tuple[str, int] | None = None
        self.hang: str | None = None
        self._stage = stage
        self._log = log
        self._suspects = suspects
        self._restarts = Restarts()

    def begin(self) -> None:
        """A new start: what the last server died of is over."""
        self.refusal = self.hang = None
        self._log.begin()
        left_by(self._stage.launch.run_dir)  # by one that was ended, and has died of nothing

    def blame(self) -> None:
        """Notes what the server may have died of, before another card's gets it."""
        self._suspects.blame(found := left_by(self._stage.launch.run_dir))
        crashes = {digest.hex()[:16]: record.crashes for digest in found if (record := self._suspects.record(digest))}
        if crashes:
            self._log.write(f"requests that were in the engine, and at how many crashes: {crashes}\n")

    @property
    def why(self) -> str:
        """Why it ended before it was ready, in words."""
        return self.refusal[0] if self.refusal else self._log.explain()

    @property
    def what(self) -> str:
        """What became of it, in words."""
        server = f"The server {self._stage.place}".rstrip()
        return f"{server} was ended, since {self.hang}," if self.hang else f"{server} died"

    def pause_s(self) -> float:
        """The pause before the next start. Raises OnecardError when another would end as this one did."""
        if self.refusal:
            reason, code = self.refusal
            error = OnecardError(reason)
            error.exit_code = code
            raise error
        why = self.hang or self._log.explain()
        ready_at = self._stage.ready_at
        if ready_at is None and self._stage.launch.restarts == 0:
            raise GaveUpError(f"The server ended before it was ready: {why}")
        pause_s = self._restarts.crashed(None if ready_at is None else time.monotonic() - ready_at)
        if pause_s is None:
            raise GaveUpError(f"The server {self._restarts.too_many} and is not started again: {why}")
        return pause_s
