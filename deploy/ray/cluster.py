"""The Ray cluster: whether Ray is here, whether a cluster answers, has what is asked of it, and still has its head."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from deploy.ray.settings import Settings
from serving.errors import HardwareError, NotInstalledError, NotRunningError, UsageError
from serving.guard.keys import is_open_to_strangers

_CONNECT_S = 5.0
_LOOK_EVERY_S = 2.0
# A head that is busy may miss one.
_MISSED = 3


def require_ray() -> Any:
    """The package. Raises NotInstalledError with the way to it."""
    # Nothing is told to anybody about this machine, and nothing is uploaded from it.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.serve
    except ImportError as error:
        raise NotInstalledError(
            f"Ray Serve is not installed in this environment ({error}). `pip install 'onecard[gpu,ray]'` installs it, and it "
            "must be the same version on every machine of the cluster. One machine needs no Ray: `onecard serve`."
        ) from error
    return ray


def connect(address: str | None) -> Any:
    """The package, connected to the cluster at `address` (HOST:PORT of its head), or to a cluster of this machine alone.
    Raises NotRunningError where no head answers."""
    ray = require_ray()
    if address is None:
        # Ray starts its workers at niceness 15, and a server is no background work.
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(include_dashboard=False, log_to_driver=False)
        return ray
    if not head_answers(address):
        raise NotRunningError(
            f"No Ray head answers at {address}. Start one there with `ray start --head --port {address.rpartition(':')[2]}`, "
            f"and on each other machine `ray start --address {address}`; or leave --address out for this machine alone."
        )
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise NotRunningError(
            f"The Ray head at {address} does not take this program: {error}. Its Ray must be {ray.__version__}; where it "
            "asks for a token (RAY_AUTH_MODE=token), this program needs that variable and the token (`ray get-auth-token`)."
        ) from error
    return ray


def head_answers(address: str) -> bool:
    """Whether something listens at HOST:PORT. Raises UsageError where it is no such thing."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise UsageError(f"--address takes HOST:PORT of the Ray head, as in 10.0.0.1:6379, and not {address!r}.")
    try:
        socket.create_connection((host, int(port)), _CONNECT_S).close()
    except OSError:
        return False
    return True


def check_room(settings: Settings, has: dict[str, float], *, grows: bool = False) -> None:
    """Whether a cluster that `has` so many of each resource carries the replicas. Raises HardwareError."""
    for resource, each, flag in (("GPU", settings.gpus, "gpus"), ("CPU", settings.cpus, "cpus")):
        room = int(has.get(resource, 0) / each) if each else settings.max_replicas
        if settings.min_replicas > room or (settings.max_replicas > room and not grows):
            wanted = settings.min_replicas if settings.min_replicas > room else settings.max_replicas
            raise HardwareError(
                f"{wanted} replicas of {each:g} {resource} need {wanted * each:g}, and the cluster has "
                f"{has.get(resource, 0):g}: it carries {room}. Ask for no more, add machines with `ray start --address`, "
                f"or say --set {flag}=… (no GPU for the profile `cpu`), or --cluster-grows where Ray itself adds machines."
            )


def check_exposure(host: str, api_keys_file: Path | None) -> None:
    """Raises UsageError for an endpoint that other machines reach and that asks for no key."""
    if is_open_to_strangers(host, api_keys_file):
        raise UsageError(
            f"--host {host} opens the endpoint to other machines, and no API key is set: name a file with `name:key` lines by "
            "--set api_keys_file=PATH, which every machine has, or stay on 127.0.0.1."
        )


def watch_head(address: str) -> None:
    """Returns never; raises NotRunningError when the head is lost. Ray itself ends every process a minute later."""
    missed = 0
    while missed < _MISSED:
        time.sleep(_LOOK_EVERY_S)
        missed = 0 if head_answers(address) else missed + 1
    raise NotRunningError(
        f"The Ray cluster has lost its head ({address}): replicas answer for about a minute more and then end, and nothing "
        "starts another. Start the head again and run this command again; a head that must not be lost keeps its state in "
        "Redis (Ray's `external Redis` for GCS fault tolerance)."
    )
