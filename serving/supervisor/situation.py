"""The state of everything, and how it is told to clients and to the commands on this machine.

Owns the facts and their wording; what happens next is decided by the supervisor.
"""

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from serving.durations import said
from serving.guard.models import models_body
from serving.ipc.board import Board
from serving.ipc.launch import Launch
from serving.ipc.status import status_body
from serving.machine.progress import TITLES, Progress, read_typical
from serving.machine.state_dir import write_json
from serving.supervisor.hold import Hold

# States, the closest to an answer first.
_ORDER = ("ready", "warming", "starting", "restarting", "draining", "asleep", "stopped")


@dataclass(eq=False)
class Stage:
    """The state of one card's server. `taken` says in words why its memory is not free, `lost` why it is given up; `ready_at`
    is by the monotonic clock, None while it is not ready."""

    launch: Launch
    state: str = "starting"
    ready_at: float | None = None
    taken: str | None = None
    lost: str | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=lambda: Progress({}))

    @property
    def place(self) -> str:
        """Which of several servers it is, in words; empty where there is one."""
        launch = self.launch
        if len(launch.cards) == 1:
            return ""
        return f"of GPU {' and '.join(map(str, launch.gpus))}" if launch.gpus else f"of card {launch.card}"

    def begin(self) -> None:
        """A start begins; it is expected to take as long as the last one."""
        typical_s = read_typical(self.launch.run_dir, self.launch.timings_key)
        self.launch = self.launch.model_copy(update={"typical_s": typical_s})
        self.progress = Progress(self.launch.typical_s)
        self.ready_at = None


@dataclass
class Situation:
    """The servers of all cards (usually one). `leaving` says why they are being stopped, if they are to come back;
    `asleep_since` is Unix time."""

    stages: list[Stage]
    hold: Hold
    board: Board | None = None
    leaving: Literal["sleep", "swap"] | None = None
    asleep_since: float | None = None
    started_at: float = field(default_factory=time.time)

    @property
    def lead(self) -> Stage:
        """The server that is furthest along: its state is what clients are told."""
        return min(self.stages, key=lambda stage: (stage.lost is not None, _ORDER.index(stage.state)))

    @property
    def launch(self) -> Launch:
        return self.lead.launch

    @property
    def state(self) -> str:
        return self.lead.state

    def all_are(self, state: str) -> None:
        for stage in self.stages:
            stage.state = state

    def holds(self, *, again: bool) -> bool:
        """Whether a request that needs a model is held until it is ready, rather than told to come back. During a first start
        or a restart, which may fail, that is only so for a request that asks `again`."""
        on_its_way = again and self.state in ("starting", "warming", "restarting")
        woken = any(stage.launch.woken_at is not None for stage in self.stages)
        return self.state in ("asleep", "ready") or self.leaving is not None or woken or on_its_way

    @property
    def doing(self) -> str:
        """Why there is no answer now, in words."""
        lead = self.lead
        if lead.taken:
            return lead.taken
        if self.asleep_since:
            return f"nobody has asked for anything for {said(time.time() - self.asleep_since)}"
        if self.leaving:
            return "running answers are finished, and then the model is unloaded"
        return "the server is ended" if lead.state in ("draining", "stopped") else lead.progress.title

    @property
    def seconds_left(self) -> float | None:
        """Until there are answers, as far as that is known."""
        if self.state == "ready":
            return None
        if self.asleep_since or self.leaving:
            return sum(self.launch.typical_s.values()) or None
        return self.lead.progress.seconds_left()

    def status(self) -> dict[str, Any]:
        """The JSON of `/onecard/status`."""
        lead = self.lead
        resting = lead.state in ("asleep", "ready")
        return status_body(
            lead.launch,
            state=lead.state,
            step=None if resting else lead.progress.step,
            seconds_left=self.seconds_left,
            measured=lead.measured,
            queue={"running": self._in_servers, "waiting": len(self.hold.places)},
            asleep_since=self.asleep_since,
        ) | {
            "step_title": lead.taken or (self.doing if resting else TITLES[lead.progress.step]),
            "restarts": sum(stage.launch.restarts for stage in self.stages),
            "cards": [self._card(stage) for stage in self.stages] if self.board else [],
        }

    @property
    def _in_servers(self) -> int:
        return sum(self.board.load(stage.launch.card) for stage in self.stages) if self.board else 0

    def _card(self, stage: Stage) -> dict[str, Any]:
        """One of several cards, for `/onecard/status`."""
        launch = stage.launch
        return {
            "card": launch.card,
            "gpus": launch.gpus,
            "state": "lost" if stage.lost else stage.state,
            "why": stage.lost or stage.taken,
            "restarts": launch.restarts,
            "requests": self.board.load(launch.card) if self.board else 0,
            "kv_tokens": launch.plan.capacity.kv_tokens,
        }

    def models(self) -> dict[str, Any]:
        """The JSON of `/v1/models`."""
        return models_body(self.launch, loaded=self.state == "ready")

    def note(self) -> None:
        """Writes `server.json` for the commands, which have no key: there they find the process and its state. A full disk
        costs them that, and nothing else."""
        launch = self.launch
        facts = {"pid": os.getpid(), "url": launch.url, "started_at": self.started_at, "drain_s": launch.guard.drain_s}
        facts |= {"state": self.state, "at": time.time(), "why": self.lead.taken}
        with contextlib.suppress(OSError):
            write_json(launch.home / "server.json", facts | {"wake_deadline_s": launch.guard.wake_deadline_s})
