"""What ends a sleep: a request or a command, and enough free memory for its model."""

import asyncio
import time

from serving.ipc.launch import Launch
from serving.supervisor.hold import Hold
from serving.supervisor.room import Room
from serving.supervisor.situation import Situation
from serving.supervisor.swap import Choice, next_model


class Sleeper:
    """`asked` is set by `onecard wake`, `stop` at shutdown."""

    def __init__(self, choice: Choice, hold: Hold, room: Room, stop: asyncio.Event) -> None:
        self._choice = choice
        self._hold = hold
        self._room = room
        self._stop = stop
        self.asked = asyncio.Event()

    async def until_wanted(self, now: Situation, *, swapping: bool) -> Launch:
        """Waits for, and returns, the next launch, whose model becomes the choice's current one; at shutdown the last
        launch."""
        while not self._stop.is_set():
            if launch := await self._wanted(now.launch.guard.wake_deadline_s):
                return self._woken(launch, now.launch, swapping=swapping)
            now.note()  # `onecard wake` finds there why the memory was not free
            now.lead.taken = None
        return now.launch

    def _woken(self, launch: Launch, last: Launch, *, swapping: bool) -> Launch:
        key = launch.model_names[0]
        swaps = int(swapping and key != self._choice.current)
        self._choice.current = key
        counts = {"wakes": last.wakes + 1 - swaps, "swaps": last.swaps + swaps}
        kept = counts | {"wake_s": last.wake_s, "woken_at": time.monotonic()}
        return launch.model_copy(update=kept)

    async def _wanted(self, deadline_s: float) -> Launch | None:
        """Waits for somebody to ask, then for memory. None if that did not become free while they waited (a command waits until
        the deadline), and at shutdown."""
        events = [asyncio.create_task(event.wait()) for event in (self._hold.wanted, self.asked, self._stop)]
        await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        for event in events:
            event.cancel()
        key = next_model(self._hold.waiting, self._choice.current, None, 0.0) or self._choice.current
        until = time.monotonic() + deadline_s

        def wanted() -> bool:
            asked = self.asked.is_set() and time.monotonic() < until
            return not self._stop.is_set() and (asked or key in self._hold.waiting)

        free = await self._room.until_free(self._choice.launches[key], wanted)
        self.asked.clear()
        return free.launch if free else None
