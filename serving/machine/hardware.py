"""What this machine has: GPUs by NVML, memory, cores, and whether it is WSL2. Facts only; planning/ decides."""

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace

from serving.machine.onecards import Onecard, holding
from serving.setup.choose import MIN_DRIVER, driver_branch


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML sees it. Memory in MiB; `used_mib` includes what other programs hold, and `onecards` are those of them
    that are onecards. `bandwidth_gb_s` is the memory's, from its highest clock and its bus width; None where the driver does
    not tell."""

    index: int
    name: str
    total_mib: int
    used_mib: int
    compute_capability: str
    bandwidth_gb_s: float | None = None
    onecards: tuple[Onecard, ...] = ()

    @property
    def free_mib(self) -> int:
        return self.total_mib - self.used_mib

    def holds(self, total_mib: int) -> bool:
        """Whether a card of that much memory can be this one or be imitated on it; drivers keep a little for themselves."""
        return total_mib <= self.total_mib * 1.05


@dataclass(frozen=True)
class Hardware:
    """`nvml_problem` says why `gpus` is empty, in words for a person."""

    gpus: tuple[Gpu, ...]
    driver_version: str | None
    nvml_problem: str | None
    ram_mib: int
    cpu_count: int
    wsl: bool

    def of(self, indices: tuple[int, ...]) -> "Hardware":
        """The machine with these of its GPUs alone, the one with the least memory free first; as it is where none is named.
        Without any where one of them is gone."""
        if not indices:
            return self
        own = sorted((gpu for gpu in self.gpus if gpu.index in indices), key=lambda gpu: gpu.free_mib)
        if len(own) == len(indices):
            return replace(self, gpus=tuple(own))
        return replace(self, gpus=(), nvml_problem=f"of GPU {', '.join(map(str, indices))} not all are there any more")


def detect() -> Hardware:
    """Asks NVML and the operating system. Never fails: what cannot be read is said in `nvml_problem`."""
    import psutil

    gpus: tuple[Gpu, ...] = ()
    driver = problem = None
    try:
        import pynvml

        with _nvml():
            driver = str(pynvml.nvmlSystemGetDriverVersion())
            every = range(pynvml.nvmlDeviceGetCount())
            uuids = [str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))) for index in every]
            gpus = tuple(_read_gpu(index) for index in visible(os.environ.get("CUDA_VISIBLE_DEVICES"), uuids))
        if not gpus:
            problem = "the NVIDIA driver is there, but it reports no GPU"
            problem += " that CUDA_VISIBLE_DEVICES leaves visible" if uuids else ""
    except ImportError:
        problem = "the Python package nvidia-ml-py is not installed"
    except pynvml.NVMLError as error:
        problem = f"the NVIDIA driver does not answer ({error})"
    return Hardware(
        gpus=gpus,
        driver_version=driver,
        nvml_problem=problem,
        ram_mib=psutil.virtual_memory().total // 2**20,
        cpu_count=len(os.sched_getaffinity(0)),
        wsl=in_wsl(),
    )


def visible(told: str | None, uuids: list[str]) -> list[int]:
    """The GPUs that CUDA shows to a process, in its order, by their NVML indices: all, or those that CUDA_VISIBLE_DEVICES
    names by number or UUID, up to the first that is none (CUDA C++ Programming Guide, "CUDA Environment Variables")."""
    if told is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for word in told.split(","):
        name = word.strip()
        named = [index for index, uuid in enumerate(uuids) if name == str(index) or (name and uuid.startswith(name))]
        if len(named) != 1:
            break
        found += named
    return found


def in_wsl() -> bool:
    """Whether this Linux runs inside Windows: its kernel says so."""
    return "microsoft" in platform.release().lower()


def driver_too_old(version: str | None) -> bool:
    """Whether a driver version such as "550.90.07" is older than what vLLM's CUDA 13 builds need."""
    return version is not None and driver_branch(version) < MIN_DRIVER


@contextlib.contextmanager
def _nvml() -> Iterator[None]:
    import pynvml

    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(index: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    name = str(pynvml.nvmlDeviceGetName(handle))
    return Gpu(
        index=index,
        name=name,
        total_mib=int(memory.total) // 2**20,
        used_mib=int(memory.used) // 2**20,
        compute_capability=f"{major}.{minor}",
        bandwidth_gb_s=_bandwidth(handle),
        onecards=holding(name, _held(handle)),
    )


def _held(handle: object) -> dict[int, int]:
    """Bytes by process; 0 where the driver does not tell how many, and nothing where it does not tell which process."""
    import pynvml

    try:
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
    except pynvml.NVMLError:
        return {}
    return {each.pid: each.usedGpuMemory or 0 for each in processes}


def _bandwidth(handle: object) -> float | None:
    """GB/s: two transfers a clock over the whole bus. (RTX 3060: 7,501 MHz × 2 × 192 bits = 360 GB/s.)"""
    import pynvml

    try:
        clock_mhz = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM)
        bits = pynvml.nvmlDeviceGetMemoryBusWidth(handle)
    except pynvml.NVMLError:
        return None
    return round(clock_mhz * 1e6 * 2 * bits / 8 / 1e9, 1) or None
