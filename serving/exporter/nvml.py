"""The GPUs as NVML tells of them, as samples of the catalog's metrics.

Owns what is asked and in which units it comes. What one card or driver does not tell (WSL2 tells little) is left out;
what shows that the card is lost makes it `down`. Nothing here raises: a driver that fails is a reading too.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from serving.metrics import catalog
from serving.metrics.catalog import Metric
from serving.metrics.families import Sample

# Labels behind `gpu`, and the value.
Told = Iterable[tuple[tuple[str, ...], float]]

# nvml.h: NVML_CLOCK_SM, NVML_CLOCK_MEM; nvmlClocksEventReason…; NVML_PCIE_UTIL_…; NVML_TEMPERATURE_THRESHOLD_SLOWDOWN.
_CLOCKS = {"sm": 1, "memory": 2}
_REASONS = {"sw_power_cap": 0x4, "hw_slowdown": 0x8, "sw_thermal": 0x20, "hw_thermal": 0x40, "hw_power_brake": 0x80}
_PCIE = {"sent": 0, "received": 1}
_SLOWDOWN = 1
_XID_EVENT = 0x8
# NOT_SUPPORTED, NO_PERMISSION, INVALID_ARGUMENT, NOT_FOUND, FUNCTION_NOT_FOUND: this card or driver does not tell that.
_NOT_TOLD = frozenset({3, 4, 2, 6, 13})


def _one(value: float) -> Told:
    return [((), value)]


# What is read of each card. `nvml` is the module pynvml, `card` its handle.
_ASKED: tuple[tuple[Metric, Callable[[Any, Any], Told]], ...] = (
    (catalog.GPU_MEMORY_TOTAL, lambda nvml, card: _one(nvml.nvmlDeviceGetMemoryInfo(card).total)),
    (catalog.GPU_MEMORY_USED, lambda nvml, card: _one(nvml.nvmlDeviceGetMemoryInfo(card).used)),
    (catalog.GPU_BUSY, lambda nvml, card: _one(nvml.nvmlDeviceGetUtilizationRates(card).gpu / 100)),
    (catalog.GPU_MEMORY_BUSY, lambda nvml, card: _one(nvml.nvmlDeviceGetUtilizationRates(card).memory / 100)),
    (catalog.GPU_TEMPERATURE, lambda nvml, card: _one(nvml.nvmlDeviceGetTemperature(card, 0))),
    (
        catalog.GPU_TEMPERATURE_LIMIT,
        lambda nvml, card: _one(nvml.nvmlDeviceGetTemperatureThreshold(card, _SLOWDOWN)),
    ),
    (catalog.GPU_POWER, lambda nvml, card: _one(nvml.nvmlDeviceGetPowerUsage(card) / 1e3)),
    (catalog.GPU_POWER_LIMIT, lambda nvml, card: _one(nvml.nvmlDeviceGetEnforcedPowerLimit(card) / 1e3)),
    (catalog.GPU_ENERGY, lambda nvml, card: _one(nvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1e3)),
    (
        catalog.GPU_CLOCK,
        lambda nvml, card: [((name,), nvml.nvmlDeviceGetClockInfo(card, kind) * 1e6) for name, kind in _CLOCKS.items()],
    ),
    (
        catalog.GPU_CLOCK_MAX,
        lambda nvml, card: [
            ((name,), nvml.nvmlDeviceGetMaxClockInfo(card, kind) * 1e6) for name, kind in _CLOCKS.items()
        ],
    ),
    (catalog.GPU_THROTTLED, lambda nvml, card: _reasons(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(card))),
    (catalog.GPU_FAN, lambda nvml, card: _one(nvml.nvmlDeviceGetFanSpeed(card) / 100)),
    (
        catalog.GPU_PCIE_BYTES,  # KB/s, over 20 ms in which the call waits
        lambda nvml, card: [
            ((name,), nvml.nvmlDeviceGetPcieThroughput(card, kind) * 1e3) for name, kind in _PCIE.items()
        ],
    ),
    (catalog.GPU_PCIE_GENERATION, lambda nvml, card: _one(nvml.nvmlDeviceGetCurrPcieLinkGeneration(card))),
    (catalog.GPU_PCIE_WIDTH, lambda nvml, card: _one(nvml.nvmlDeviceGetCurrPcieLinkWidth(card))),
    (catalog.GPU_PCIE_WIDTH_MAX, lambda nvml, card: _one(nvml.nvmlDeviceGetMaxPcieLinkWidth(card))),
)


def _reasons(bits: int) -> Told:
    return [((name,), float(bits & bit != 0)) for name, bit in _REASONS.items()]


@dataclass
class Readings:
    """One look at all GPUs. `problem` says in words why NVML does not answer, and is None when it does."""

    problem: str | None = None
    samples: dict[Metric, list[Sample]] = field(default_factory=dict)

    def add(self, metric: Metric, gpu: str, told: Told) -> None:
        self.samples.setdefault(metric, []).extend(((gpu, *labels), float(value)) for labels, value in told)


class Nvml:
    """Reads all GPUs; opens NVML when it can and again after it failed. For one thread."""

    def __init__(self) -> None:
        self._opened = False
        self._events: Any = None
        self._seen: set[str] = set()
        self._xids: dict[tuple[str, str], int] = {}
        self._energy: dict[str, tuple[float, float]] = {}

    def read(self) -> Readings:
        """Never raises for what a driver does."""
        readings = Readings()
        try:
            import pynvml
        except ImportError:
            return Readings(problem="the Python package nvidia-ml-py is not installed")
        try:
            if not self._opened:
                pynvml.nvmlInit()
                self._opened = True
            count = pynvml.nvmlDeviceGetCount()
            self._read_xids(pynvml, count)  # first: what a card died of is known before it fails to answer
            for index in range(count):
                self._read_card(pynvml, str(index), index, readings)
        except pynvml.NVMLError as error:
            self._close(pynvml)
            readings = Readings(problem=str(error))
        up = {labels[0] for labels, _ in readings.samples.get(catalog.GPU_INFO, [])}
        self._seen |= up
        readings.samples[catalog.GPU_UP] = [((gpu,), float(gpu in up)) for gpu in sorted(self._seen)]
        readings.samples[catalog.GPU_XID] = [(labels, float(count)) for labels, count in self._xids.items()]
        return readings

    def _close(self, nvml: Any) -> None:
        self._events = None
        if self._opened:
            self._opened = False
            with contextlib.suppress(nvml.NVMLError):  # what cannot be closed is opened anew all the same
                nvml.nvmlShutdown()

    def _read_card(self, nvml: Any, gpu: str, index: int, readings: Readings) -> None:
        """All that the card tells; nothing of it when it is lost, since half a card would look like a whole one."""
        told = Readings()
        try:
            card = nvml.nvmlDeviceGetHandleByIndex(index)
            what = (str(nvml.nvmlDeviceGetName(card)), str(nvml.nvmlDeviceGetUUID(card)))
            told.add(catalog.GPU_INFO, gpu, [((*what, str(nvml.nvmlSystemGetDriverVersion())), 1)])
            for metric, ask in _ASKED:
                try:
                    told.add(metric, gpu, ask(nvml, card))
                except nvml.NVMLError as error:
                    if error.value not in _NOT_TOLD:
                        raise
        except nvml.NVMLError_GpuIsLost:
            return
        self._sum_energy(gpu, told)
        for metric, samples in told.samples.items():
            readings.samples.setdefault(metric, []).extend(samples)

    def _sum_energy(self, gpu: str, told: Readings) -> None:
        """Where the card does not count its energy: its power times the time since the last look."""
        power = told.samples.get(catalog.GPU_POWER)
        if catalog.GPU_ENERGY in told.samples or not power:
            return
        now, watts = time.monotonic(), power[0][1]
        joules, then = self._energy.get(gpu, (0.0, now))
        joules += watts * (now - then)
        self._energy[gpu] = (joules, now)
        told.add(catalog.GPU_ENERGY, gpu, _one(joules))

    def _read_xids(self, nvml: Any, count: int) -> None:
        """What has been reported since the last look. A card that is lost fails the wait for the errors of all, and some
        drivers report none: that takes no other figure away, and the next look listens anew, to the cards that are left."""
        try:
            if self._events is None:
                self._events = _listen(nvml, count)
            while True:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
                if event.eventType & _XID_EVENT:
                    self._count_xid(nvml, event)
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_TIMEOUT:
                return
            if self._events is not None:
                with contextlib.suppress(nvml.NVMLError):
                    nvml.nvmlEventSetFree(self._events)
            self._events = None

    def _count_xid(self, nvml: Any, event: Any) -> None:
        # A lost card cannot be asked for its index.
        try:
            gpu = str(nvml.nvmlDeviceGetIndex(event.device))
        except nvml.NVMLError:
            gpu = "unknown"
        labels = (gpu, str(event.eventData))
        self._xids[labels] = self._xids.get(labels, 0) + 1


def _listen(nvml: Any, count: int) -> Any:
    """Where the errors of all cards that have any to tell come in."""
    events = nvml.nvmlEventSetCreate()
    for index in range(count):
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlDeviceRegisterEvents(nvml.nvmlDeviceGetHandleByIndex(index), _XID_EVENT, events)
    return events
