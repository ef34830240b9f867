"""The GPUs as metrics, from readings that were taken beside the scrape (sampled.py, nvml.py)."""

from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from serving.exporter.nvml import Readings
from serving.exporter.sampled import Sampled
from serving.metrics import catalog
from serving.metrics.families import counter, gauge


class GpuCollector(Collector):
    """Old readings are not shown: of a driver that hangs only `up` and its errors are told."""

    def __init__(self, readings: Sampled[Readings]) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        last = self._readings.last
        answers = self._readings.fresh and last is not None and last.problem is None
        yield gauge(catalog.NVML_UP, [((), float(answers))])
        if last is None:
            return
        if not self._readings.fresh:
            cards = last.samples.get(catalog.GPU_UP, [])
            yield gauge(catalog.GPU_UP, [(labels, 0.0) for labels, _ in cards])
            # What the driver reported before it hung is why it did, and Prometheus may not have asked since.
            yield counter(catalog.GPU_XID, last.samples.get(catalog.GPU_XID, []))
            return
        for metric in catalog.OF_GPU[1:]:
            if samples := last.samples.get(metric):
                yield (counter if metric.kind == "counter" else gauge)(metric, samples)

    def describe(self) -> Iterable[Metric]:
        """Nothing is read to register it."""
        return ()
