"""Metrics: what is counted and measured. The end of the way: every room may record here, and nothing here imports one.

catalog.py       every metric of ours, declared once
recorder.py      what the server process records: the functions below
request.py       what the layers of the guard know of one request
request_log.py   one line a request in the server's log
status.py        what `/onecard/status` says, as metrics
families.py      a declaration and values, as prometheus_client wants them
reference.py     docs/metrics.md

The functions below record into the registry that vLLM exposes on /metrics, so ours stand beside its own. What the GPU and
the machine are doing is the exporter's to tell.
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
