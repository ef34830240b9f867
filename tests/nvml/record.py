"""`python -m tests.nvml.record`, on a machine with an NVIDIA GPU: what NVML tells of its first card, idle and under load,
and with which errors it answers what cannot be answered. Takes half a minute, needs pynvml and nothing else.

Writes tests/nvml/h200/{idle,load,errors}.txt (or into the folder that is named), from which nvml.c tells it again. The load
is CUDA's own memory filling; nothing is set on the card. The UUID is left out of what is kept.
"""

import argparse
import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml

HERE = Path(__file__).parent
_CALM_S, _LOAD_S = 5, 15
_FILLED_BYTES = 2**30
_PLAIN = (
    "nvmlDeviceGetName",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetFanSpeed",
    "nvmlDeviceGetCurrPcieLinkGeneration",
    "nvmlDeviceGetCurrPcieLinkWidth",
    "nvmlDeviceGetMaxPcieLinkWidth",
    "nvmlDeviceGetIndex",
    "nvmlDeviceGetMemoryBusWidth",
)
_WITH_ARGUMENT = {
    "nvmlDeviceGetTemperature": (0,),
    "nvmlDeviceGetTemperatureThreshold": (0, 1),
    "nvmlDeviceGetClockInfo": (1, 2),
    "nvmlDeviceGetMaxClockInfo": (1, 2),
    "nvmlDeviceGetPcieThroughput": (0, 1),
}
_NO_SUCH = 99
_NO_UUID = "GPU-00000000-0000-0000-0000-000000000000"
Lines = Iterator[tuple[str, object]]


def told(function: str, *arguments: object) -> object:
    """The answer of that function, or its error as `!N`."""
    try:
        return getattr(pynvml, function)(*arguments)
    except pynvml.NVMLError as error:
        return f"!{error.value}"


def readings(card: object) -> Lines:
    """Name and value of all that the exporter asks."""
    yield "nvmlInitWithFlags", 0
    yield "nvmlDeviceGetCount_v2", 1
    yield "nvmlDeviceGetHandleByIndex_v2.0", 0
    yield "nvmlSystemGetDriverVersion", pynvml.nvmlSystemGetDriverVersion()
    yield "nvmlDeviceGetUUID", _NO_UUID
    for name in _PLAIN:
        yield name, told(name, card)
    for name, arguments in _WITH_ARGUMENT.items():
        for argument in arguments:
            yield f"{name}.{argument}", told(name, card, argument)
    memory, busy = pynvml.nvmlDeviceGetMemoryInfo(card), pynvml.nvmlDeviceGetUtilizationRates(card)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(card)
    yield "nvmlDeviceGetCudaComputeCapability.major", major
    yield "nvmlDeviceGetCudaComputeCapability.minor", minor
    yield "nvmlDeviceGetMemoryInfo.total", memory.total
    yield "nvmlDeviceGetMemoryInfo.used", memory.used
    yield "nvmlDeviceGetUtilizationRates.gpu", busy.gpu
    yield "nvmlDeviceGetUtilizationRates.memory", busy.memory


def errors(card: object) -> Lines:
    """What cannot be answered, each with its error; ends NVML."""
    yield f"nvmlDeviceGetHandleByIndex_v2.{_NO_SUCH}", told("nvmlDeviceGetHandleByIndex", _NO_SUCH)
    yield "nvmlDeviceGetHandleByUUID", told("nvmlDeviceGetHandleByUUID", _NO_UUID)
    for name in _WITH_ARGUMENT:
        yield f"{name}.{_NO_SUCH}", told(name, card, _NO_SUCH)
    events = pynvml.nvmlEventSetCreate()
    yield "nvmlDeviceRegisterEvents", told("nvmlDeviceRegisterEvents", card, 8, events) or 0
    yield "nvmlEventSetWait_v2", told("nvmlEventSetWait_v2", events, 0)
    pynvml.nvmlShutdown()
    yield "nvmlDeviceGetCount_v2", told("nvmlDeviceGetCount")


@contextmanager
def load() -> Iterator[bool]:
    """Fills memory of the first card again and again meanwhile; yields False where there is no CUDA to do it with."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        yield False
        return

    def must(function: str, *arguments: object) -> None:
        if code := getattr(cuda, function)(*arguments):
            raise OSError(f"{function}: CUDA error {code}")

    device, context, place = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    must("cuInit", 0)
    must("cuDeviceGet", ctypes.byref(device), 0)
    must("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    must("cuCtxSetCurrent", context)
    must("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(_FILLED_BYTES))
    ended = threading.Event()

    def fill() -> None:
        must("cuCtxSetCurrent", context)
        while not ended.is_set():
            for _ in range(50):
                must("cuMemsetD32_v2", place, 0, ctypes.c_size_t(_FILLED_BYTES // 4))
            must("cuCtxSynchronize")

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield True
    finally:
        ended.set()
        thread.join()
        must("cuMemFree_v2", place)
        must("cuDevicePrimaryCtxRelease_v2", device)


def write(file: Path, what: str, ask: Callable[[], Lines]) -> None:
    """One recording, with a first line that says what it is."""
    lines = [
        f"# {what}; recorded {time.strftime('%Y-%m-%d')} by python -m tests.nvml.record",
        *(f"{n} {v}" for n, v in ask()),
    ]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    sys.stdout.write(f"{file}: {len(lines) - 1} lines\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.nvml.record", description="Records what NVML tells.")
    parser.add_argument("into", nargs="?", type=Path, default=HERE / "h200")
    into = parser.parse_args().into
    into.mkdir(parents=True, exist_ok=True)
    pynvml.nvmlInit()
    card = pynvml.nvmlDeviceGetHandleByIndex(0)
    name = pynvml.nvmlDeviceGetName(card)
    time.sleep(_CALM_S)
    write(into / "idle.txt", f"{name}, idle", lambda: readings(card))
    with load() as loaded:
        if loaded:
            time.sleep(_LOAD_S)
            write(into / "load.txt", f"{name}, filling its memory for {_LOAD_S} s", lambda: readings(card))
    write(into / "errors.txt", f"{name}, what cannot be answered", lambda: errors(card))
    if not loaded:
        sys.stderr.write("There is no libcuda.so.1 here, so nothing was recorded under load.\n")
    return 0 if loaded else 1


if __name__ == "__main__":
    sys.exit(main())
