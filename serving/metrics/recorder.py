"""What the server process records while it works. `serving.metrics` holds the one recorder of the process.

Owns the instruments; not when something is recorded (guard/measure.py, admission, the media connector call it).
A whole request with a picture costs under 20 µs (benchmarks/metrics_cost.py): the child of each label set is looked
up once and kept.
"""

import re
from functools import cache
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.metrics import catalog
from serving.metrics.catalog import Metric

Outcome = Literal["answered", "refused", "failed", "left"]
ImageStep = Literal["fetch", "decode", "process"]

_FINISHES = frozenset({"stop", "length", "tool_calls"})
# Reasons are words of our own code. Should one ever be made of what a client sent, this many series are the most.
_MOST_REASONS = 32
_REASON = re.compile(r"[a-z0-9_]{1,40}")


class Recorder:
    """Registers every metric of `catalog.RECORDED` with `registry`; those without labels are 0 from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(metric: Metric) -> Counter:
            return Counter(metric.name, metric.help, metric.labels, registry=registry)

        def gauge(metric: Metric) -> Gauge:
            return Gauge(metric.name, metric.help, metric.labels, registry=registry)

        def histogram(metric: Metric) -> Histogram:
            return Histogram(metric.name, metric.help, metric.labels, buckets=metric.bounds, registry=registry)

        self._requests = cache(counter(catalog.REQUESTS).labels)
        self._request_seconds = cache(histogram(catalog.REQUEST_SECONDS).labels)
        self._first_token_seconds = cache(histogram(catalog.FIRST_TOKEN_SECONDS).labels)
        self._refusal_seconds = cache(histogram(catalog.REFUSAL_SECONDS).labels)
        self._tokens_per_second = histogram(catalog.TOKENS_PER_SECOND)
        self._tokens = cache(counter(catalog.TOKENS).labels)
        self._answers = cache(counter(catalog.ANSWERS).labels)
        self._in_flight = gauge(catalog.IN_FLIGHT)
        self._queued = gauge(catalog.QUEUED)
        self._queue_seconds = histogram(catalog.QUEUE_SECONDS)
        self._retry_after = histogram(catalog.RETRY_AFTER_SECONDS)
        self._images = counter(catalog.IMAGES)
        self._images_refused = cache(counter(catalog.IMAGES_REFUSED).labels)
        self._image_bytes = histogram(catalog.IMAGE_BYTES)
        pixels, seconds = histogram(catalog.IMAGE_PIXELS), histogram(catalog.IMAGE_SECONDS)
        self._pixels = {stage: pixels.labels(stage) for stage in ("received", "fitted")}
        self._image_seconds: dict[str, Histogram] = {step: seconds.labels(step) for step in get_args(ImageStep)}
        self._reasons: set[str] = set()

    def record_request(self, route: str, key: str, outcome: Outcome, reason: str, seconds: float) -> None:
        """A request has ended. `route` is one of guard/routes.py or "other", `key` the API key's name or "none"."""
        self._requests(route, key, outcome, self._bounded(reason)).inc()
        if outcome == "answered":
            self._request_seconds(route).observe(seconds)

    def record_first_token(self, route: str, seconds: float) -> None:
        """The first byte of a streamed answer has gone out."""
        self._first_token_seconds(route).observe(seconds)

    def record_refusal(self, reason: str, seconds: float) -> None:
        """A refusal has been sent, so long after what was known of the request sufficed for it."""
        self._refusal_seconds(self._bounded(reason)).observe(seconds)

    def record_finish(self, finish: str) -> None:
        """A model's answer is complete; `finish` is its finish_reason."""
        self._answers(finish if finish in _FINISHES else "other").inc()

    def record_tokens(self, key: str, prompt: int, answer: int, decode_seconds: float | None) -> None:
        """What an answer took, by its usage. `decode_seconds` lies between its first byte and its last, where it streamed."""
        self._tokens("prompt", key).inc(prompt)
        self._tokens("answer", key).inc(answer)
        # One token has no speed, and a millisecond is no time to measure one in.
        if decode_seconds is not None and decode_seconds > 0.001 and answer > 1:
            self._tokens_per_second.observe((answer - 1) / decode_seconds)

    def record_in_flight(self, change: int) -> None:
        """+1 when a request for an answer comes in, -1 when it has ended."""
        self._in_flight.inc(change)

    def record_queued(self, change: int) -> None:
        """+1 when an admitted request begins to wait in the guard, -1 when it goes on or gives up."""
        self._queued.inc(change)

    def record_queue_time(self, seconds: float) -> None:
        """An admitted request has waited this long in the guard; 0 where it did not wait."""
        self._queue_seconds.observe(seconds)

    def record_retry_after(self, seconds: float) -> None:
        """A refusal told its client to come back after this long."""
        self._retry_after.observe(seconds)

    def record_image(self, *, received_bytes: int, received_pixels: int, fitted_pixels: int, tokens: int) -> None:
        """A picture is ready for the model. `tokens` is what it costs in the prompt (fitted pixels / 32² for Qwen3-VL)."""
        self._images.inc()
        self._image_bytes.observe(received_bytes)
        self._pixels["received"].observe(received_pixels)
        self._pixels["fitted"].observe(fitted_pixels)
        self._tokens("image", "none").inc(tokens)

    def record_image_step(self, step: ImageStep, seconds: float) -> None:
        """A step on the way to it is done: fetch (base64, or the web), decode, process (turn, tone, fit)."""
        self._image_seconds[step].observe(seconds)

    def record_image_refused(self, reason: str) -> None:
        """A picture was refused: `reason` is a word such as too_many, too_large, format, url_not_allowed, broken."""
        self._images_refused(self._bounded(reason)).inc()

    def _bounded(self, reason: str) -> str:
        if reason not in self._reasons:
            if len(self._reasons) >= _MOST_REASONS or not _REASON.fullmatch(reason):
                return "other"
            self._reasons.add(reason)
        return reason
