"""What the supervisor hands to the server process: one frozen description of a start, passed as a file.

The supervisor writes the file into the run directory and names it in the environment, where every process of the server (API,
engine, workers) finds it.
"""

import contextlib
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from serving.errors import DiskFullError
from serving.ipc.settings import GuardSettings
from serving.machine import notify
from serving.machine.state_dir import card_dir, write_text
from serving.planning.plan import Plan

ENVIRONMENT_KEY = "ONECARD_LAUNCH"
SUPERVISOR_KEY = "ONECARD_SUPERVISOR_PID"
# The variables by which a user may have configured torch's allocator: today's name and the former one.
ALLOCATOR_KEYS = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}


class Offered(BaseModel):
    """A model that requests may name, by any of its names."""

    model_config = ConfigDict(frozen=True)

    names: tuple[str, ...]
    max_model_len: int


class Launch(BaseModel):
    """`user_argv` is what followed `--` on the command line, verbatim. `typical_s` are the seconds that each step of a start
    took last time. `others` are the models that can take this one's place. `woken_at` is the monotonic time at which a request
    or a command asked for this start, None if none did; `wake_s` is how long the last such start took. `cards` has the NVML
    indices of each server's GPUs, none for whatever CUDA shows first; this server is the one at index `card`."""

    model_config = ConfigDict(frozen=True)

    plan: Plan
    model_folder: Path
    default_max_tokens: int
    host: str
    port: int
    run_dir: Path
    cards: tuple[tuple[int, ...], ...] = ((),)
    card: int = 0
    user_argv: tuple[str, ...] = ()
    allow_image_urls: bool = False
    api_keys_file: Path | None = None
    typical_s: dict[str, float] = {}
    restarts: int = 0
    wakes: int = 0
    swaps: int = 0
    woken_at: float | None = None
    wake_s: float | None = None
    others: tuple[Offered, ...] = ()
    guard: GuardSettings = GuardSettings()

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"

    def of_card(self, card: int) -> "Launch":
        """The same launch for another card, with a folder of its own for log and notes."""
        folder = card_dir(self.home, card)
        folder.mkdir(mode=0o700, exist_ok=True)
        return self.model_copy(update={"card": card, "run_dir": folder})

    @property
    def gpus(self) -> tuple[int, ...]:
        return self.cards[self.card]

    @property
    def card_environment(self) -> dict[str, str]:
        """The environment variables that keep the servers of several cards apart."""
        if self.gpus:  # NVML numbers GPUs by bus; CUDA by speed, unless it is told otherwise
            return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, self.gpus))}
        workers = self.plan.tensor_parallel_size
        cores, share = sorted(os.sched_getaffinity(0)), len(self.cards) * workers
        if share == 1:
            return {}
        # On a CPU, vLLM would bind the threads of all servers to the same cores; unbound, they would wait for each other.
        first = self.card * workers
        own = [cores[place::share] or cores for place in range(first, first + workers)]
        return {"VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, each)) for each in own)}

    @property
    def allocator_share(self) -> float | None:
        """The share of the GPU that torch's allocator may hold: our part of it, less the CUDA context, which the driver holds.
        None where the plan could not predict the parts."""
        plan = self.plan
        if plan.gpu.present_mib is None or not plan.predicted:
            return None
        return min(1.0, (plan.gpu.usable_mib - plan.memory_mib.context) / plan.gpu.present_mib)

    @property
    def home(self) -> Path:
        """The port's folder, shared by the servers of all cards; `run_dir` is this server's own."""
        return self.run_dir.parent if self.card else self.run_dir

    @property
    def timings_key(self) -> str:
        """The name under which the timings of its starts are kept."""
        return f"{self.plan.profile} {self.model_folder}"

    @property
    def model_names(self) -> list[str]:
        return self.plan.model_names

    @property
    def offered(self) -> Offered:
        return Offered(names=tuple(self.model_names), max_model_len=self.plan.capacity.max_model_len)

    @property
    def compiles(self) -> bool:
        """Whether torch compiles anything. An eager model on a CPU does without: vLLM's few small functions are fast enough
        uncompiled, and compiling them costs minutes at the first start and half a minute at the first log probabilities."""
        return not (self.plan.gpu.name == "CPU" and self.plan.engine_args.get("enforce_eager"))

    def write(self, otherwise: Path | None = None) -> Path:
        """Writes `launch.json`, readable by its owner only, into the run directory, or into `otherwise` where that disk is
        full. Raises DiskFullError where both are."""
        for folder in (self.run_dir, otherwise):
            if folder:
                with contextlib.suppress(OSError):
                    file = folder / "launch.json"
                    write_text(file, self.model_dump_json(indent=1))
                    file.chmod(0o600)
                    return file
        raise DiskFullError(f"{self.run_dir / 'launch.json'} cannot be written. Is the disk full? Free some of it.")


def current_launch() -> Launch | None:
    """The launch that this process belongs to; None in a process that onecard did not start."""
    file = os.environ.get(ENVIRONMENT_KEY)
    return Launch.model_validate_json(Path(file).read_text(encoding="utf-8")) if file else None


def child_environment(
    launch_file: Path, ipc_dir: Path, *, has_nvcc: bool, compiles: bool = True, allocator_share: float | None = None
) -> dict[str, str]:
    """The environment of the server process: this process's, with everything switched off that calls home."""
    environment = notify.child_environment(os.environ) | {
        ENVIRONMENT_KEY: str(launch_file),
        SUPERVISOR_KEY: str(os.getpid()),
        # No usage statistics leave the machine; the model is a local folder by now.
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # vLLM finds its own address by connecting a UDP socket to a public one; it needs none but loopback.
        "VLLM_HOST_IP": "127.0.0.1",
        # Pictures come through our connector (media.py).
        "VLLM_MEDIA_CONNECTOR": "onecard",
        # vLLM's IPC sockets go where the supervisor can remove them.
        "VLLM_RPC_BASE_PATH": str(ipc_dir),
        "PYTHONUNBUFFERED": "1",
        # torch opens files of its own in the locale's encoding, and cannot read them in GBK or ASCII.
        "PYTHONUTF8": "1",
        # A tool call that a request demands (instructor and others do) must follow the tool's JSON schema. By default vLLM
        # uses a grammar that only xgrammar understands, and would refuse the request under llguidance (server.py).
        "VLLM_ENFORCE_STRICT_TOOL_CALLING": "0",
        "VLLM_LOGGING_COLOR": "0",
    }
    if not has_nvcc:
        # FlashInfer's sampler compiles CUDA sources at start and kills the engine where there is no compiler (vllm#49497).
        environment.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    if allocator_share and not ALLOCATOR_KEYS & environment.keys():
        # torch's allocator keeps freed memory for later and still takes more, until the desktop has none left. At this limit it
        # returns what it keeps first.
        environment["PYTORCH_ALLOC_CONF"] = f"per_process_memory_fraction:{allocator_share:.5f}"
    if not compiles:
        environment.setdefault("TORCH_COMPILE_DISABLE", "1")
    return environment
