"""`python -m tests.nvml.record > tests/nvml/CARD.txt`, on a machine with an NVIDIA GPU: what NVML tells of its first card.

The lines are those that nvml.c reads. The UUID is left out of what is kept.
"""

import sys
from collections.abc import Callable, Iterator

import pynvml

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


def lines() -> Iterator[tuple[str, object]]:
    """Name and value of each line; an error as `!N`."""

    def told(ask: Callable[[], object]) -> object:
        try:
            return ask()
        except pynvml.NVMLError as error:
            return f"!{error.value}"

    pynvml.nvmlInit()
    card = pynvml.nvmlDeviceGetHandleByIndex(0)
    yield "nvmlInitWithFlags", 0
    yield "nvmlDeviceGetCount_v2", 1
    yield "nvmlDeviceGetHandleByIndex_v2.0", 0
    yield "nvmlSystemGetDriverVersion", pynvml.nvmlSystemGetDriverVersion()
    yield "nvmlDeviceGetUUID", "GPU-00000000-0000-0000-0000-000000000000"
    for name in _PLAIN:
        yield name, told(lambda name=name: getattr(pynvml, name)(card))  # type: ignore[misc]
    for name, arguments in _WITH_ARGUMENT.items():
        for argument in arguments:
            yield f"{name}.{argument}", told(lambda name=name, argument=argument: getattr(pynvml, name)(card, argument))  # type: ignore[misc]
    memory, busy = pynvml.nvmlDeviceGetMemoryInfo(card), pynvml.nvmlDeviceGetUtilizationRates(card)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(card)
    yield "nvmlDeviceGetCudaComputeCapability.major", major
    yield "nvmlDeviceGetCudaComputeCapability.minor", minor
    yield "nvmlDeviceGetMemoryInfo.total", memory.total
    yield "nvmlDeviceGetMemoryInfo.used", memory.used
    yield "nvmlDeviceGetUtilizationRates.gpu", busy.gpu
    yield "nvmlDeviceGetUtilizationRates.memory", busy.memory


if __name__ == "__main__":
    for name, value in lines():
        sys.stdout.write(f"{name} {value}\n")
