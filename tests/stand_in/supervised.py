"""`python -m tests.stand_in.supervised PORT DRAIN_S HANG_S`: the supervisor over the stand-in, with less patience.

Keys come from ONECARD_API_KEYS_FILE, as with the command. With `STAND_IN=crowded` the plan is for a GPU, whose memory
other programs hold the first times that it is asked for. With `STAND_IN=shared` it is for the GPU that NVML tells of, and
planned again where other programs take of it."""

import asyncio
import dataclasses
import json
import os
import sys
from functools import partial
from pathlib import Path

from serving.errors import OnecardError
from serving.ipc.launch import Launch
from serving.ipc.settings import GuardSettings
from serving.machine import hardware
from serving.machine.port import open_socket
from serving.machine.state_dir import make_run_dir
from serving.planning.plan import Plan
from serving.prepare import Prepared, plan_again, prepare
from serving.supervisor import lane, restarts, room, supervisor


def crowded(total_mib: int, free_mib: int) -> hardware.Hardware:
    card = hardware.Gpu(0, "Card", 2 * total_mib, 2 * total_mib - free_mib, "8.6")
    return dataclasses.replace(detected, gpus=(card,))


detected = hardware.detect()


def without_worker(plan: Plan) -> Plan:
    """There is no engine here in whose worker the memory could be measured."""
    kept = {name: value for name, value in plan.engine_args.items() if name != "worker_extension_cls"}
    return plan.model_copy(update={"engine_args": kept})


def replan(prepared: Prepared, launch: Launch, found: hardware.Hardware) -> Plan | None:
    plan = plan_again(prepared, launch, found)
    return without_worker(plan) if plan else None


def named(launch: Launch, name: str) -> Launch:
    """The same under another name."""
    arguments = launch.plan.engine_args | {"served_model_name": [name]}
    return launch.model_copy(update={"plan": launch.plan.model_copy(update={"engine_args": arguments})})


def main() -> int:
    port, drain_s, hang_s = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    restarts.PAUSES_S = (0.0, 0.1, 0.1)
    restarts.MOST_UNREADY = restarts.MOST_CRASHES = 3
    lane.STOP_GRACE_S = 1.0
    shared = os.environ.get("STAND_IN") == "shared"
    prepared = prepare("auto", "demo") if shared else prepare("cpu", "demo", gpu_memory_mib=8192)
    launch = Launch(
        plan=without_worker(prepared.plan),
        model_folder=prepared.resolved.download(),
        default_max_tokens=256,
        host="127.0.0.1",
        port=port,
        run_dir=make_run_dir(port),
        cards=((),) * int(os.environ.get("CARDS", "1")),
        api_keys_file=Path(keys) if (keys := os.environ.get("ONECARD_API_KEYS_FILE")) else None,
        guard=GuardSettings(drain_s=drain_s, hang_timeout_s=hang_s, **json.loads(os.environ.get("GUARD", "{}"))),
    )
    others = tuple(named(launch, name) for name in os.environ.get("OTHERS", "").split())
    if os.environ.get("STAND_IN") == "crowded":
        card = prepared.plan.gpu.model_copy(update={"name": "Card"})
        launch = launch.model_copy(update={"plan": prepared.plan.model_copy(update={"gpu": card})})
        planned = prepared.plan.memory_mib
        needed = planned.total - planned.headroom
        free = iter([*[needed - 1] * (room.SETTLES_AFTER + 3), needed])
        hardware.detect = lambda: crowded(planned.total, next(free, needed))
    room.LOOK_EVERY_S = 1.0
    command = (sys.executable, "-m", "tests.stand_in.server")
    try:
        again = partial(replan, prepared) if shared else lambda *_: None
        once = os.environ.get("STAND_IN") == "once"
        listening = open_socket("127.0.0.1", port)
        asyncio.run(supervisor.Supervisor(launch, listening, command, again, others, until_ready=once).run())
    except OnecardError as error:
        sys.stderr.write(f"onecard: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
