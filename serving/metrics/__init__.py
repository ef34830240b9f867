"""Metrics: the end of the way, imported by all and importing only the plan's vocabulary.

    catalog.py     every metric of ours, declared once
    recorder.py    what the server process records, and the functions below
    status.py      what `/onecard/status` says, as metrics
    gpu.py nvml.py the GPU, as NVML sees it
    host.py        the machine around it: disk, memory, processes
    sampled.py     readings taken beside the scrapes, so that a scrape never waits
    families.py    a declaration and values, as prometheus_client wants them
    request.py     what the layers of the guard know of one request
    reference.py   docs/metrics.md

The functions below record into the registry that vLLM exposes on /metrics, so ours stand beside its own.
"""

from collections.abc import Callable
from typing import Any

from prometheus_client import REGISTRY

from serving.metrics.recorder import Recorder
from serving.metrics.status import StatusCollector

_recorder = Recorder(REGISTRY)

record_request = _recorder.record_request
record_first_token = _recorder.record_first_token
record_refusal = _recorder.record_refusal
record_finish = _recorder.record_finish
record_tokens = _recorder.record_tokens
record_in_flight = _recorder.record_in_flight
record_queued = _recorder.record_queued
record_queue_time = _recorder.record_queue_time
record_retry_after = _recorder.record_retry_after
record_image = _recorder.record_image
record_image_step = _recorder.record_image_step
record_image_refused = _recorder.record_image_refused

_status_collectors: list[StatusCollector] = []


def expose_status(status: Callable[[], dict[str, Any]]) -> None:
    """State and plan beside what is recorded. `status` gives the JSON of `/onecard/status` and must not read the registry;
    where there are several (tests), the last one counts."""
    while _status_collectors:
        REGISTRY.unregister(_status_collectors.pop())
    _status_collectors.append(StatusCollector(status))
    REGISTRY.register(_status_collectors[0])
