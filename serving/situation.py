"""Where onecard is: its state, and what the supervisor tells of it, to clients and to the commands of this machine.

Owns the facts and their words; what happens next is the supervisor's to decide.
"""

import os
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from serving.durations import said
from serving.guard.models import models_body
from serving.hold import Hold
from serving.launch import Launch
from serving.progress import TITLES, Progress
from serving.state_dir import write_json
from serving.status import status_body


@dataclass
class Situation:
    """`taken` is why the memory is not to be had, in words; `leaving` why a server is ended that is to come back;
    `ready_at` is of the monotonic clock and None while no server is ready, `asleep_since` is Unix time."""

    launch: Launch
    hold: Hold
    state: str = "starting"
    leaving: Literal["sleep", "swap"] | None = None
    ready_at: float | None = None
    asleep_since: float | None = None
    taken: str | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=lambda: Progress({}))
    started_at: float = field(default_factory=time.time)

    @property
    def what(self) -> str:
        """What is loaded or was last, as its timings are kept."""
        return f"{self.launch.plan.profile} {self.launch.model_folder}"

    @property
    def holds(self) -> bool:
        """Whether a request that needs a model waits for it, rather than to be told to come back: not where a server is
        started for the first time or after a crash, of which nobody knows the end."""
        woken = self.launch.woken_at is not None
        return self.state in ("asleep", "ready") or self.leaving is not None or woken

    @property
    def doing(self) -> str:
        """Why no answer is given now."""
        if self.taken:
            return self.taken
        if self.asleep_since:
            return f"nobody has asked for anything for {said(time.time() - self.asleep_since)}"
        if self.leaving:
            return "running answers are finished, and then the model is unloaded"
        return "the server is ended" if self.state in ("draining", "stopped") else self.progress.title

    @property
    def seconds_left(self) -> float | None:
        """Until there is one, as far as it is known."""
        if self.state == "ready":
            return None
        if self.asleep_since or self.leaving:
            return sum(self.launch.typical_s.values()) or None
        return self.progress.seconds_left()

    def status(self) -> dict[str, Any]:
        """The JSON of `/onecard/status`."""
        resting = self.state in ("asleep", "ready")
        return status_body(
            self.launch,
            state=self.state,
            step=None if resting else self.progress.step,
            seconds_left=self.seconds_left,
            measured=self.measured,
            queue={"running": 0, "waiting": len(self.hold.places)},
            asleep_since=self.asleep_since,
        ) | {"step_title": self.taken or (self.doing if resting else TITLES[self.progress.step])}

    def models(self) -> dict[str, Any]:
        """The JSON of `/v1/models`."""
        return models_body(self.launch, loaded=self.state == "ready")

    def note(self) -> None:
        """Leaves word for the commands, which have no key: they find the process here, and see what it came to."""
        launch = self.launch
        facts = {"pid": os.getpid(), "url": launch.url, "started_at": self.started_at, "drain_s": launch.guard.drain_s}
        facts |= {"state": self.state, "at": time.time(), "why": self.taken}
        write_json(launch.run_dir / "server.json", facts | {"wake_deadline_s": launch.guard.wake_deadline_s})
