"""Room for a model: waiting until other programs have given the GPU's memory back, or making do with what they leave."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serving.ipc.launch import Launch
from serving.machine import hardware
from serving.machine.hardware import Hardware
from serving.planning.plan import Plan
from serving.supervisor.console import Console
from serving.supervisor.restarts import taken_by_others
from serving.supervisor.situation import Stage

# The driver takes a moment to count the memory of a process that has just ended as free.
_FIRST_LOOKS_S = (0.2, 0.5, 1.0)
# If it is not free after these, another program holds it.
SETTLES_AFTER = len(_FIRST_LOOKS_S)
LOOK_EVERY_S = 5.0

# Makes a plan for the memory that is free on the hardware found; None where nothing useful fits.
Replan = Callable[[Launch, Hardware], Plan | None]


@dataclass(frozen=True)
class Free:
    """What can be started now. `waited`: other programs held its memory before."""

    launch: Launch
    waited: bool


class Room:
    """Checks whether a plan's memory is free. `pause` waits between two looks, and is cut short at shutdown."""

    def __init__(
        self,
        stage: Stage,
        console: Console,
        replan: Replan,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._stage = stage
        self._console = console
        self._replan = replan
        self._pause = pause

    async def until_free(self, launch: Launch, wanted: Callable[[], bool]) -> Free | None:
        """Waits until the memory is free, or a smaller plan fits beside what others hold; None once it is no longer
        `wanted`."""
        looks = 0
        while wanted():
            found = (await asyncio.to_thread(hardware.detect)).of(launch.gpus)
            taken = taken_by_others(launch.plan, found)
            if taken is None and launch.plan.gpu.taken_mib:  # once made smaller, it may grow back
                launch = await self._planned_again(launch, found) or launch
            if taken is None:
                self._stage.taken = None
                return Free(launch, looks > SETTLES_AFTER)
            looks += 1
            if looks <= SETTLES_AFTER:
                await self._pause(_FIRST_LOOKS_S[looks - 1])
                continue
            if again := await self._planned_again(launch, found):
                self._stage.taken = None
                return Free(again, True)
            self._stage.taken = taken
            self._console.say(f"Waiting: {taken}.")
            await self._pause(LOOK_EVERY_S)
        return None

    async def _planned_again(self, launch: Launch, found: Hardware) -> Launch | None:
        """The launch with a plan that fits beside what other programs hold; None where nothing useful does."""
        plan = await asyncio.to_thread(self._replan, launch, found)
        if plan is None:
            return None
        given_up = "; ".join(plan.given_up) or "nothing"
        self._console.say(f"Planned again, with {plan.capacity.kv_tokens:,} tokens of KV cache. Given up: {given_up}.")
        return launch.model_copy(update={"plan": plan})
